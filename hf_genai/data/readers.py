"""Read rows (source, target) as they stand, from files, Arrow tables and language packs. `pairs` judges them."""

import csv
import importlib.metadata
import importlib.util
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from babel.messages.mofile import read_mo

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")

# A raw row: two values of any type; or the reason, in a word, why the reader found no such two.
Row = tuple[Any, Any] | str


def read_files(paths: Sequence[Path], source_column: str, target_column: str) -> list[Row]:
    """Read tables of one or more files, or two plain text files whose lines correspond.

    A .csv has a header and quotes as in RFC 4180; a .tsv has a header and no quoting; a .jsonl (or .json) has an
    object a line. The last and .parquet may hold the texts in {"translation": {"en": ..., "fr": ...}}. All are UTF-8.

    Raises:
        ValueError: a file that is missing, not UTF-8 or malformed (file and line are named), a column that is not
            there (those found are named), text files of different lengths, or a mixture of tables and text files.
    """
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise ValueError(f"no such file: {', '.join(missing)} (looked from {Path.cwd()})")
    if not paths:
        raise ValueError("the list of files is empty")
    tables = [path for path in paths if path.suffix.lower() in TABLES]
    if not tables and len(paths) == 2:
        return list(_aligned(*paths))
    if len(tables) < len(paths):
        raise ValueError(
            f"expected tables ({', '.join(TABLES)}), or exactly two plain text files [source, target] whose lines "
            f"correspond; got {', '.join(map(str, paths))}"
        )
    return [row for path in tables for row in _table(path, source_column, target_column)]


def read_arrow(table: pa.Table, source_column: str, target_column: str, where: str) -> Iterable[Row]:
    """Read two columns of an Arrow table; "en" also finds the field `en` of a column of structs."""
    table = table.flatten()
    columns = [
        _find(name, argument, table.column_names, where) for name, argument in _named(source_column, target_column)
    ]
    return zip(*(table.column(column).to_pylist() for column in columns), strict=True)


def read_language_pack(locale: str) -> tuple[list[Row], str]:
    """Read JupyterLab's texts from the installed package `jupyterlab-language-pack-<locale>`; return rows and version.

    Texts with placeholders, markup or mnemonics and untranslated ones come as a reason instead of a row.

    Raises:
        ImportError: the package is not installed; the message says how to get it.
    """
    package = f"jupyterlab-language-pack-{locale}"
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"source 'jupyterlab:{locale}' needs the package {package}: pip install 'hf_genai[jupyterlab]' brings the "
            f"common languages, pip install {package} any other"
        )
    rows: list[Row] = []
    for folder in spec.submodule_search_locations:
        for path in sorted(Path(folder).rglob("*.mo")):
            with path.open("rb") as file:
                catalog = read_mo(file)
            for message in catalog:
                if message.id:
                    rows += _forms(message.id, message.string)
    return rows, importlib.metadata.version(package)


_CODE = re.compile(r"[{}<>\[\]\\|`#@=_~]|%[\w(%]|://|&\w|\$\w")


def _forms(ids: Any, strings: Any) -> Iterator[Row]:
    """Singular, and plural where there is one; the last of a language's plural forms is the one for large numbers."""
    ids, strings = (x if isinstance(x, (tuple, list)) else (x,) for x in (ids, strings))
    for source, target in dict.fromkeys(((ids[0], strings[0]), (ids[-1], strings[-1]))):
        if not target or source == target:
            yield "untranslated"
        elif _CODE.search(source) or _CODE.search(target):
            yield "placeholder_or_markup"
        else:
            yield source, target


def _table(path: Path, source_column: str, target_column: str) -> Iterable[Row]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        try:
            table = pq.read_table(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is no whole parquet file: {error}") from error
        return read_arrow(table, source_column, target_column, str(path))
    if suffix in (".json", ".jsonl"):
        return _json_lines(path, source_column, target_column)
    return _separated(path, source_column, target_column)


def _separated(path: Path, source_column: str, target_column: str) -> Iterator[Row]:
    text = io.StringIO("\n".join(_lines(path)), newline="")
    if path.suffix.lower() == ".tsv":
        reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(text, strict=True)
    try:
        header = next(reader, [])
        one, two = (header.index(_find(n, a, header, str(path))) for n, a in _named(source_column, target_column))
        for row in reader:
            if row:
                # A stray separator moves the texts to other columns, so such a row cannot be trusted.
                yield (row[one], row[two]) if len(row) == len(header) else "wrong_number_of_columns"
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: {error}; quote fields that hold commas, quotes or lines"
        ) from error


def _json_lines(path: Path, source_column: str, target_column: str) -> Iterator[Row]:
    found: list[str] = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: no JSON: {error}; each line must be an object of its own"
            ) from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected an object, got {type(row).__name__}")
        for name, value in list(row.items()):
            if isinstance(value, dict):
                row |= {f"{name}.{key}": text for key, text in value.items()}
        # The first row says where the texts are; a later one that lacks them is a bad row, not a bad file.
        found = found or [_find(n, a, list(row), str(path)) for n, a in _named(source_column, target_column)]
        yield row.get(found[0]), row.get(found[1])


def _aligned(source: Path, target: Path) -> Iterable[Row]:
    sources, targets = _lines(source), _lines(target)
    if len(sources) != len(targets):
        raise ValueError(
            f"the lines of two text files must correspond: {source} has {len(sources)}, {target} {len(targets)}"
        )
    return zip(sources, targets, strict=True)


def _lines(path: Path) -> list[str]:
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {number}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8"
        ) from None
    lines = text.replace("\r\n", "\n").split("\n")  # not splitlines(), which also cuts at U+2028 and the like
    return lines[:-1] if lines[-1] == "" else lines


def _named(source_column: str, target_column: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (source_column, "source_column"), (target_column, "target_column")


def _find(name: str, argument: str, columns: Sequence[str], where: str) -> str:
    if columns.count(name) > 1:
        raise ValueError(f"{argument}={name!r}: several columns of {where} are called so")
    if name in columns:
        return name
    fields = [column for column in columns if column.endswith(f".{name}")]
    if len(fields) == 1:
        return fields[0]
    raise ValueError(f"{argument}={name!r} is not a column of {where}; columns found: {', '.join(columns) or 'none'}")
