"""Read raw pairs (source, target) from files and Arrow tables; `pairs` filters them."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from .readers import TABLES, Row, check_files, columns_of, file_type, find_column, read_lines, read_rows

# Location of a row, and its two values of any type, or the reason, in a word, why the row has no pair.
RawPair = tuple[str, tuple[Any, Any] | str]


def read_pairs(paths: Sequence[Path], source_column: str, target_column: str) -> list[RawPair]:
    """Read pairs from one or more tables (see `readers`), or from two plain text files with aligned lines.

    Tables may nest the texts: {"translation": {"en": ..., "fr": ...}}.

    Raises:
        ValueError: a file that is missing, not UTF-8 or malformed (the message names file and line), a missing
            column, text files of different lengths, or a mixture of tables and text files.
    """
    check_files(paths)
    table_paths = [path for path in paths if file_type(path) in TABLES]
    if not table_paths and len(paths) == 2:
        return list(_aligned(*paths))
    if len(table_paths) < len(paths):
        raise ValueError(
            f"source must be tables ({', '.join(TABLES)}), or exactly two plain text files [source, target] with "
            f"aligned lines, not {', '.join(map(str, paths))}"
        )
    return [pair for path in table_paths for pair in _table(path, source_column, target_column)]


def read_arrow(table: pa.Table, source_column: str, target_column: str, where: str) -> Iterable[RawPair]:
    """Read two columns of an Arrow table; the name "en" also matches the field `en` of a struct column."""
    table = table.flatten()
    columns = [
        find_column(name, argument, table.column_names, where)
        for name, argument in _named(source_column, target_column)
    ]
    return numbered(zip(*(table.column(column).to_pylist() for column in columns), strict=True), where)


def numbered(rows: Iterable[tuple[Any, Any] | str], where: str) -> Iterator[RawPair]:
    """Return rows with their locations: "<where>, row 1" and so on."""
    return ((f"{where}, row {number}", row) for number, row in enumerate(rows, 1))


def _table(path: Path, source_column: str, target_column: str) -> Iterator[RawPair]:
    rows = [Row(row.location, _flat(row.values), row.flaw) for row in read_rows(path)]
    columns = columns_of(path)
    columns += dict.fromkeys(name for row in rows for name in row.values if name not in columns)
    source, target = (
        find_column(name, argument, columns, str(path)) for name, argument in _named(source_column, target_column)
    )
    for row in rows:
        yield row.location, row.flaw or (row.values.get(source), row.values.get(target))


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Return values plus the fields of nested objects: {"translation": {"en": "a"}} adds "translation.en"."""
    objects = [(name, value) for name, value in values.items() if isinstance(value, dict)]
    return {**values, **{f"{name}.{key}": inner for name, value in objects for key, inner in value.items()}}


def _aligned(source: Path, target: Path) -> Iterator[RawPair]:
    lines = [[line.removesuffix("\n").removesuffix("\r") for line in read_lines(path)] for path in (source, target)]
    if len(lines[0]) != len(lines[1]):
        raise ValueError(
            f"two text files must have the same number of lines: {source} has {len(lines[0])}, {target}"
            f" {len(lines[1])}"
        )
    return ((f"{source.name}, line {n}", pair) for n, pair in zip(itertools.count(1), zip(*lines, strict=True)))


def _named(source_column: str, target_column: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (source_column, "source_column"), (target_column, "target_column")
