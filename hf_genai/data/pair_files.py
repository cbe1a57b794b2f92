"""Read pairs (source, target) as they stand in files and Arrow tables. `pairs` judges them."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from .readers import TABLES, Row, check_files, columns_of, find_column, kind, read_lines, read_rows

# Where it stands, and two values of any type, or the reason, in a word, why there are no two.
RawPair = tuple[str, tuple[Any, Any] | str]


def read_pairs(paths: Sequence[Path], source_column: str, target_column: str) -> list[RawPair]:
    """Read tables of one or more files (see `readers`), or two plain text files whose lines correspond.

    Tables may hold the texts in {"translation": {"en": ..., "fr": ...}}.

    Raises:
        ValueError: a file that is missing, not UTF-8 or malformed (file and line are named), a column that is not
            there (those found are named), text files of different lengths, or a mixture of tables and text files.
    """
    check_files(paths)
    tables = [path for path in paths if kind(path) in TABLES]
    if not tables and len(paths) == 2:
        return list(_aligned(*paths))
    if len(tables) < len(paths):
        raise ValueError(
            f"expected tables ({', '.join(TABLES)}), or exactly two plain text files [source, target] whose lines "
            f"correspond; got {', '.join(map(str, paths))}"
        )
    return [pair for path in tables for pair in _table(path, source_column, target_column)]


def read_arrow(table: pa.Table, source_column: str, target_column: str, where: str) -> Iterable[RawPair]:
    """Read two columns of an Arrow table; "en" also finds the field `en` of a column of structs."""
    table = table.flatten()
    columns = [
        find_column(name, argument, table.column_names, where)
        for name, argument in _named(source_column, target_column)
    ]
    return numbered(zip(*(table.column(column).to_pylist() for column in columns), strict=True), where)


def numbered(rows: Iterable[tuple[Any, Any] | str], where: str) -> Iterator[RawPair]:
    """Return rows with their places, "<where>, row 1" and so on."""
    return ((f"{where}, row {number}", row) for number, row in enumerate(rows, 1))


def _table(path: Path, source_column: str, target_column: str) -> Iterator[RawPair]:
    rows = [Row(row.place, _flat(row.values), row.flaw) for row in read_rows(path)]
    columns = columns_of(path)
    columns += dict.fromkeys(name for row in rows for name in row.values if name not in columns)
    one, two = (find_column(n, a, columns, str(path)) for n, a in _named(source_column, target_column))
    for row in rows:
        yield row.place, row.flaw or (row.values.get(one), row.values.get(two))


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with the fields of objects, {"translation": {"en": "a"}}, as "translation.en", too."""
    objects = [(name, value) for name, value in values.items() if isinstance(value, dict)]
    return {**values, **{f"{name}.{key}": inner for name, value in objects for key, inner in value.items()}}


def _aligned(source: Path, target: Path) -> Iterator[RawPair]:
    lines = [[line.removesuffix("\n").removesuffix("\r") for line in read_lines(path)] for path in (source, target)]
    if len(lines[0]) != len(lines[1]):
        raise ValueError(
            f"the lines of two text files must correspond: {source} has {len(lines[0])}, {target} {len(lines[1])}"
        )
    return ((f"{source.name}, line {n}", pair) for n, pair in zip(itertools.count(1), zip(*lines, strict=True)))


def _named(source_column: str, target_column: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (source_column, "source_column"), (target_column, "target_column")
