"""Reading files that others wrote: what is broken is an error that names the file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file.

    Raises:
        ValueError: It is not UTF-8; names the file and the line.
        OSError: It is not there, or may not be read.
    """
    data = Path(path).read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line} must be UTF-8, not the byte {data[error.start]:#04x}") from error


def read_json(path: str | Path, kind: type | tuple[type, ...] = dict) -> Any:
    """Return what a JSON file holds.

    Args:
        kind: What it must hold: by default an object.

    Raises:
        ValueError: It is cut off, nested too deeply, no JSON or something else than `kind`; names the file.
        OSError: It is not there, or may not be read.
    """
    text = read_text(path)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is broken or cut off, it is not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is broken: its JSON is nested too deeply") from error
    if not isinstance(value, kind):
        names: Mapping[type, str] = {dict: "an object", list: "a list", str: "a text"}
        wanted = " or ".join(names.get(each, each.__name__) for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{path} must hold {wanted}, not {names.get(type(value), repr(value)):.80}")
    return value
