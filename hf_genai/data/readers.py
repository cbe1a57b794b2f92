"""Read rows from files, by one set of rules: whatever the format, alone or among others, compressed or not.

| file          | a row                                                                                        |
|---------------|----------------------------------------------------------------------------------------------|
| .csv          | values under the names of the first row, all of them texts as they stand; quoted as RFC 4180 has it |
| .tsv          | the same; quoted as `csv` and pandas write it, or quotes are marks like any other (`has_quotes`) |
| .jsonl, .json | an object a line; an array of objects; an object of columns, as pandas writes one            |
| .parquet      | a row, with its types                                                                        |
| .txt          | `text`: a paragraph, with blank lines between; a line, where none between others is blank    |

Each may end in .gz. All are UTF-8. An empty value of a table, a null and a NaN are missing (None). A row that its file
spoils stays a row, with its place and what is wrong with it; a file that is broken is an error.
"""

import csv
import gzip
import hashlib
import io
import itertools
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features

from ..files import decode, parse_json

logger = logging.getLogger(__name__)

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
ENDINGS = (*TABLES, ".txt")
# Characters of a value: more is no text to learn from, but a file in a cell, or what a lost quote made.
LONGEST = 10_000_000
# Columns of `read_dataset` that say where each row stands, and what is wrong with it.
PLACE, FLAW = "_place", "_flaw"


class Row(NamedTuple):
    """A row as it stands: where ("a.csv, line 3"), and its values by column or the reason why there are none."""

    place: str
    values: dict[str, Any]
    flaw: str | None = None


def kind(path: Path) -> str:
    """Return a file's ending, without that of its compression."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def check_files(paths: Sequence[Path]) -> None:
    """Raise ValueError where there is no file, or one is missing; names it."""
    if not paths:
        raise ValueError("the list of files is empty")
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise ValueError(f"no such file: {', '.join(missing)} (looked from {Path.cwd()})")


def files_of_folder(folder: Path, config_name: str | None = None) -> dict[str, list[Path]] | None:
    """Return the files of each split, as `datasets` deals them out by name; None where it must read them itself."""
    try:
        builder = datasets.load_dataset_builder(str(folder), config_name)
    except Exception as error:  # whatever datasets raises
        raise ValueError(f"{folder}: datasets finds no data in this folder: {error}") from error
    found = {str(split): [Path(name) for name in names] for split, names in (builder.config.data_files or {}).items()}
    paths = {path for names in found.values() for path in names}
    if not paths or not all(kind(path) in ENDINGS and path.is_file() for path in paths):
        return None
    near = {path.resolve() for split in paths for path in split.parent.iterdir() if kind(path) in TABLES}
    if config_name is None and (aside := sorted(path.name for path in near - {path.resolve() for path in paths})):
        logger.warning("%s: left aside, as its split or format is another: %s", folder.name, ", ".join(aside))
    return found


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file; see above.

    Raises:
        ValueError: it is not UTF-8, malformed or cut off; names the file and the line.
    """
    read = {".csv": _separated, ".tsv": _separated, ".parquet": _parquet, ".txt": _paragraphs}.get(kind(path), _json)
    for row in read(path):
        if row.flaw is None and any(_is_too_long(value) for value in row.values.values()):
            row = Row(row.place, {}, "too_long")
        yield row


def columns_of(path: Path) -> list[str]:
    """Return the names of a file's columns: of JSON, all that an object has."""
    if kind(path) in (".csv", ".tsv"):
        return next(_records(path), (1, []))[1]
    if kind(path) == ".parquet":
        return _open_parquet(path).schema_arrow.names
    if kind(path) == ".txt":
        return ["text"]
    return list(dict.fromkeys(name for row in _json(path) for name in row.values))


def said(columns: Sequence[str]) -> str:
    """Return names of columns for an error, which a file that is no table may have by the thousand."""
    names = [name if len(name) <= 60 else f"{name[:60]}..." for name in columns[:20]]
    return ", ".join(names + ["..."] * (len(columns) > 20)) or "none"


def find_column(name: str, argument: str, columns: Sequence[str], where: str) -> str:
    """Return the column that a name means: its own, or else the field of a column of objects that is called so."""
    if columns.count(name) > 1:
        raise ValueError(f"{argument}={name!r}: several columns of {where} are called so")
    if name in columns:
        return name
    fields = [column for column in columns if column.endswith(f".{name}")]
    if len(fields) == 1:
        return fields[0]
    raise ValueError(f"{argument}={name!r} is not a column of {where}; columns found: {said(columns)}")


def read_dataset(
    paths: Sequence[Path], columns: Sequence[str], optional: Sequence[str] = (), all_columns: bool = False
) -> Dataset:
    """Return the rows of files as a dataset on disk, with the columns `PLACE` and `FLAW` (None, or what is wrong).

    It is made once: the next call with the same files opens it.

    Args:
        columns: that each file must have.
        optional: columns that are kept where a file has them.
        all_columns: keep what columns there are, if all values of one are of one type; none must be there.

    Raises:
        ValueError: what `read_rows` raises, a column that is not there or stands there twice, or that holds values of
            different types.
    """
    check_files(paths)
    if wrong := [str(path) for path in paths if kind(path) not in ENDINGS]:
        raise ValueError(f"expected files ending in {', '.join(ENDINGS)} (or these and .gz); got {', '.join(wrong)}")
    wanted = [*columns, *optional]
    found = [_features(path, wanted, () if all_columns else columns, all_columns) for path in paths]
    features = found[0] if all(own == found[0] for own in found) else _unified(paths, found)
    features = Features({**features, PLACE: datasets.Value("string"), FLAW: datasets.Value("string")})
    if not any(True for path in paths for _ in itertools.islice(read_rows(path), 1)):
        return Dataset.from_dict({name: [] for name in features}, features=features)
    stamps = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    state = repr([stamps, str(features), Path(__file__).read_text("utf-8")])
    try:
        rows = Dataset.from_generator(
            partial(_values, tuple(paths), tuple(features)),
            features=features,
            fingerprint=hashlib.sha256(state.encode()).hexdigest()[:16],
            writer_batch_size=100,  # rows of the longest values still fit into an array
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError):
            raise ValueError(str(error.__cause__)) from error
        raise
    assert isinstance(rows, Dataset)
    return rows


def _values(paths: Sequence[Path], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for path in paths:
        for row in read_rows(path):
            yield {**{name: row.values.get(name) for name in names}, PLACE: row.place, FLAW: row.flaw}


def _features(path: Path, wanted: Sequence[str], needed: Sequence[str], all_columns: bool) -> Features:
    there = columns_of(path)
    if twice := [name for name in wanted if there.count(name) > 1]:
        raise ValueError(f"{path}: several columns are called {twice[0]}")
    if missing := [name for name in needed if name not in there]:
        raise ValueError(f"{path.name}: no column {', '.join(missing)}; columns found: {said(there)}")
    if kind(path) in (".json", ".jsonl"):
        return Features.from_arrow_schema(_json_schema(path, wanted, all_columns))
    if kind(path) == ".parquet":
        known = Features.from_arrow_schema(_open_parquet(path).schema_arrow)
    else:
        known = Features(dict.fromkeys(there, datasets.Value("string")))
    return Features({name: known[name] for name in known if all_columns or name in wanted})


def _unified(paths: Sequence[Path], found: Sequence[Features]) -> Features:
    schema = found[0].arrow_schema.remove_metadata()
    for path, features in zip(paths[1:], found[1:], strict=True):
        try:
            schema = pa.unify_schemas([schema, features.arrow_schema.remove_metadata()], promote_options="permissive")
        except pa.ArrowException as error:
            raise ValueError(f"{path}: its columns do not go with those of {paths[0]}: {error}") from error
    return Features.from_arrow_schema(schema)


def _json_schema(path: Path, columns: Sequence[str], all_columns: bool) -> pa.Schema:
    """Return the types of a file's columns, which hold for all of its rows."""
    schema: dict[str, pa.DataType] = {}
    mixed: set[str] = set()
    rows = read_rows(path)
    while batch := list(itertools.islice(rows, 1000)):
        names = dict.fromkeys(name for row in batch for name in row.values)
        for name in (name for name in names if name not in mixed and (all_columns or name in columns)):
            values = [row.values.get(name) for row in batch]
            joined = _joined(schema.get(name), values)
            if joined is not None:
                schema[name] = joined
            elif name not in columns:
                schema.pop(name, None)
                mixed.add(name)
            else:
                place = next(i for i in range(len(values)) if _joined(schema.get(name), values[: i + 1]) is None)
                raise ValueError(
                    f"{batch[place].place}: column {name} holds {values[place]!r:.80}, which is of another type than "
                    "in the rows before, or too large"
                )
    return pa.schema(list(schema.items()))


def _joined(before: pa.DataType | None, values: Sequence[Any]) -> pa.DataType | None:
    """Return the type of all values and those before; None if there is none."""
    try:
        own = pa.array(values).type
        if before is None or own == before:
            return own
        fields = [pa.schema([("", each)]) for each in (before, own)]
        return pa.unify_schemas(fields, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return None


def _is_too_long(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) > LONGEST
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and any(map(_is_too_long, value))


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file with their ends; only a line feed ends one, as others stand inside of texts."""
    opener: Callable = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, data in enumerate(file, 1):
                if number == 1:
                    data = data.removeprefix(b"\xef\xbb\xbf")
                yield decode(data, where=str(path), line=number)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is broken or cut off: {error}") from error


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each row of a .csv or .tsv that is not blank, with the line that it begins at."""
    tabs = kind(path) == ".tsv"
    quoting: Any = csv.QUOTE_NONE if tabs and not has_quotes(path) else csv.QUOTE_MINIMAL
    reader = csv.reader(read_lines(path), delimiter="\t" if tabs else ",", quoting=quoting, strict=True)
    limit = csv.field_size_limit(2**31 - 1)  # a long value spoils its row, not the file
    line = 1
    try:
        while (row := next(reader, None)) is not None:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {line}: {error}; quote fields that hold commas, quotes or lines") from error
    finally:
        csv.field_size_limit(limit)


def _separated(path: Path) -> Iterator[Row]:
    records = _records(path)
    _, header = next(records, (1, []))
    for line, row in records:
        place = f"{path.name}, line {line}"
        if len(row) == len(header):
            yield Row(place, {name: value or None for name, value in zip(header, row, strict=True)})
        else:  # a stray separator moves values to other columns, so such a row cannot be trusted
            yield Row(place, {}, "wrong_number_of_columns")


_INSIDE = r'[^"]*(?:""[^"]*)*'
_FIELD = rf'(?:"{_INSIDE}"|[^"\t]*)'
# a line, up to its end or to a quote that a later line closes
_QUOTED_LINE = re.compile(rf'{_FIELD}(?:\t{_FIELD})*(?P<open>\t"{_INSIDE})?|(?P<all>"{_INSIDE})')
_DOUBLED = re.compile(r'(?:^|\t)"[^"\t]*[^"\t]""[^"\t][^\t]*"(?:\t|$)')


def has_quotes(path: Path) -> bool:
    """Return whether quotes in a .tsv are those of a writer such as `csv` or pandas, and no part of the texts.

    Such a writer quotes each value that holds a quote, and doubles it there. One that stands otherwise anywhere in the
    file shows that quotes are marks like any other.

    Raises:
        ValueError: the file shows both: quotes of one kind would be misread.
    """
    doubled = stray = inside = 0  # the lines where the first of each stands; where an open quote began
    for number, line in enumerate(read_lines(path), 1):
        if '"' not in line:
            continue
        line = line.rstrip("\r\n")
        if not doubled and _DOUBLED.search(line):
            doubled = number
        if not stray:
            match = _QUOTED_LINE.fullmatch(f'"{line}' if inside else line)
            if match is None:
                stray = number
            elif match["open"] is None and match["all"] is None:
                inside = 0
            else:
                inside = inside or number
        if doubled and stray:
            raise ValueError(
                f"{path}, line {stray}: quotes stand otherwise than in line {doubled}; quote each value that holds "
                "one, and double it there, everywhere or nowhere"
            )
    return not stray and not inside


def _json(path: Path) -> Iterator[Row]:
    lines = ((number, line.strip()) for number, line in enumerate(read_lines(path), 1) if line.strip())
    number, first = next(lines, (0, ""))
    if not number:
        return
    value: Any = None
    by_line = not first.startswith("[")
    try:
        value = parse_json(first, where=str(path), line=number) if by_line else None
    except ValueError:  # an object over several lines, or an error, which is raised below
        by_line = False
    second = next(lines, None) if by_line else None
    if second is not None:
        for line, text in itertools.chain([(number, first), second], lines):
            value = parse_json(text, where=str(path), line=line)
            yield Row(f"{path.name}, line {line}", _object(value, f"{path}, line {line}"))
        return
    if not by_line:
        text = "".join(itertools.islice(read_lines(path), number - 1, None))
        value = parse_json(text, where=str(path), line=number)
    rows: Any = _rows_of_object(value) if isinstance(value, dict) else value
    if by_line and rows == [value]:
        yield Row(f"{path.name}, line {number}", _object(value, ""))
        return
    if not isinstance(rows, list):
        _object(rows, f"{path}, line {number}")
    for number, row in enumerate(rows, 1):
        yield Row(f"{path.name}, row {number}", _object(row, f"{path}, row {number}"))


def _rows_of_object(value: dict[str, Any]) -> list[Any]:
    """Return the rows that a single object holds: columns, as pandas writes them; rows under `data`; or itself."""
    columns = list(value.values())
    if columns and all(isinstance(own, dict) and own and all(map(str.isdigit, own)) for own in columns):
        numbers = dict.fromkeys(number for own in columns for number in own)
        return [{name: own.get(number) for name, own in value.items()} for number in numbers]
    rows = value.get("data")
    if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
        return rows
    return [value]


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        shown = {type(None): "null", list: "an array", str: "a text", bool: "true or false"}.get(
            type(value), "a number"
        )
        raise ValueError(f"{where}: a row must be an object, not {shown}")
    return {name: None if own != own else own for name, own in value.items()}


def _paragraphs(path: Path) -> Iterator[Row]:
    by_line = not _has_blank_lines(path)
    begin, lines = 1, list[str]()
    for number, line in enumerate(itertools.chain(read_lines(path), [""]), 1):
        line = line.removesuffix("\n").removesuffix("\r")
        if line.strip():
            begin = begin if lines else number
            lines.append(line)
        if lines and (by_line or not line.strip()):
            yield Row(f"{path.name}, line {begin}", {"text": "\n".join(lines)})
            lines = []


def _has_blank_lines(path: Path) -> bool:
    """Return whether blank lines stand between others."""
    shape = (key for key, _ in itertools.groupby(bool(line.strip()) for line in read_lines(path)))
    return sum(itertools.islice((key for key in shape if key), 2)) > 1


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(io.BytesIO(gzip.decompress(path.read_bytes())) if path.suffix.lower() == ".gz" else path)
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no whole parquet file: {error}") from error


def _parquet(path: Path) -> Iterator[Row]:
    file, number = _open_parquet(path), 0
    try:
        for batch in file.iter_batches(batch_size=1000):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{path.name}, row {number}", _object(values, ""))
    except UnicodeDecodeError as error:
        rows = f"rows {number + 1} to {number + 1000}"
        raise ValueError(
            f"{path}, {rows}: texts must be UTF-8, not the byte {error.object[error.start]:#04x}"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no whole parquet file: {error}") from error
