"""The arguments of the sequence-to-sequence recipe, and what they are checked for before anything is loaded.

Two keys hold mappings of their own: `model` (fields of the model's config) and `generation` (fields of
`GenerationConfig`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from transformers import Seq2SeqTrainingArguments, TrainingArguments

from ..evaluation.bleu_tokenizers import check_bleu_tokenizer
from .parsing import argument as _arg
from .parsing import number_or_text, parse, unknown_key

# Below these, a metric of the validation pairs is noise: few n-grams or sentences are right, by chance. Among models
# below them, and against those above, chrF decides, which rises from the first right letters (`metrics_of_outputs`).
NOISE_BELOW = {"bleu": 5.0, "exact_match": 0.05}


@dataclass
class DataArguments:
    """Sentence pairs: where they are and which of them are used."""

    _argument_group_name = "data"

    data: list[str] = _arg(
        ["cldr:en-fr"], "built-in pairs (cldr:en-fr), file(s) (csv, tsv, jsonl, parquet, two texts), or a Hub data set"
    )
    source_column: str = _arg("source", "column of the source texts")
    target_column: str = _arg("target", "column of the target texts")
    validation_data: str | None = _arg(
        None, "file, number or share of validation pairs; by default 5 percent, held out"
    )
    test_data: str | None = _arg(None, "file, number or share of test pairs; by default 5 percent, held out")
    train_size: int | None = _arg(None, "training pairs: made (of the built-in data) or drawn (of any other)")
    max_length_chars: int = _arg(1000, "pairs with a longer side, in characters, are left out and counted")
    max_source_length: int = _arg(128, "source tokens; longer sources are cut and counted")
    max_target_length: int = _arg(128, "target tokens; longer targets are cut and counted")
    prefix: str | None = _arg(
        None, "put before each source, and saved for the pipeline; by default what the model's config gives, as T5's"
    )
    max_eval_samples: int = _arg(200, "validation pairs translated at each evaluation during training")
    max_test_samples: int | None = _arg(None, "test pairs translated at the end; all by default")
    data_config: str | None = _arg(None, "configuration of a Hub data set that has several")
    data_revision: str | None = _arg(None, "branch, tag or commit of a Hub data set")
    data_license: str | None = _arg(None, "licence of your own data, for the card")
    languages: list[str] | None = _arg(
        None, "language codes of your own data, source first: for the card, and BLEU's tokenizer"
    )
    bleu_tokenize: str | None = _arg(
        None,
        "sacreBLEU's tokenizer for BLEU (13a, zh, ja-mecab, ko-mecab, char, ...); by default the target language's",
    )

    def load_options(self) -> dict[str, Any]:
        """Return the arguments of `hf_genai.data.load_pairs`."""
        return {
            "source": self.data[0] if len(self.data) == 1 else self.data,
            "source_column": self.source_column,
            "target_column": self.target_column,
            "validation": number_or_text(self.validation_data),
            "test": number_or_text(self.test_data),
            "train_size": self.train_size,
            "max_length_chars": self.max_length_chars,
            "config_name": self.data_config,
            "revision": self.data_revision,
            "licence": self.data_license,
            "languages": tuple(self.languages) if self.languages else None,
        }


@dataclass
class TokenizerArguments:
    """The tokenizer, trained on the training texts unless one is named."""

    _argument_group_name = "tokenizer"

    tokenizer_name_or_path: str | None = _arg(None, "use this tokenizer instead of training one")
    tokenizer_kind: Literal["byte_bpe", "unigram", "wordpiece", "word", "char"] = _arg("byte_bpe", "algorithm")
    vocab_size: int = _arg(4000, "tokens, the special ones included")
    separate_vocabularies: bool = _arg(False, "one vocabulary for the source, another for the target")
    target_vocab_size: int | None = _arg(None, "tokens of the target's own vocabulary; vocab_size by default")


@dataclass
class ModelArguments:
    """A new model of the given config, or a trained one to go on with."""

    _argument_group_name = "model"

    model: dict = _arg({}, "mapping: model_type and fields of its config; --model.FIELD VALUE on the command line")
    model_name_or_path: str | None = _arg(None, "fine-tune this model; `model` then overrides fields of its config")


@dataclass
class GenerationArguments:
    """How the trained model generates; saved as its generation_config.json."""

    _argument_group_name = "generation"

    generation: dict = _arg({}, "mapping: fields of GenerationConfig; --generation.FIELD VALUE on the command line")


@dataclass
class RecipeTrainingArguments(Seq2SeqTrainingArguments):
    """Seq2SeqTrainingArguments with a recipe's defaults and a few fields of its own."""

    _argument_group_name = "training"

    predict_with_generate: bool = _arg(True, "translate at each evaluation, so that BLEU can choose the best model")
    # Without it, a resumed run forgets how long early stopping has waited.
    restore_callback_states_from_checkpoint: bool = _arg(True, "resume the state of the callbacks too")
    save_total_limit: int | None = _arg(2, "checkpoints kept, the best one always among them")
    # Trainer takes any other word for "random" and says nothing
    train_sampling_strategy: Literal["random", "sequential", "group_by_length", "batch_rebalance"] = _arg(
        "group_by_length", "group_by_length pads least: a batch holds pairs of about one length"
    )
    per_device_train_batch_size: int = _arg(64, "pairs in a training batch, per device")
    per_device_eval_batch_size: int = _arg(64, "pairs in an evaluation batch, per device")
    logging_steps: float = _arg(50, "steps between two log lines; below 1, a share of the training")
    resume_from_checkpoint: str | None = _arg(
        None, "a checkpoint folder, or no value for the last whole one in output_dir", nargs="?", const="true"
    )
    overwrite_output_dir: bool = _arg(False, "allow an output_dir that holds another run; its checkpoints are deleted")
    # Two threads on a busy machine can be forty times slower than one for the small matrices of a small model:
    # the threads spin for each other many thousand times a second. Large models (hidden_size >= 1024) want more.
    num_threads: int = _arg(1, "torch threads on a CPU; 0 leaves torch's own choice")
    early_stopping_patience: int | None = _arg(None, "stop after so many evaluations without a better metric")
    early_stopping_threshold: float = _arg(0.0, "what counts as better")
    num_samples: int = _arg(8, "sample translations shown and written on the card")
    num_attention_maps: int = _arg(3, "test sentences whose attention is drawn")
    model_title: str | None = _arg(None, "title of the model card")
    model_license: str | None = _arg(None, "licence of the weights by its Hub name (apache-2.0), for the card")

    def __post_init__(self):
        check_best_model(self)
        super().__post_init__()
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            raise ValueError(
                f"early_stopping_patience ({self.early_stopping_patience}) needs an eval_strategy of steps or epoch, "
                "got no; give --early_stopping_patience null to train to the end"
            )
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError(f"early_stopping_patience must be at least 1 or null, not {self.early_stopping_patience}")
        if self.early_stopping_patience is not None and self.metric_for_best_model is None:
            raise ValueError("early_stopping_patience needs a metric_for_best_model, such as bleu or loss")
        translates = self.predict_with_generate and not self.prediction_loss_only
        check_training(self, ("loss", "bleu", "chrf", "exact_match") if translates else ("loss",))
        chosen_by = (self.metric_for_best_model or "").removeprefix("eval_")
        if chosen_by in NOISE_BELOW:
            self.metric_for_best_model = f"{chosen_by}_or_chrf"


def check_best_model(training: TrainingArguments) -> None:
    """Refuse to look for the best model without evaluations: TrainingArguments does, and does not say what to set.

    Raises:
        ValueError: says so.
    """
    if training.load_best_model_at_end and training.eval_strategy == "no":
        raise ValueError(
            "eval_strategy=no needs --load_best_model_at_end false: without evaluations, no model is known as the best"
        )


def check_training(training: TrainingArguments, metrics: Sequence[str] = ("loss",)) -> None:
    """Refuse, before anything is loaded, what would fail after hours of training; pin no memory on a CPU.

    Args:
        metrics: that evaluations measure.

    Raises:
        ValueError: pushing without a name or a token, a number outside of what is possible, or a best model by a
            metric that is not measured.
        ImportError: a logger whose package is missing; names its extra.
    """
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if getattr(training, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(training, name)}")
    for name in ("num_train_epochs", "learning_rate", "weight_decay", "num_threads"):
        if not 0 <= getattr(training, name) < math.inf:
            raise ValueError(f"{name} must be a number of at least 0, not {getattr(training, name)}")
    if not 0 <= training.label_smoothing_factor < 1:
        raise ValueError(f"label_smoothing_factor must be from 0 to below 1, not {training.label_smoothing_factor}")
    best = training.metric_for_best_model
    if best is not None and best.removeprefix("eval_") not in metrics:
        raise ValueError(
            f"metric_for_best_model must be one of {', '.join(metrics)}, which are measured, not {best!r}"
        )
    if not training.eval_do_concat_batches:
        raise ValueError("eval_do_concat_batches must be true: the rows are scored together")
    if training.max_steps < 1 and training.max_steps != -1:
        raise ValueError(f"max_steps must be at least 1, or -1 for num_train_epochs, not {training.max_steps}")
    if training.push_to_hub:
        check_push(training.hub_model_id, training.hub_token)
    for name in training.report_to or ():
        if name in ("tensorboard", "trackio") and find_spec(name) is None:
            raise ImportError(f"report_to={name} needs its package: pip install 'hf_genai[{name}]'")
    training.dataloader_pin_memory &= training.device.type != "cpu"  # torch warns of it at each epoch


def check_push(name: str | None, token: str | None = None) -> None:
    """Refuse now what the Hub would refuse after hours of training."""
    import huggingface_hub.utils

    if not name:
        raise ValueError("push_to_hub needs hub_model_id, the model's name on the Hub: --hub_model_id you/name")
    try:
        huggingface_hub.utils.validate_repo_id(name)
    except ValueError as error:
        raise ValueError(f"hub_model_id: {error}") from error
    if not (token or huggingface_hub.get_token()):
        raise ValueError("push_to_hub needs a token: log in with `hf auth login`, or set HF_TOKEN")


def take_token(training: Any, argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Take the Hub's token out of a run's arguments: whatever a run writes is made of them.

    Returns:
        The command line with TOKEN in its place, and the token.
    """
    token, training.hub_token = training.hub_token, None
    return [word.replace(token, "TOKEN") for word in argv] if token else list(argv), token


@dataclass
class RecipeArguments:
    """All groups of one run, with the mapping that reproduces them."""

    data: DataArguments
    tokenizer: TokenizerArguments
    model: ModelArguments
    generation: GenerationArguments
    training: RecipeTrainingArguments
    given: dict[str, Any]
    where: dict[str, str]
    """Where each key of `given` (dotted for nested ones) was set: the YAML file's name or "the command line"."""


def parse_arguments(argv: Sequence[str] | None = None, description: str | None = None) -> RecipeArguments:
    """Read `[CONFIG.yaml] [--key value ...]`; see `parsing.parse`.

    Raises:
        ValueError: for an unknown key or a value of the wrong type; names the key, the value and where it stands.
    """
    groups = (DataArguments, TokenizerArguments, ModelArguments, GenerationArguments, RecipeTrainingArguments)
    parsed = parse(groups, argv, description, "train_seq2seq.py")
    data, tokenizer, model, generation, training = parsed.groups
    values, where = parsed.given, parsed.where
    arguments = RecipeArguments(data, tokenizer, model, generation, training, values, where)
    _check_sets(data, training)
    if data.bleu_tokenize is not None:
        check_bleu_tokenizer(data.bleu_tokenize)
    check_generation(arguments)
    return arguments


def _check_sets(data: DataArguments, training: RecipeTrainingArguments) -> None:
    """Refuse an empty set, or texts without room, now, and not when the trained model is to be scored on it."""
    for key in ("max_source_length", "max_target_length"):
        if getattr(data, key) < 2:
            raise ValueError(f"{key} must be at least 2 (one id and the end token), got {getattr(data, key)}")
    reasons = dict.fromkeys(("test_data", "max_test_samples"), "the trained model is scored on the test pairs")
    if training.eval_strategy != "no":
        strategy = getattr(training.eval_strategy, "value", training.eval_strategy)
        why = f"eval_strategy={strategy} needs validation pairs; else give --eval_strategy no"
        reasons |= dict.fromkeys(("validation_data", "max_eval_samples"), why)
    for key, why in reasons.items():
        value = number_or_text(getattr(data, key))
        if isinstance(value, (int, float)) and value <= 0:
            raise ValueError(f"{key} must be above 0, got {value}: {why}")


def check_generation(arguments: Any) -> None:
    """Refuse a field that GenerationConfig does not have."""
    from transformers import GenerationConfig

    known = [key for key in vars(GenerationConfig()) if not key.startswith("_")]
    for key in arguments.generation.generation:
        if key not in known:
            raise unknown_key(key, known, arguments.where[f"generation.{key}"], "generation.")
