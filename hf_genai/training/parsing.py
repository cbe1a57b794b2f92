"""Read a recipe's arguments: defaults < YAML < command line; an unknown key is an error that names the nearest one.

A config is one flat YAML mapping. Keys that hold mappings of their own (fields of type dict, such as `model`) are
reached from the command line with a dot: `--model.hidden_size 128`.
"""

import argparse
import difflib
import json
import re
import sys
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from ..files import read_text
from ..identifiers import check_languages, check_license

COMMAND_LINE = "the command line"


def argument(default: Any, help: str, **metadata) -> Any:
    """Return a dataclass field with its default and its line of `--help`."""
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata={"help": help, **metadata})
    return field(default=default, metadata={"help": help, **metadata})


def number_or_text(text: str | None) -> Any:
    """Return the number that a text is, or the text: a size or a share, or the name of a file or a split."""
    for kind in (int, float):
        try:
            return kind(text)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
    return text


@dataclass
class Parsed:
    """What was read: an instance of each group, what was given, and where.

    `where` has for each key (dotted for nested ones) the YAML file's name or "the command line".
    """

    groups: tuple
    given: dict[str, Any]
    where: dict[str, str]


class _Parser(HfArgumentParser):
    """HfArgumentParser that raises instead of ending the process, and lists its `actions`, those of groups too."""

    def __init__(self, *args, **kwargs):
        self.actions: list[argparse.Action] = []
        super().__init__(*args, **kwargs)

    def add_argument(self, *args, **kwargs):
        self.actions.append(super().add_argument(*args, **kwargs))
        return self.actions[-1]

    def add_argument_group(self, *args, **kwargs):
        group = super().add_argument_group(*args, **kwargs)
        add = group.add_argument

        def listed(*args, **kwargs):
            self.actions.append(add(*args, **kwargs))
            return self.actions[-1]

        group.add_argument = listed  # type: ignore[method-assign]
        return group

    def error(self, message: str):
        raise ValueError(message)


class _Loader(yaml.SafeLoader):
    """safe_load, but with 1e-3 a number (PyYAML follows YAML 1.1, where it is a string) and no key twice.

    A value that repeats others (`*name`) may not be repeated itself: a few lines of such stand for more than fits into
    any memory, or hold themselves.
    """

    def __init__(self, stream):
        super().__init__(stream)
        self.anchors_open = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) and self.anchors_open:
            raise ValueError(f"line {event.start_mark.line + 1}: *{event.anchor} stands inside of an anchor, &")
        is_anchor = getattr(event, "anchor", None) is not None
        self.anchors_open += is_anchor
        node = super().compose_node(parent, index)
        self.anchors_open -= is_anchor
        return node

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            if str(error).startswith("line "):
                raise
            # what PyYAML's constructors of numbers, dates and the like raise
            raise ValueError(
                f"line {node.start_mark.line + 1}: {str(node.value):.80} cannot be read: {error}"
            ) from error

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"line {node.start_mark.line + 1}: the key {key!r} stands there twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_yaml(text: str, where: str) -> Any:
    """Return the value that a text of YAML stands for.

    Raises:
        ValueError: it is no YAML, or nested too deeply; names `where` and the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"{where}: line {line}: {error.reason}: {chr(error.character)!r}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    except RecursionError:
        depths = list(accumulate((mark in "[{") - (mark in "]}") for mark in text))
        line = text.count("\n", 0, depths.index(max(depths))) + 1
        raise ValueError(f"{where}: line {line}: it is nested too deeply") from None


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read one flat mapping from a YAML file.

    Raises:
        ValueError: if the file is not there, is not YAML or holds something else than a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config: there is no file {path}")
    values = _read_yaml(read_text(path).removeprefix("\ufeff"), str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected `key: value` lines, got {type(values).__name__}")
    if other := [key for key in values if not isinstance(key, str)]:
        raise ValueError(f"{path}: keys must be texts, not {other[0]!r:.80}")
    return values


def unknown_key(key: str, known: Iterable[str], where: str, prefix: str = "") -> ValueError:
    """Return the error for a key nobody knows, with the nearest one that is known."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {prefix + near[0]!r}?" if near else f"known: {', '.join(known[:40])}"
    return ValueError(f"{where}: unknown key {prefix + key!r}; {hint}")


def parse(groups: Sequence[type], argv: Sequence[str] | None, description: str | None, program: str) -> Parsed:
    """Read `[CONFIG.yaml] [--key value ...]` into dataclasses.

    Args:
        groups: dataclasses whose fields are the keys.
        argv: the command line without the program; sys.argv by default.
        description: shown by --help.
        program: the name in the usage line.

    Raises:
        ValueError: for an unknown key, a value of the wrong type, or a licence or language that the Hub would refuse;
            names the key, the value and where it stands.
    """
    parser = _Parser(groups, description=description, allow_abbrev=False, prog=f"{program} [CONFIG.yaml]")  # type: ignore[arg-type]
    tokens = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(tokens):
        parser.print_help()
        raise SystemExit(0)
    optional = {
        name
        for group in groups
        for name, hint in typing.get_type_hints(group).items()
        if type(None) in typing.get_args(hint)
    }
    mappings = [name for group in groups for name, hint in typing.get_type_hints(group).items() if hint is dict]
    actions: dict[str, argparse.Action] = {}
    for action in parser.actions:
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
    plain, dotted = _split_dotted(tokens, mappings)
    _merge(values, where, _parse(parser, plain, COMMAND_LINE), COMMAND_LINE)
    _merge(values, where, dotted, COMMAND_LINE)
    if not values.get("output_dir"):
        raise ValueError("output_dir: say where the run goes, in the config or by --output_dir DIR")
    try:
        parsed = tuple(parser.parse_dict(values))
    except (TypeError, AssertionError, ValueError) as error:
        raise ValueError(_naming_a_key(error, parser, values, where)) from error
    for key, check in {"model_license": check_license, "languages": check_languages}.items():
        if values.get(key) is not None:
            check(values[key], f"{where[key]}: {key}")
    if values.get("hub_token"):
        values["hub_token"] = "TOKEN"  # what was given goes into results.json and the card
    return Parsed(parsed, values, where)


def _naming_a_key(error: Exception, parser: _Parser, values: dict[str, Any], where: dict[str, str]) -> str:
    """Return what is wrong; where transformers names no key, that is the one without which all is well."""
    if any(key in str(error) for key in values):
        return str(error)
    for key in values:
        try:
            parser.parse_dict({name: value for name, value in values.items() if name != key})
        except Exception:  # something else is wrong as well, or this is not the one
            continue
        return f"{where[key]}: {key}: {error}"
    return str(error)


def _or_null(kind: Any) -> Any:
    def read(text: str) -> Any:
        return None if text.lower() in ("none", "null") else kind(text)

    read.__name__ = kind.__name__  # argparse names the type in its message
    return read


def _mapping(text: str) -> dict:
    try:
        value = _read_yaml(text, "mapping")
    except ValueError:
        value = text
    if value is None:  # takes back what a file sets
        return {}
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a mapping, got {text!r:.200}")
    return value


_mapping.__name__ = "mapping"


def _tokens(key: str, value: Any, actions: dict[str, argparse.Action], path: str) -> list[str]:
    """Turn one line of YAML into command-line tokens, so that both are checked by the same code."""
    action = actions.get(key)
    if action is None:
        return []
    if isinstance(value, bool):
        # bare `no` is false in YAML 1.1, but a choice of eval_strategy and its kin
        takes_no = key.endswith("_strategy") or "no" in (action.choices or ())
        text = "no" if value is False and takes_no else str(value).lower()
    elif isinstance(value, dict):
        try:
            text = json.dumps(value, default=str)  # dates
        except TypeError as error:
            raise ValueError(f"{path}: {key}: {error}") from error
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
    known = {option.lstrip("-") for action in parser.actions for option in action.option_strings}
    for token in rest:
        if token.startswith("--"):
            raise unknown_key(token[2:].split("=")[0].replace("-", "_"), {k.replace("-", "_") for k in known}, where)
        raise ValueError(f"{where}: {token!r} belongs to no --key")
    return vars(namespace)


def _split_dotted(tokens: list[str], mappings: Iterable[str]) -> tuple[list[str], dict[str, dict]]:
    """Take `--model.hidden_size 64` and `--generation.num_beams=4` out of the tokens."""
    names = "|".join(mappings)
    plain: list[str] = []
    dotted: dict[str, dict] = {}
    rest = iter(tokens)
    for token in rest:
        match = re.match(rf"--({names})\.([\w-]+)(?:=(.*))?$", token, re.DOTALL)
        if match is None:
            plain.append(token)
            continue
        group, key, text = match.groups()
        text = next(rest, None) if text is None else text
        if text is None or text.startswith("--"):
            raise ValueError(f"{COMMAND_LINE}: --{group}.{key} needs a value")
        value = _read_yaml(text, f"{COMMAND_LINE}: --{group}.{key}")
        dotted.setdefault(group, {})[key.replace("-", "_")] = value
    return plain, dotted


def _merge(values: dict[str, Any], where: dict[str, str], new: dict[str, Any], origin: str) -> None:
    for key, value in new.items():
        if isinstance(value, dict):
            where.update({f"{key}.{name}": origin for name in value})
            if value:
                # key by key: an override leaves the rest of the mapping, but another type of model has other fields
                before = values.get(key, {})
                other = {value.get("model_type"), before.get("model_type")} - {None}
                value = {**(before if len(other) < 2 else {}), **value}
        values[key] = value
        where[key] = origin
