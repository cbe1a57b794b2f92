"""What the pretraining recipe is made of: its arguments, and from raw texts to rows, objective and model."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..data.packing import PackingReport, pack
from ..data.plain_text import control_tokens, encode_text, text_of
from ..data.tokenizers import end_texts
from ..evaluation.baselines import bigram_loss, unigram_loss
from ..loading import load_model
from ..objectives import fill_in_the_middle
from ..objectives.causal_lm import CausalLMCollator
from ..objectives.masked_lm import MaskedLMCollator, word_ids
from ..objectives.prefix_lm import PrefixLMCollator
from ..objectives.span_corruption import SpanCorruptionCollator, length_before, noise_and_spans, sentinel_ids
from .arguments import check_push
from .loop import LoopOptions
from .parsing import argument, parse
from .pretraining_tokenizer import CAUSAL
from .saving import drop_unused_generation

logger = logging.getLogger(__name__)

# objective -> the Auto class of the models that can learn it
AUTO_CLASSES = {
    "clm": "AutoModelForCausalLM",
    "mlm": "AutoModelForMaskedLM",
    "span_corruption": "AutoModelForSeq2SeqLM",
    "prefix_lm": "AutoModelForCausalLM",
    "fim": "AutoModelForCausalLM",
}


@dataclass
class TextArguments:
    """Raw texts: where they are and how they are cut into rows."""

    _argument_group_name = "data"

    data: list[str] = argument(
        ["stdlib:prose"], "stdlib:prose, stdlib:code, file(s) (txt, csv, tsv, jsonl, parquet), or a Hub data set"
    )
    text_column: str = argument("text", "column of the texts")
    validation_data: str = argument("0.05", "share of the texts held out, a file, or a split of a Hub data set")
    max_rows: int | None = argument(None, "at most so many training texts, drawn by the seed")
    row_length: int = argument(128, "tokens of a row, at most; longer texts are cut into several")
    packing: bool = argument(
        True, "put several short texts into one row; they do not see each other, but for span_corruption (as in T5)"
    )
    data_config: str | None = argument(None, "configuration of a Hub data set that has several")
    data_revision: str | None = argument(None, "branch, tag or commit of a Hub data set")
    data_license: str | None = argument(None, "licence of your own data, for the card")
    languages: list[str] | None = argument(None, "language codes of your own data, for the card")


@dataclass
class ObjectiveArguments:
    """What is learned."""

    _argument_group_name = "objective"

    objective: Literal["clm", "mlm", "span_corruption", "prefix_lm", "fim"] = argument(
        "clm", "the next token; masked tokens (BERT); spans (T5); what follows a prefix; the middle (code)"
    )
    mask_prob: float = argument(0.15, "mlm: share of the tokens that are to be predicted")
    whole_words: bool = argument(False, "mlm: mask all tokens of a word together")
    noise_density: float = argument(0.15, "span_corruption: share of the tokens that are taken out")
    mean_span_length: float = argument(3.0, "span_corruption: tokens of a span, on average")
    fim_prob: float = argument(0.5, "fim: share of the texts whose middle is moved to the end")
    spm_prob: float = argument(0.5, "fim: share of these in the order suffix, prefix, middle")


@dataclass
class NewTokenizerArguments:
    """The tokenizer, trained on the training texts unless one is named."""

    _argument_group_name = "tokenizer"

    tokenizer_name_or_path: str | None = argument(None, "use this tokenizer instead of training one")
    tokenizer_kind: Literal["byte_bpe", "unigram", "wordpiece", "word", "char"] = argument("byte_bpe", "algorithm")
    vocab_size: int = argument(4096, "tokens, the special ones included")


@dataclass
class PretrainModelArguments:
    """A new model of the given config, or a trained one to go on with."""

    _argument_group_name = "model"

    model: dict = argument({}, "mapping: model_type and fields of its config; --model.FIELD VALUE on the command line")
    model_name_or_path: str | None = argument(None, "go on with this model instead of a new one")
    model_title: str | None = argument(None, "title of the model card")
    model_license: str | None = argument(None, "licence of the weights by its Hub name (apache-2.0), for the card")


@dataclass
class PretrainLoopArguments(LoopOptions):
    """The training loop; a step's batch has per_device_batch_size x gradient_accumulation_steps x processes rows."""

    _argument_group_name = "training"

    output_dir: str = argument("", "folder of the run")
    max_steps: int = argument(1000, "steps of the optimiser")
    adam_betas: list[float] = argument([0.9, 0.95], "AdamW's two decay rates")  # type: ignore[assignment]
    mixed_precision: Literal["no", "bf16", "fp16"] | None = argument(
        None, "as the profile of `accelerate launch` has it; without one, no"
    )
    num_processes: int | None = argument(None, "refuse to start with another number of processes")
    num_threads: int = argument(1, "torch threads on a CPU; 0 leaves torch's own choice")
    resume_from_checkpoint: str | None = argument(
        None, "a checkpoint folder, or no value for the last one in output_dir", nargs="?", const="true"
    )
    overwrite_output_dir: bool = argument(False, "allow an output_dir that holds another run")
    num_samples: int = argument(5, "samples shown and written on the card")
    push_to_hub: bool = argument(False, "push the folder at the end")
    hub_model_id: str | None = argument(None, "the model's name on the Hub")
    hub_private_repo: bool = argument(False, "make the repository yours alone")
    hub_token: str | None = argument(None, "in place of that of `hf auth login` or HF_TOKEN")
    hub_revision: str | None = argument(None, "branch to push to, made if missing; without one, main")


@dataclass
class PretrainArguments:
    """All groups of one run, with the mapping that reproduces them."""

    data: TextArguments
    objective: ObjectiveArguments
    tokenizer: NewTokenizerArguments
    model: PretrainModelArguments
    training: PretrainLoopArguments
    given: dict[str, Any]
    where: dict[str, str]


def parse_pretrain_arguments(argv: Sequence[str] | None, description: str | None = None) -> PretrainArguments:
    """Read `[CONFIG.yaml] [--key value ...]`; see `parsing.parse`.

    Raises:
        ValueError: an unknown key, or a value that is not possible.
    """
    groups = (
        *(TextArguments, ObjectiveArguments, NewTokenizerArguments, PretrainModelArguments),
        PretrainLoopArguments,
    )
    parsed = parse(groups, argv, description, "pretrain_text.py")
    data, objective, tokenizer, model, training = parsed.groups
    arguments = PretrainArguments(data, objective, tokenizer, model, training, parsed.given, parsed.where)
    for name in ("max_steps", "per_device_batch_size", "gradient_accumulation_steps", "logging_steps"):
        if getattr(training, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(training, name)}")
    if arguments.data.row_length < 8:
        raise ValueError(f"row_length must be at least 8, not {arguments.data.row_length}")
    if training.num_threads < 0:
        raise ValueError(f"num_threads must be at least 0, not {training.num_threads}")
    if training.push_to_hub:
        check_push(training.hub_model_id, training.hub_token)
    return arguments


def check_texts(texts: Dataset, column: str) -> None:
    """Refuse a column of other things than texts.

    Raises:
        ValueError: names the column and what it holds.
    """
    kind = texts.features[column]
    if getattr(kind, "dtype", None) not in ("string", "large_string"):
        raise ValueError(f"text_column: column {column} must hold texts, not {kind}")


def make_rows(
    arguments: PretrainArguments, tokenizer: PreTrainedTokenizerBase, texts: Dataset
) -> tuple[Dataset, PackingReport | None]:
    """Tokenize texts and cut or pack them into rows."""
    data, kind = arguments.data, arguments.objective
    words = kind.objective == "mlm" and kind.whole_words
    if words and data.packing:
        raise ValueError("whole_words=True needs packing=False: words are counted within a text")

    def tokenize(batch: dict[str, list[str]]) -> dict[str, list]:
        encoded = encode_text(tokenizer, batch[data.text_column], verbose=False)
        ids = encoded["input_ids"]
        found = {"input_ids": end_texts(ids, tokenizer.eos_token_id) if kind.objective in CAUSAL else ids}
        return found | (
            {"word_ids": [word_ids(encoded, row) for row in range(len(found["input_ids"]))]} if words else {}
        )

    # texts may be books: few at a time
    rows = texts.map(tokenize, batched=True, batch_size=100, remove_columns=texts.column_names)
    length = row_length(arguments)
    if data.packing and kind.objective != "prefix_lm":
        return pack(rows, length)

    def cut(batch: dict[str, list]) -> dict[str, list]:
        return {
            name: [ids[start : start + length] for ids in column for start in range(0, len(ids), length)]
            for name, column in batch.items()
        }

    least = 2 if kind.objective in ("span_corruption", "prefix_lm") else 1
    rows = rows.map(cut, batched=True).filter(lambda row: len(row["input_ids"]) > least)
    return rows, None


def row_length(arguments: PretrainArguments) -> int:
    """Return the tokens of a row before the objective changes it, so that it has row_length after."""
    kind, length = arguments.objective, arguments.data.row_length
    if kind.objective == "span_corruption":
        return length_before(length, kind.noise_density, kind.mean_span_length)
    return length - 3 if kind.objective == "fim" else length


def make_collator(arguments: PretrainArguments, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict]], dict]:
    """Return what makes a batch of rows.

    Raises:
        ValueError: settings of the objective that are not possible, or rows of more spans than sentinels.
    """
    kind = arguments.objective
    if kind.objective == "mlm":
        return MaskedLMCollator(tokenizer, kind.mask_prob, whole_words=kind.whole_words)
    if kind.objective == "span_corruption":
        collate = SpanCorruptionCollator(tokenizer, kind.noise_density, kind.mean_span_length)
        _, spans = noise_and_spans(row_length(arguments), kind.noise_density, kind.mean_span_length)
        if spans > (number := len(sentinel_ids(tokenizer))):
            raise ValueError(
                f"row_length ({arguments.data.row_length}), noise_density ({kind.noise_density}) and mean_span_length"
                f" ({kind.mean_span_length}) make rows of {spans} spans, but the tokenizer has {number} sentinels"
            )
        return collate
    if kind.objective == "fim":
        return fill_in_the_middle.FillInTheMiddleCollator(tokenizer, kind.fim_prob, kind.spm_prob)
    pad: Any = tokenizer.pad_token_id
    return PrefixLMCollator(pad) if kind.objective == "prefix_lm" else CausalLMCollator(pad)


def check_fit(model: Any, tokenizer: PreTrainedTokenizerBase, arguments: PretrainArguments) -> None:
    """Refuse a model that the tokenizer or the rows do not fit.

    Raises:
        ValueError: more token ids than the model has, or rows longer than its positions.
    """
    config, largest = model.config, max(tokenizer.get_vocab().values())
    if largest >= config.vocab_size:
        raise ValueError(f"the tokenizer has ids up to {largest}, but the model a vocab_size of {config.vocab_size}")
    room = getattr(config, "max_position_embeddings", None)
    learned = getattr(config, "position_embedding_type", "learned") == "learned"
    if room and learned and arguments.data.row_length > room:
        raise ValueError(
            f"row_length ({arguments.data.row_length}) must be at most the model's max_position_embeddings ({room})"
        )
    if config.model_type == "genai_rnn" and arguments.data.packing:
        raise ValueError("packing must be false for a recurrent model: its state would leak from text to text")


def new_model(arguments: PretrainArguments, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the model to train: a new one, whose vocabulary and special ids are the tokenizer's, or the one named.

    Raises:
        ValueError: a model that cannot learn the objective, or whose loss does not divide by the tokens of a whole
            batch, as those of other packages may not.
    """
    import transformers

    from ..conversion import from_transformers
    from .model_config import build_config, check_model_type

    objective, name = arguments.objective.objective, arguments.model.model_name_or_path
    auto = getattr(transformers, AUTO_CLASSES[objective])
    config = transformers.AutoConfig.from_pretrained(name) if name else build_config(arguments, tokenizer, tokenizer)
    without = ["genai_rnn"] if objective == "prefix_lm" else []
    check_model_type(config, auto, objective, without, foreign=name is not None)
    if name is None:
        return auto.from_config(config)
    model = load_model(auto, name, new_heads=True)
    model = model if config.model_type.startswith("genai") else from_transformers(model)
    if model.can_generate():
        drop_unused_generation(model)
    return model


def seen_by_the_model(objective: str, rows: Dataset, collate: Callable[[list[dict]], dict]) -> Iterator[list[int]]:
    """Yield the texts whose next tokens are predicted, as the objective has them; of others, the predicted tokens.

    Sentinels count as one token, since their order is known.
    """
    sentinels = torch.tensor(sentinel_ids(collate.tokenizer) if isinstance(collate, SpanCorruptionCollator) else [0])
    if hasattr(collate, "generator"):
        collate.generator = torch.Generator().manual_seed(0)
    for start in range(0, len(rows), 64):
        batch = collate([rows[place] for place in range(start, min(start + 64, len(rows)))])
        for place, labels in enumerate(batch["labels"]):
            if objective not in ("clm", "fim"):
                labels = labels[labels != -100]
                yield torch.where(torch.isin(labels, sentinels), sentinels[0], labels).tolist()
                continue
            ids, starts = batch["input_ids"][place], (batch["position_ids"][place] == 0).nonzero().flatten().tolist()
            for begin, end in zip(starts, [*starts[1:], len(ids)], strict=True):
                if (labels[begin:end] != -100).any():  # else it is padding, or a token alone
                    yield ids[begin:end].tolist()


def baselines(
    objective: str, train: Dataset, validation: Dataset, collate: Callable[[list[dict]], dict], vocab_size: int
) -> dict[str, dict[str, float]]:
    """Return the losses, in nats per token, that need no training, on the tokens that the model predicts.

    They are those of single tokens and, where next tokens are predicted, of pairs.
    """
    held_out = list(seen_by_the_model(objective, validation, collate))
    causal = objective in ("clm", "fim")
    predicted = [text[1:] for text in held_out] if causal else held_out
    texts = seen_by_the_model(objective, train, collate)
    found = {"single tokens' frequencies": unigram_loss(texts, predicted, vocab_size)}
    if causal:
        texts = seen_by_the_model(objective, train, collate)
        found["pairs of tokens (bigram)"] = bigram_loss(texts, held_out, vocab_size)
    return {name: {"loss": round(loss, 4), "perplexity": round(math.exp(loss), 2)} for name, loss in found.items()}


@torch.no_grad()
def samples(
    model: Any, tokenizer: PreTrainedTokenizerBase, objective: str, rows: Dataset, collate, count: int
) -> list:
    """Return (what the model was given, what stood there, what it wrote) of the first held-out rows."""
    model.eval()
    control = set() if objective in CAUSAL else set(control_tokens(tokenizer).values())
    gaps: list[Any] = (
        sentinel_ids(tokenizer) if objective == "span_corruption" else [getattr(tokenizer, "mask_token_id", None)]
    )
    found: list[tuple[str, ...]] = []
    for row in rows.select(range(min(count, len(rows)))):
        ids = row["input_ids"][: row["lengths"][0]] if "lengths" in row else row["input_ids"]
        if objective in CAUSAL:
            half = max(len(ids) // 2, 1)
            prompt = torch.tensor([ids[:half]], device=model.device)
            made = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False)
            parts = [text_of(tokenizer, part) for part in (ids[:half][-20:], ids[half : half + 20], made[0, half:])]
        else:
            if hasattr(collate, "generator"):
                collate.generator = torch.Generator().manual_seed(len(found))
            example = {name: row[name][: min(len(ids), 40)] for name in ("input_ids", "word_ids") if name in row}
            batch = {name: value.to(model.device) for name, value in collate([example]).items()}
            labels = batch.pop("labels")[0]
            given = [token for token in batch["input_ids"][0].tolist() if token in gaps or token not in control]
            if objective == "mlm":
                chosen = labels != -100
                logits = model(**batch).logits[0, chosen]
                logits[:, list(control)] = -math.inf  # a word is asked for
                answers = [text_of(tokenizer, part) for part in (labels[chosen], logits.argmax(-1))]
            else:
                made = model.generate(**batch, max_new_tokens=len(labels) + 8, do_sample=False)
                answers = [_spans(tokenizer, part.tolist(), gaps) for part in (labels, made[0])]
            parts = [str(tokenizer.decode(given)), *answers]
        found.append(tuple(parts))
    return found


def _spans(tokenizer: PreTrainedTokenizerBase, ids: list[int], sentinels: list[int]) -> str:
    """Return the texts behind the sentinels, " | " between them."""
    spans: list[list[int]] = [[]]
    for token in ids:
        if token in sentinels:
            spans.append([])
        else:
            spans[-1].append(token)
    texts = [text_of(tokenizer, span).strip() for span in spans]
    return " | ".join(texts if texts[0] else texts[1:])
