"""Sequence to sequence: the encoder reads a source text, and the decoder predicts the target text."""

from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorForSeq2Seq, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.tokenizers import encode_cut

_NO_LIMIT = 10**6  # transformers writes "no limit" as a model_max_length of 1e30


@dataclass(frozen=True)
class TruncationReport:
    """Number of pairs and of truncated texts, and the limits in ids (None: no limit)."""

    num_pairs: int
    truncated_sources: int
    truncated_targets: int
    max_source_length: int | None
    max_target_length: int | None

    def __str__(self) -> str:
        return (
            f"{self.num_pairs:,} pairs: {self.truncated_sources:,} sources cut at {self.max_source_length} ids, "
            f"{self.truncated_targets:,} targets at {self.max_target_length}"
        )


def tokenize_pairs(
    dataset: Dataset,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
    max_source_length: int | None = None,
    max_target_length: int | None = None,
    prefix: str = "",
) -> tuple[Dataset, TruncationReport]:
    """Tokenize the columns `source` and `target` (text) into `input_ids`, `labels` and `length`.

    `length` is the number of ids of source and target; Trainer groups rows of similar length by it. Truncation keeps
    the beginning and the special tokens of a text, so that a truncated target still ends in </s>.

    Args:
        dataset: has the columns `source` and `target`.
        source_tokenizer: tokenizer of the source, and of the target if `target_tokenizer` is None.
        target_tokenizer: tokenizer of the target.
        max_source_length, max_target_length: maximum number of ids, special tokens included. None: the tokenizer's
            `model_max_length`, if the tokenizer sets one.
        prefix: text before each source.

    Returns:
        The tokenized dataset and the number of truncated texts.

    Raises:
        ValueError: missing columns, or a limit that leaves no room beside the special tokens.
    """
    if missing := {"source", "target"} - set(dataset.column_names):
        raise ValueError(f"dataset lacks the columns {sorted(missing)}; columns found: {dataset.column_names}")
    target_tokenizer = target_tokenizer or source_tokenizer
    max_source_length = _limit("max_source_length", max_source_length, source_tokenizer)
    max_target_length = _limit("max_target_length", max_target_length, target_tokenizer)
    num_truncated = {"source": 0, "target": 0}

    def tokenize(batch: dict[str, list[str]]) -> dict[str, list]:
        sources, long_sources = encode_cut(
            source_tokenizer, [prefix + source for source in batch["source"]], max_source_length
        )
        targets, long_targets = encode_cut(target_tokenizer, batch["target"], max_target_length, "text_target")
        num_truncated["source"] += len(long_sources)
        num_truncated["target"] += len(long_targets)
        length = [len(source) + len(target) for source, target in zip(sources, targets, strict=True)]
        return {"input_ids": sources, "labels": targets, "length": length}

    # In memory: the counts are a side effect, which a cached result would skip.
    tokenized = dataset.map(tokenize, batched=True, remove_columns=dataset.column_names, keep_in_memory=True)
    return tokenized, TruncationReport(
        num_pairs=len(dataset),
        truncated_sources=num_truncated["source"],
        truncated_targets=num_truncated["target"],
        max_source_length=max_source_length,
        max_target_length=max_target_length,
    )


@dataclass
class Seq2SeqCollator:
    """Pad a list of examples into a batch, on the tokenizer's padding side.

    With pad 0, <s> 1 (the decoder's start) and </s> 2, the examples

        {"input_ids": [5, 6, 2], "labels": [7, 2], "length": 5}
        {"input_ids": [8, 2], "labels": [9, 10, 2], "length": 5}

    become (without `length`)

        input_ids          [[5, 6, 2], [8, 2, 0]]
        attention_mask     [[1, 1, 1], [1, 1, 0]]
        labels             [[7, 2, -100], [9, 10, 2]]     -100 is ignored by the loss
        decoder_input_ids  [[1, 7, 2], [1, 9, 10]]        only with a `model`, which shifts the labels right

    Args:
        tokenizer: tokenizer of the source. Labels are padded with -100, so no target tokenizer is needed.
        model: makes `decoder_input_ids`. None: the model makes `decoder_input_ids` from `labels` in its forward.
        pad_to_multiple_of: round the row lengths up to a multiple, for example 8 for tensor cores.

    Raises:
        ValueError: no example.
    """

    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel | None = None
    pad_to_multiple_of: int | None = None

    def __post_init__(self) -> None:
        self._pad = DataCollatorForSeq2Seq(self.tokenizer, self.model, pad_to_multiple_of=self.pad_to_multiple_of)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        if not examples:
            raise ValueError("examples must hold at least one example, not 0")
        return self._pad(
            [{name: value for name, value in example.items() if name != "length"} for example in examples]
        )


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Check that a model has an embedding for every id of its tokenizers and the same padding and end tokens.

    Raises:
        ValueError: an id beyond the vocabulary (training would fail at the first batch that contains it), or a
            `pad_token_id` or `eos_token_id` of the config that differs from the tokenizer's.
    """
    for name, checked, size_field in (
        ("tokenizer", tokenizer, "source_vocab_size"),  # genai_rnn with separate vocabularies
        ("target_tokenizer", target_tokenizer or tokenizer, "decoder_vocab_size"),  # marian
    ):
        size_name = size_field if getattr(config, size_field, None) else "vocab_size"
        size = getattr(config, size_name)
        largest = max(checked.get_vocab().values())
        if largest >= size:
            raise ValueError(
                f"{name} has ids up to {largest}, so {size_name} must be at least {largest + 1}, not {size}"
            )
        for token in ("pad_token_id", "eos_token_id"):
            tokenizer_id, config_id = getattr(checked, token), getattr(config, token, None)
            if tokenizer_id != config_id:
                raise ValueError(
                    f"{name} has {token} {tokenizer_id} but the model's config has {config_id}; both must be equal"
                )


def _limit(argument: str, value: int | None, tokenizer: PreTrainedTokenizerBase) -> int | None:
    if value is None:
        return tokenizer.model_max_length if tokenizer.model_max_length < _NO_LIMIT else None
    least = tokenizer.num_special_tokens_to_add() + 1
    if value < least:
        raise ValueError(f"{argument} must be at least {least} (one id and the special tokens), not {value}")
    return value
