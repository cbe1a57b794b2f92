"""What the fine-tuning recipe is made of: its arguments, its data, and the card of a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from datasets import ClassLabel, Dataset, Features, List, Value
from pyarrow import ArrowInvalid
from transformers import TrainingArguments

from ..cards import CardData
from ..data.plain_text import join_words
from ..data.texts import TextData, load_texts
from ..objectives.dialogue import as_messages
from ..objectives.question_answering import unanswered_as_empty
from .arguments import GenerationArguments, check_best_model, check_generation, check_training
from .card import data_fields, flat_settings, license_of_weights, name_on_hub, pipeline_usage, prefix_setting
from .finetuning_tasks import TASKS
from .parsing import argument, number_or_text, parse


@dataclass
class TaskArguments:
    """What is learned, and from which rows."""

    _argument_group_name = "data"

    task: Literal["classification", "tagging", "qa", "summarisation", "dialogue", "code"] = argument(
        "classification", "label a text, label its words, find answers, shorten, talk, continue code"
    )
    data: list[str] = argument([], "built-in rows, file(s) or a Hub data set; by default the task's built-in rows")
    columns: dict = argument({}, "mapping: the names that the data has for the task's columns, such as {text: review}")
    validation_data: str = argument("0.1", "share of the rows, a file or a split: scored during training")
    test_data: str = argument("0.1", "the same, scored at the end")
    max_rows: int | None = argument(None, "at most so many training rows, drawn by the seed")
    max_length: int = argument(128, "tokens of a text; longer ones are cut (qa: come in windows; code: in pieces)")
    max_target_length: int = argument(32, "summarisation: tokens of a summary")
    prefix: str | None = argument(
        None, "summarisation: put before each text, and saved for the pipeline; by default as the model's config says"
    )
    stride: int = argument(32, "qa: tokens that two windows share")
    data_config: str | None = argument(None, "configuration of a Hub data set that has several")
    data_revision: str | None = argument(None, "branch, tag or commit of a Hub data set")
    data_license: str | None = argument(None, "licence of your own data, for the card")
    languages: list[str] | None = argument(
        None, "language codes of your own data, for the card; a single one also says which articles and endings count"
    )


@dataclass
class StartArguments:
    """The model to start from."""

    _argument_group_name = "model"

    model_name_or_path: str | None = argument(None, "a pretrained model of ours, or a BERT, GPT-2, Llama or T5")
    model: dict = argument({}, "mapping: model_type and fields of the config of a new model, to train from scratch")
    tokenizer_name_or_path: str | None = argument(None, "by default the model's; of a new model, one is trained")
    vocab_size: int = argument(4096, "tokens of a tokenizer that is trained here")
    model_title: str | None = argument(None, "title of the model card")
    model_license: str | None = argument(None, "licence of the weights by its Hub name (apache-2.0), for the card")


@dataclass
class FineTuningArguments(TrainingArguments):
    """TrainingArguments with the recipe's defaults and a few fields of its own."""

    _argument_group_name = "training"

    per_device_train_batch_size: int = argument(16, "rows in a training batch, per device")
    per_device_eval_batch_size: int = argument(32, "rows in an evaluation batch, per device")
    learning_rate: float = argument(5e-4, "peak learning rate")
    num_train_epochs: float = argument(3.0, "passes over the training rows")
    warmup_steps: float = argument(0.1, "below 1: a share of all steps")
    logging_steps: float = argument(50, "steps between two log lines; below 1, a share of the training")
    eval_strategy: str = argument("epoch", "no, steps or epoch")
    save_strategy: str = argument("epoch", "no, steps or epoch")
    save_total_limit: int | None = argument(1, "checkpoints kept, the best one always among them")
    load_best_model_at_end: bool = argument(True, "end with the checkpoint of the lowest validation loss")
    resume_from_checkpoint: str | None = argument(
        None, "a checkpoint folder, or no value for the last whole one in output_dir", nargs="?", const="true"
    )
    overwrite_output_dir: bool = argument(False, "allow an output_dir that holds another run")
    num_threads: int = argument(1, "torch threads on a CPU; 0 leaves torch's own choice")

    def __post_init__(self):
        check_best_model(self)
        super().__post_init__()
        if self.prediction_loss_only:
            raise ValueError("prediction_loss_only must be false: the trained model's predictions are scored")
        check_training(self)


@dataclass
class FineTuneArguments:
    """All groups of one run, with the mapping that reproduces them."""

    data: TaskArguments
    model: StartArguments
    generation: GenerationArguments
    training: FineTuningArguments
    given: dict[str, Any]
    where: dict[str, str]


def parse_finetune_arguments(argv: Sequence[str] | None, description: str | None = None) -> FineTuneArguments:
    """Read `[CONFIG.yaml] [--key value ...]`; see `parsing.parse`.

    Raises:
        ValueError: an unknown key, or values that do not go together.
    """
    groups = (TaskArguments, StartArguments, GenerationArguments, FineTuningArguments)
    parsed = parse(groups, argv, description, "finetune_text.py")
    data, model, generation, training = parsed.groups
    if (model.model_name_or_path is None) == (not model.model):
        raise ValueError(
            "give model_name_or_path (a pretrained model) or model (fields of a new one), not"
            f" {'neither' if not model.model else 'both'}"
        )
    for name, least in {"max_length": 2, "max_target_length": 2, "stride": 0}.items():
        if getattr(data, name) < least:
            raise ValueError(f"{name} must be at least {least}, not {getattr(data, name)}")
    if training.label_smoothing_factor and data.task == "qa":
        raise ValueError(
            f"label_smoothing_factor must be 0 for qa, not {training.label_smoothing_factor}: the places of an answer"
            " are learned as they are"
        )
    if data.prefix is not None and data.task != "summarisation":
        raise ValueError(f"prefix: is for summarisation, not for {data.task}, got {data.prefix!r}")
    unknown = set(data.columns) - set(TASKS[data.task].columns)
    if unknown:
        raise ValueError(
            f"columns: {', '.join(sorted(unknown))} is no column of {data.task}, which has"
            f" {', '.join(TASKS[data.task].columns)}"
        )
    names = list(data.columns.values())
    if wrong := [name for name in names if not isinstance(name, str) or names.count(name) > 1]:
        raise ValueError(f"columns: each must be the name of a column of its own, not {wrong[0]!r}")
    arguments = FineTuneArguments(data, model, generation, training, parsed.given, parsed.where)
    check_generation(arguments)
    writes = [
        name for name, task in TASKS.items() if task.auto_class in ("AutoModelForSeq2SeqLM", "AutoModelForCausalLM")
    ]
    if generation.generation and data.task not in writes:
        raise ValueError(f"generation: nothing is generated in {data.task}, but in {', '.join(writes)}")
    return arguments


def load_rows(data: TaskArguments, seed: int) -> TextData:
    """Load the task's rows, their columns named as the task names them.

    Raises:
        ValueError: missing columns, values that are missing or no texts where texts should be, or a split without
            rows.
    """
    task = TASKS[data.task]
    names = [data.columns.get(column, column) for column in task.columns]
    loaded = load_texts(
        (data.data[0] if len(data.data) == 1 else data.data) or task.built_in,
        columns=names,
        optional=task.optional_columns,
        key=names[1] if data.task == "qa" else names[0],  # questions about one text stay together
        validation=number_or_text(data.validation_data),
        test=number_or_text(data.test_data),
        max_rows=data.max_rows,
        seed=seed,
        config_name=data.data_config,
        revision=data.data_revision,
        licence=data.data_license,
        languages=data.languages or (),
        reshape=None if "messages" in data.columns else task.reshape,
    )
    for split in ("train", "validation", "test"):
        rows = getattr(loaded, split)
        if not len(rows):
            setting = "data" if split == "train" else f"{split}_data"
            raise ValueError(
                f"{split}: no row is left (of {getattr(data, setting)}); the recipe trains, chooses and scores on all"
                f" three splits: give --{setting} a larger share or a file"
            )
        mapping = {old: new for old, new in zip(names, task.columns, strict=True) if old != new}
        rows = _with_class_names(rows.rename_columns(mapping))
        location_of = partial(loaded.location, split)
        if "answer_start" in task.columns:
            rows = unanswered_as_empty(rows, location_of)
        if "answer_start" in task.columns and rows.features["answer_start"].dtype == "string":  # as a .csv has it
            try:
                rows = rows.cast_column("answer_start", Value("int64"))
            except ArrowInvalid as error:
                place = data.columns.get("answer_start", "answer_start")
                raise ValueError(f"{loaded.names[split]}, {split}: column {place}: {error}") from error
        for column in task.columns:
            _check_column(rows, column, f"column {data.columns.get(column, column)}", location_of)
        setattr(loaded, split, rows)
        if "label" in task.columns:
            _check_labels(rows["label"], loaded.train[0]["label"], location_of)
    return loaded


def _with_class_names(rows: Dataset) -> Dataset:
    """Return rows with names in place of class numbers, where the data set itself says what the classes are called."""
    for column, kind in rows.features.items():
        inner = getattr(kind, "feature", kind)
        if not isinstance(inner, ClassLabel):
            continue

        def named(value: Any, names: list[str] = inner.names) -> Any:
            if isinstance(value, list):
                return [named(own) for own in value]
            return None if value in (None, -1) else names[value]  # -1: a row without a label, as benchmarks have

        text = Value("string")
        rows = rows.map(
            lambda batch, column=column, named=named: {column: [named(value) for value in batch[column]]},
            batched=True,
            features=Features({**rows.features, column: text if inner is kind else List(text)}),
        )
    return rows


def _check_column(rows: Any, column: str, name: str, location_of: Callable[[int], str]) -> None:
    """Refuse values that are not there, and other things where texts, lists or places should stand."""
    expected: dict[str, Any] = {
        "label": object,
        "answer_start": int,
        **dict.fromkeys(("tokens", "tags", "messages"), list),
    }
    value: Any
    for place, value in enumerate(rows[column]):
        if value is None:
            raise ValueError(f"{location_of(place)}: {name} has no value")
        if not isinstance(value, expected.get(column, str)):
            wanted = {int: "a whole number", list: "a list"}.get(expected.get(column, str), "a text")
            raise ValueError(f"{location_of(place)}: {name} should hold {wanted}, not {value!r:.80}")
        if column == "tokens" and (wrong := [item for item in value if not isinstance(item, str)]):
            raise ValueError(f"{location_of(place)}: {name} should hold texts, not {wrong[0]!r:.80}")
        if column in ("label", "tags"):
            items = value if isinstance(value, list) else [value]
            if wrong := [item for item in items if item is None or isinstance(item, (dict, list))]:
                raise ValueError(
                    f"{location_of(place)}: {name} should hold names or numbers of classes, not {wrong[0]!r:.80}"
                )
            if column == "label" and len(set(items)) < len(items):
                raise ValueError(
                    f"{location_of(place)}: {name} should list the labels that it has, each once (and no zero or one"
                    f" for each class), not {value!r:.80}"
                )
        if column == "messages":
            try:
                as_messages(list(value))
            except ValueError as error:
                raise ValueError(f"{location_of(place)}: {name}: {error}") from error


def _check_labels(labels: Any, first: Any, location_of: Callable[[int], str]) -> None:
    """Refuse lists of labels among single ones, and single ones among lists; the first training row says which."""
    wanted = "a list of labels" if isinstance(first, list) else "one label"
    for place, value in enumerate(labels):
        if isinstance(value, list) != isinstance(first, list):
            raise ValueError(
                f"{location_of(place)}: label should be {wanted}, as the first training row has, not {value!r:.80}"
            )


def check_fit(model: Any, tokenizer: Any, data: TaskArguments) -> None:
    """Refuse a model that the tokenizer or the lengths asked for do not fit.

    Raises:
        ValueError: more token ids than the model has, no token to pad with, or texts longer than its positions.
    """
    config, largest = model.config, max(tokenizer.get_vocab().values())
    if largest >= config.vocab_size:
        raise ValueError(
            f"the tokenizer does not fit the model: it has ids up to {largest}, the model a vocab_size of"
            f" {config.vocab_size}"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer must have a padding token (or at least an end token to pad with)")
    if getattr(config, "position_embedding_type", None) != "learned":  # others go on beyond the lengths they saw
        return
    room = config.max_position_embeddings - getattr(config, "position_offset", 0)
    for name in ("max_length", *(["max_target_length"] if data.task == "summarisation" else [])):
        if getattr(data, name) > room:
            raise ValueError(f"{name} ({getattr(data, name)}) must be at most the model's {room} positions")


def tokenize_splits(task: Any, texts: TextData) -> dict[str, Any]:
    """Return the tokenized rows of each split.

    Raises:
        ValueError: what a row cannot be, such as a label that no training row has; names the split.
    """
    rows = {}
    for split in ("train", "validation", "test"):
        try:
            rows[split] = task.tokenize(getattr(texts, split))
        except ValueError as error:
            raise ValueError(f"{split}: {error}") from error
        if not len(rows[split]):
            raise ValueError(f"{split}: no row is left once the texts are tokens")
    return rows


def texts_of(rows: Any) -> list[str]:
    """Return all texts of some rows, to train a tokenizer on: words as running text, which is how they are read."""
    found: list[str] = []
    for row in rows:
        for name, value in row.items():
            if name in ("label", "tags"):
                continue
            if name == "tokens":
                value = join_words(value)[0]
            items = [
                item["content"] if isinstance(item, dict) else item
                for item in (value if isinstance(value, list) else [value])
            ]
            found += [item for item in items if isinstance(item, str)]
    return found


def card_of_finetuning(arguments: FineTuneArguments, results: dict[str, Any], data: TextData, task: Any) -> CardData:
    """Return what the model card says about a run; `results` is what results.json holds."""
    where = data.provenance
    start = arguments.model.model_name_or_path
    how = f"{Path(start).name}, fine-tuned" if start else "trained from scratch"
    return CardData(
        title=arguments.model.model_title or f"{results['model_type']} {arguments.data.task}",
        summary=f"A {results['model_type']} model for {arguments.data.task}, {how} by hf_genai on {where.name}.",
        model_type=results["model_type"],
        parameters=results["parameters"],
        license=license_of_weights(arguments.model.model_license, where),
        pipeline_tag=task.pipeline_tag,
        base_model=name_on_hub(start),
        usage=pipeline_usage(task.pipeline_tag, results["samples"], task.example(data.test)),
        **data_fields(where),
        data_counts={split: f"{count:,} rows" for split, count in results["rows"].items()},
        training_command=results["command"],
        training_seconds=results["train_seconds"],
        hyperparameters=flat_settings({**results["settings"], **prefix_setting(results["prefix"])}),
        versions=results["versions"],
        hardware=results["hardware"],
        evaluation_data=f"{results['rows']['test']} held-out rows of {data.names['test']}",
        evaluation_command=results["command"],
        scores=results["scores"],
        baselines=results["baselines"],
        samples=results["samples"],
        samples_note="The first held-out rows, not chosen: what was given, what was expected, what came.",
        limits=f"Trained on {results['rows']['train']:,} rows of the kind described above, and scored on such alone.",
        bias="Not studied. The model repeats what its training rows say about people and places, and how.",
    )
