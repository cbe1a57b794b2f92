"""Reading files that others wrote: what is broken is an error that names the file and the line."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file.

    Raises:
        ValueError: It is not UTF-8; names the file and the line.
        OSError: It is not there, or may not be read.
    """
    return decode(Path(path).read_bytes(), where=str(path))


def read_json(path: str | Path, kind: type | tuple[type, ...] = dict) -> Any:
    """Return what a JSON file holds.

    Args:
        kind: What it must hold: by default an object.

    Raises:
        ValueError: It is not what `parse_json` takes, or something else than `kind`; names the file.
        OSError: It is not there, or may not be read.
    """
    value = parse_json(read_text(path), where=str(path))
    if not isinstance(value, kind):
        names: Mapping[type, str] = {dict: "an object", list: "a list", str: "a text"}
        wanted = " or ".join(names.get(each, each.__name__) for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{path} must hold {wanted}, not {names.get(type(value), repr(value)):.80}")
    return value


def decode(data: bytes, where: str, line: int = 1) -> str:
    """Return bytes of a file as text; `where` and `line` as in `parse_json`.

    Raises:
        ValueError: They are not UTF-8; names the file and the line.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise ValueError(f"{where}, line {line}: must be UTF-8, not the byte {data[error.start]:#04x}") from None


def parse_json(text: str, where: str, line: int = 1) -> Any:
    """Return the value that a text of JSON stands for.

    Args:
        where: The file that the text stands in, for errors.
        line: The line of the file at which the text begins, from 1.

    Raises:
        ValueError: It is cut off, no JSON, nested too deeply, or has half of a surrogate pair; names file and line.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place, problem = error.pos, f"is broken or cut off, it is not JSON: {error.msg}"
    except RecursionError:
        place, problem = _deepest(text), "is broken: its JSON is nested too deeply"
    except ValueError as error:  # Python reads no whole number of more than 4,300 digits
        digits = re.search(r"\d{4300}", text)
        place, problem = digits.start() if digits else 0, f"is broken: {str(error).partition(';')[0]}"
    else:
        escapes = _ESCAPE.finditer(text) if "\\ud" in text or "\\uD" in text else ()
        half = next((match for match in escapes if match["half"]), None)
        if half is None:
            return value
        place, problem = half.start(), f"is broken: {half[0]} is half of a surrogate pair, and no character"
    line += text.count("\n", 0, place)
    raise ValueError(f"{where}, line {line}: {problem}")


# a pair, half of one, or any other escape: "\\ud800" in JSON is a backslash and letters
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<half>u[dD][89a-fA-F]..)|.)")


def _deepest(text: str) -> int:
    """Return where the brackets of a text are nested most deeply."""
    depth = greatest = place = 0
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', text):
        if match[0] in ("[", "{"):
            depth += 1
            if depth > greatest:
                greatest, place = depth, match.start()
        elif match[0] in ("]", "}"):
            depth -= 1
    return place
