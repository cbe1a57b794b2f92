"""Recipe arguments: defaults < YAML < command line, each unknown key an error that names the nearest known one.

A config is one flat YAML mapping; two keys hold mappings of their own, `model` (fields of the model's config) and
`generation` (fields of `GenerationConfig`), which the command line reaches with a dot: `--model.hidden_size 128`.
"""

import argparse
import difflib
import json
import re
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import yaml
from transformers import HfArgumentParser, Seq2SeqTrainingArguments

COMMAND_LINE = "the command line"


def _arg(default: Any, help: str, **metadata) -> Any:
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata={"help": help, **metadata})
    return field(default=default, metadata={"help": help, **metadata})


def _number(text: str | None) -> str | int | float | None:
    for kind in (int, float):
        try:
            return kind(text)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
    return text


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
    max_eval_samples: int = _arg(200, "validation pairs translated at each evaluation during training")
    max_test_samples: int | None = _arg(None, "test pairs translated at the end; all by default")
    data_config: str | None = _arg(None, "configuration of a Hub data set that has several")
    data_revision: str | None = _arg(None, "branch, tag or commit of a Hub data set")
    data_license: str | None = _arg(None, "licence of your own data, for the card")
    languages: list[str] | None = _arg(None, "language codes of your own data, source first, for the card")

    def load_options(self) -> dict[str, Any]:
        """Return the arguments of `hf_genai.data.load_pairs`."""
        return {
            "source": self.data[0] if len(self.data) == 1 else self.data,
            "source_column": self.source_column,
            "target_column": self.target_column,
            "validation": _number(self.validation_data),
            "test": _number(self.test_data),
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
    """How the trained model translates; saved as its generation_config.json."""

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
        super().__post_init__()
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            raise ValueError(
                f"early_stopping_patience ({self.early_stopping_patience}) needs an eval_strategy of steps or epoch, "
                "got no; give --early_stopping_patience null to train to the end"
            )
        if self.push_to_hub:
            self._check_push()
        for name in self.report_to:
            if name in ("tensorboard", "trackio") and find_spec(name) is None:
                raise ImportError(f"report_to={name} needs its package: pip install 'hf_genai[{name}]'")
        self.dataloader_pin_memory &= self.device.type != "cpu"  # torch warns of it at each epoch

    def _check_push(self) -> None:
        """Refuse now what the Hub would refuse after hours of training."""
        import huggingface_hub.utils

        if not self.hub_model_id:
            raise ValueError("push_to_hub needs hub_model_id, the model's name on the Hub: --hub_model_id you/name")
        try:
            huggingface_hub.utils.validate_repo_id(self.hub_model_id)
        except ValueError as error:
            raise ValueError(f"hub_model_id: {error}") from error
        if not (self.hub_token or huggingface_hub.get_token()):
            raise ValueError("push_to_hub needs a token: log in with `hf auth login`, or set HF_TOKEN")


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


class _Parser(HfArgumentParser):
    def error(self, message: str):
        raise ValueError(message)


class _Loader(yaml.SafeLoader):
    """safe_load, but with 1e-3 a number (PyYAML follows YAML 1.1, where it is a string) and no key twice."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"line {node.start_mark.line + 1}: the key {key!r} stands there twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read one flat mapping from a YAML file.

    Raises:
        ValueError: if the file is not there, is not YAML or holds something else than a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config: there is no file {path}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"{path}: expected `key: value` lines, got {type(values).__name__}")
    return values


def unknown_key(key: str, known: Iterable[str], where: str, prefix: str = "") -> ValueError:
    """Return the error for a key nobody knows, with the nearest one that is known."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {prefix + near[0]!r}?" if near else f"known: {', '.join(known[:40])}"
    return ValueError(f"{where}: unknown key {prefix + key!r}; {hint}")


def parse_arguments(argv: Sequence[str] | None = None, description: str | None = None) -> RecipeArguments:
    """Read `[CONFIG.yaml] [--key value ...]`.

    Args:
        argv: the command line without the program; sys.argv by default.
        description: shown by --help.

    Raises:
        ValueError: for an unknown key or a value of the wrong type; names the key, the value and where it stands.
    """
    groups = (DataArguments, TokenizerArguments, ModelArguments, GenerationArguments, RecipeTrainingArguments)
    title = "train_seq2seq.py [CONFIG.yaml]"
    parser = _Parser(groups, description=description, allow_abbrev=False, prog=title)  # type: ignore[arg-type]
    if argv is None:
        import sys

        argv = sys.argv[1:]
    tokens = list(argv)
    if {"-h", "--help"} & set(tokens):
        parser.print_help()
        raise SystemExit(0)
    optional = {
        name
        for group in groups
        for name, hint in typing.get_type_hints(group).items()
        if type(None) in typing.get_args(hint)
    }
    actions: dict[str, argparse.Action] = {}
    for action in parser._actions:
        actions.setdefault(action.dest, action)  # the first: --no_KEY follows --KEY and has the same dest
        action.default, action.required = argparse.SUPPRESS, False  # so that only what was given comes back
        if action.type is dict:
            action.type = _mapping
        elif action.type in (int, float) and action.dest in optional:
            action.type = _or_null(action.type)  # so that the command line can take back what a file sets
    values: dict[str, Any] = {}
    where: dict[str, str] = {}
    while tokens and not tokens[0].startswith("-"):
        path = tokens.pop(0)
        given = load_yaml(path)
        given.pop("recipe", None)  # read by `hf-genai train`, which found us through it
        nulls = {key for key, value in given.items() if value is None and key in actions}
        for key in nulls - optional:
            raise ValueError(f"{path}: {key} may not be null")
        read = _parse(
            parser, [t for k, v in given.items() if v is not None for t in _tokens(k, v, actions, path)], path
        )
        _merge(values, where, {**read, **dict.fromkeys(nulls)}, path)
        for key in set(given) - set(actions):
            raise unknown_key(key, actions, path)
    plain, dotted = _split_dotted(tokens)
    _merge(values, where, _parse(parser, plain, COMMAND_LINE), COMMAND_LINE)
    _merge(values, where, dotted, COMMAND_LINE)
    if not values.get("output_dir"):
        raise ValueError("output_dir: say where the run goes, in the config or by --output_dir DIR")
    try:
        data, tokenizer, model, generation, training = parser.parse_dict(values)
    except (TypeError, AssertionError) as error:
        raise ValueError(str(error)) from error
    if training.hub_token:
        values["hub_token"] = "TOKEN"  # what was given goes into results.json and the card
    arguments = RecipeArguments(data, tokenizer, model, generation, training, values, where)
    _check_sets(data, training)
    _check_generation(arguments)
    return arguments


def _or_null(kind: Any) -> Any:
    def read(text: str) -> Any:
        return None if text.lower() in ("none", "null") else kind(text)

    read.__name__ = kind.__name__  # argparse names the type in its message
    return read


def _mapping(text: str) -> dict:
    value = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a mapping, got {text!r}")
    return value


_mapping.__name__ = "mapping"


def _tokens(key: str, value: Any, actions: dict[str, argparse.Action], path: str) -> list[str]:
    """Turn one line of YAML into command-line tokens, so that both are checked by the same code."""
    action = actions.get(key)
    if action is None:
        return []
    if isinstance(value, bool):
        # bare `no` is false in YAML 1.1, but a choice of eval_strategy
        text = "no" if value is False and "no" in (action.choices or ()) else str(value).lower()
    elif isinstance(value, dict):
        text = json.dumps(value)
    elif isinstance(value, list):
        if action.nargs != "+":
            raise ValueError(f"{path}: {key} takes one value, got the list {value}")
        return [f"--{key}", *map(str, value)]
    else:
        text = str(value)
    return [f"--{key}", text] if action.nargs == "+" else [f"--{key}={text}"]


def _parse(parser: _Parser, tokens: list[str], where: str) -> dict[str, Any]:
    try:
        namespace, rest = parser.parse_known_args(tokens)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    known = {option.lstrip("-") for option in parser._option_string_actions}
    for token in rest:
        if token.startswith("--"):
            raise unknown_key(token[2:].split("=")[0].replace("-", "_"), {k.replace("-", "_") for k in known}, where)
        raise ValueError(f"{where}: {token!r} belongs to no --key")
    return vars(namespace)


def _split_dotted(tokens: list[str]) -> tuple[list[str], dict[str, dict]]:
    """Take `--model.hidden_size 64` and `--generation.num_beams=4` out of the tokens."""
    plain: list[str] = []
    dotted: dict[str, dict] = {}
    rest = iter(tokens)
    for token in rest:
        match = re.match(r"--(model|generation)\.([\w-]+)(?:=(.*))?$", token, re.DOTALL)
        if match is None:
            plain.append(token)
            continue
        group, key, text = match.groups()
        text = next(rest, None) if text is None else text
        if text is None or text.startswith("--"):
            raise ValueError(f"{COMMAND_LINE}: --{group}.{key} needs a value")
        dotted.setdefault(group, {})[key.replace("-", "_")] = yaml.load(text, Loader=_Loader)  # noqa: S506
    return plain, dotted


def _merge(values: dict[str, Any], where: dict[str, str], new: dict[str, Any], origin: str) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and key in ("model", "generation"):
            value = {**values.get(key, {}), **value}  # key by key: an override leaves the rest of the mapping
            where.update({f"{key}.{name}": origin for name in new[key]})
        values[key] = value
        where[key] = origin


def _check_sets(data: DataArguments, training: RecipeTrainingArguments) -> None:
    """Refuse an empty set now, and not when the trained model is to be scored on it."""
    reasons = dict.fromkeys(("test_data", "max_test_samples"), "the trained model is scored on the test pairs")
    if training.eval_strategy != "no":
        strategy = getattr(training.eval_strategy, "value", training.eval_strategy)
        why = f"eval_strategy={strategy} needs validation pairs; else give --eval_strategy no"
        reasons |= dict.fromkeys(("validation_data", "max_eval_samples"), why)
    for key, why in reasons.items():
        value = _number(getattr(data, key))
        if isinstance(value, (int, float)) and value <= 0:
            raise ValueError(f"{key} must be above 0, got {value}: {why}")


def _check_generation(arguments: RecipeArguments) -> None:
    from transformers import GenerationConfig

    known = [key for key in vars(GenerationConfig()) if not key.startswith("_")]
    for key in arguments.generation.generation:
        if key not in known:
            raise unknown_key(key, known, arguments.where[f"generation.{key}"], "generation.")
