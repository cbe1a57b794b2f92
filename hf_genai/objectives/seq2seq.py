"""Sequence to sequence: a source text is encoded, and the target text is learned token by token."""

from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorForSeq2Seq, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.tokenizers import encode_cut

_NO_LIMIT = 10**6  # transformers writes "no limit" as a model_max_length of 1e30


@dataclass(frozen=True)
class TruncationReport:
    """How many texts were cut, and at how many ids (None: nowhere)."""

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
    """Turn the columns `source` and `target` (text) into `input_ids`, `labels` and `length`.

    `length` is the number of ids of both together: what batches of similar cost are grouped by. A text that is too
    long keeps its beginning and its special tokens, so a cut target still ends in </s>.

    Args:
        dataset: with the columns `source` and `target`.
        source_tokenizer: of the source, and of the target where `target_tokenizer` is None.
        target_tokenizer: of the target.
        max_source_length, max_target_length: in ids, special tokens included; None takes the tokenizer's
            `model_max_length`, where that is a limit.
        prefix: put before each source.

    Returns:
        The tokenized dataset and how many texts were cut.

    Raises:
        ValueError: missing columns, or a limit that leaves no room beside the special tokens.
    """
    if missing := {"source", "target"} - set(dataset.column_names):
        raise ValueError(f"dataset lacks the columns {sorted(missing)}; it has {dataset.column_names}")
    target_tokenizer = target_tokenizer or source_tokenizer
    max_source_length = _limit("max_source_length", max_source_length, source_tokenizer)
    max_target_length = _limit("max_target_length", max_target_length, target_tokenizer)
    cut = {"source": 0, "target": 0}

    def tokenize(batch: dict[str, list[str]]) -> dict[str, list]:
        sources, long_sources = encode_cut(
            source_tokenizer, [prefix + source for source in batch["source"]], max_source_length
        )
        targets, long_targets = encode_cut(target_tokenizer, batch["target"], max_target_length, "text_target")
        cut["source"] += len(long_sources)
        cut["target"] += len(long_targets)
        length = [len(source) + len(target) for source, target in zip(sources, targets, strict=True)]
        return {"input_ids": sources, "labels": targets, "length": length}

    # In memory, as the counts are a side effect, which a result read from the cache would not repeat.
    tokenized = dataset.map(tokenize, batched=True, remove_columns=dataset.column_names, keep_in_memory=True)
    return tokenized, TruncationReport(
        len(dataset), cut["source"], cut["target"], max_source_length, max_target_length
    )


@dataclass
class Seq2SeqCollator:
    """Pad a list of examples into one batch, on the side that the tokenizer pads.

    With pad 0, <s> 1 (the decoder's start) and </s> 2, the examples

        {"input_ids": [5, 6, 2], "labels": [7, 2], "length": 5}
        {"input_ids": [8, 2], "labels": [9, 10, 2], "length": 5}

    become (`length` has served its purpose and is left out)

        input_ids          [[5, 6, 2], [8, 2, 0]]
        attention_mask     [[1, 1, 1], [1, 1, 0]]
        labels             [[7, 2, -100], [9, 10, 2]]     -100 is ignored by the loss
        decoder_input_ids  [[1, 7, 2], [1, 9, 10]]        only with a `model`, which shifts the labels right itself

    Args:
        tokenizer: the source's; labels are padded with -100, so the target's is not needed.
        model: makes `decoder_input_ids`; without it a model makes them from `labels` in its forward.
        pad_to_multiple_of: lengths to round up to, for example 8 for tensor cores.
    """

    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel | None = None
    pad_to_multiple_of: int | None = None

    def __post_init__(self) -> None:
        self._pad = DataCollatorForSeq2Seq(self.tokenizer, self.model, pad_to_multiple_of=self.pad_to_multiple_of)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        if not examples:
            raise ValueError("examples is empty; a batch needs at least one")
        return self._pad(
            [{name: value for name, value in example.items() if name != "length"} for example in examples]
        )


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Check that a model has a row for every id of its tokenizers and means the same by padding and end.

    Raises:
        ValueError: an id beyond the vocabulary (which would index out of range in the middle of training), or another
            `pad_token_id` or `eos_token_id` in the config.
    """
    for name, which, own in (
        ("tokenizer", tokenizer, "source_vocab_size"),  # genai_rnn: the encoder's, where it has its own
        ("target_tokenizer", target_tokenizer or tokenizer, "decoder_vocab_size"),  # marian: the decoder's
    ):
        size_name = own if getattr(config, own, None) else "vocab_size"
        size = getattr(config, size_name)
        largest = max(which.get_vocab().values())
        if largest >= size:
            raise ValueError(
                f"{name} has ids up to {largest}, so {size_name} must be at least {largest + 1}, got {size}"
            )
        for token in ("pad_token_id", "eos_token_id"):
            ours, theirs = getattr(which, token), getattr(config, token, None)
            if ours != theirs:
                raise ValueError(f"{name} has {token} {ours} but the model's config has {theirs}; they must be equal")


def _limit(argument: str, value: int | None, tokenizer: PreTrainedTokenizerBase) -> int | None:
    if value is None:
        return tokenizer.model_max_length if tokenizer.model_max_length < _NO_LIMIT else None
    least = tokenizer.num_special_tokens_to_add() + 1
    if value < least:
        raise ValueError(f"{argument} must be at least {least} (one id and the special tokens), got {value}")
    return value
