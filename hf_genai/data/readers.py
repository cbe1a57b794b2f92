"""Read rows from files by the same rules for every format.

| file          | a row                                                                                        |
|---------------|----------------------------------------------------------------------------------------------|
| .csv          | values under the names of the first row, all of them unchanged texts; quoted as in RFC 4180  |
| .tsv          | the same; quoted as `csv` and pandas do, or not quoted at all (`has_quotes`)                  |
| .jsonl, .json | one object a line; an array of objects; an object of columns, as pandas writes               |
| .parquet      | a row with the file's types                                                                  |
| .txt          | `text`: a paragraph if blank lines separate paragraphs, otherwise a line                     |

Each file may be compressed (.gz). All files are UTF-8. An empty value of a table, a null and a NaN are missing (None).
A flawed row is returned with its location and the flaw; a broken file is an error.
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
# Maximum number of characters in a value. A longer value is no text but a whole file, or the result of a missing
# quote.
LONGEST = 10_000_000
# Columns of `read_dataset` with the location and the flaw of each row.
LOCATION, FLAW = "_location", "_flaw"


class Row(NamedTuple):
    """A row of a file: its location ("a.csv, line 3"), and its values by column or the flaw that prevents them."""

    location: str
    values: dict[str, Any]
    flaw: str | None = None


def file_type(path: Path) -> str:
    """Return the lower-case ending of a file name, without .gz."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def check_files(paths: Sequence[Path]) -> None:
    """Raise ValueError if the list of files is empty or a file is missing."""
    if not paths:
        raise ValueError("source must name at least one file, not 0")
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise ValueError(f"no such file: {', '.join(missing)} (looked from {Path.cwd()})")


def files_of_folder(folder: Path, config_name: str | None = None) -> dict[str, list[Path]] | None:
    """Return the files of each split, as `datasets` assigns them by name; None if only `datasets` can read them."""
    try:
        builder = datasets.load_dataset_builder(str(folder), config_name)
    except Exception as error:  # whatever datasets raises
        raise ValueError(f"{folder}: datasets finds no data in this folder: {error}") from error
    files = {str(split): [Path(name) for name in names] for split, names in (builder.config.data_files or {}).items()}
    paths = {path for names in files.values() for path in names}
    if not paths or not all(file_type(path) in ENDINGS and path.is_file() for path in paths):
        return None
    neighbours = {path.resolve() for split in paths for path in split.parent.iterdir() if file_type(path) in TABLES}
    if config_name is None and (
        ignored := sorted(path.name for path in neighbours - {path.resolve() for path in paths})
    ):
        logger.warning("%s: files of another split or format are ignored: %s", folder.name, ", ".join(ignored))
    return files


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file; the module's docstring describes the formats.

    Raises:
        ValueError: a file that is not UTF-8, malformed or truncated; the message names the file and the line.
    """
    readers = {".csv": _separated, ".tsv": _separated, ".parquet": _parquet, ".txt": _paragraphs}
    for row in readers.get(file_type(path), _json)(path):
        if row.flaw is None and any(_is_too_long(value) for value in row.values.values()):
            row = Row(row.location, {}, "too_long")
        yield row


def columns_of(path: Path) -> list[str]:
    """Return the names of a file's columns; for JSON, the names in any of its objects."""
    if file_type(path) in (".csv", ".tsv"):
        return next(_records(path), (1, []))[1]
    if file_type(path) == ".parquet":
        return _open_parquet(path).schema_arrow.names
    if file_type(path) == ".txt":
        return ["text"]
    return list(dict.fromkeys(name for row in _json(path) for name in row.values))


def format_names(columns: Sequence[str]) -> str:
    """Return a list of column names for an error message, shortened: a file that is no table may have thousands."""
    names = [name if len(name) <= 60 else f"{name[:60]}..." for name in columns[:20]]
    return ", ".join(names + ["..."] * (len(columns) > 20)) or "none"


def find_column(name: str, argument: str, columns: Sequence[str], where: str) -> str:
    """Return the column with this name, or else the field of a column of objects with this name."""
    if columns.count(name) > 1:
        raise ValueError(f"{argument}={name!r}: several columns of {where} have this name")
    if name in columns:
        return name
    fields = [column for column in columns if column.endswith(f".{name}")]
    if len(fields) == 1:
        return fields[0]
    raise ValueError(f"{argument}={name!r} is not a column of {where}; columns found: {format_names(columns)}")


def read_dataset(
    paths: Sequence[Path], columns: Sequence[str], optional: Sequence[str] = (), all_columns: bool = False
) -> Dataset:
    """Return the rows of files as a dataset on disk, with the columns `LOCATION` and `FLAW` (None or a reason).

    A later call with the same unchanged files opens the dataset from the cache.

    Args:
        columns: columns that each file must have.
        optional: columns that are kept if a file has them.
        all_columns: keep all columns whose values have one type; `columns` are then not required.

    Raises:
        ValueError: an error of `read_rows`, a missing or repeated column, or a column of values with different types.
    """
    check_files(paths)
    if wrong := [str(path) for path in paths if file_type(path) not in ENDINGS]:
        raise ValueError(f"files must end in {', '.join(ENDINGS)} (or these and .gz), not {', '.join(wrong)}")
    wanted = [*columns, *optional]
    features_of_files = [_features(path, wanted, () if all_columns else columns, all_columns) for path in paths]
    features = (
        features_of_files[0]
        if all(other == features_of_files[0] for other in features_of_files)
        else _unified(paths, features_of_files)
    )
    features = Features({**features, LOCATION: datasets.Value("string"), FLAW: datasets.Value("string")})
    if not any(True for path in paths for _ in itertools.islice(read_rows(path), 1)):
        return Dataset.from_dict({name: [] for name in features}, features=features)
    stamps = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    state = repr([stamps, str(features), Path(__file__).read_text("utf-8")])
    try:
        rows = Dataset.from_generator(
            partial(_values, tuple(paths), tuple(features)),
            features=features,
            fingerprint=hashlib.sha256(state.encode()).hexdigest()[:16],
            writer_batch_size=100,  # 100 rows of the longest values still fit into an Arrow array
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
            yield {**{name: row.values.get(name) for name in names}, LOCATION: row.location, FLAW: row.flaw}


def _features(path: Path, wanted: Sequence[str], needed: Sequence[str], all_columns: bool) -> Features:
    present = columns_of(path)
    if repeated := [name for name in wanted if present.count(name) > 1]:
        raise ValueError(f"{path}: several columns are called {repeated[0]}")
    if missing := [name for name in needed if name not in present]:
        raise ValueError(f"{path.name}: no column {', '.join(missing)}; columns found: {format_names(present)}")
    if file_type(path) in (".json", ".jsonl"):
        return Features.from_arrow_schema(_json_schema(path, wanted, all_columns))
    if file_type(path) == ".parquet":
        all_features = Features.from_arrow_schema(_open_parquet(path).schema_arrow)
    else:
        all_features = Features(dict.fromkeys(present, datasets.Value("string")))
    return Features({name: all_features[name] for name in all_features if all_columns or name in wanted})


def _unified(paths: Sequence[Path], features_of_files: Sequence[Features]) -> Features:
    schema = features_of_files[0].arrow_schema.remove_metadata()
    for path, features in zip(paths[1:], features_of_files[1:], strict=True):
        try:
            schema = pa.unify_schemas([schema, features.arrow_schema.remove_metadata()], promote_options="permissive")
        except pa.ArrowException as error:
            raise ValueError(f"{path}: its columns do not match the columns of {paths[0]}: {error}") from error
    return Features.from_arrow_schema(schema)


def _json_schema(path: Path, columns: Sequence[str], all_columns: bool) -> pa.Schema:
    """Return the schema of a JSON file: types that fit all of its rows."""
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
                index = next(i for i in range(len(values)) if _joined(schema.get(name), values[: i + 1]) is None)
                raise ValueError(
                    f"{batch[index].location}: column {name} holds {values[index]!r:.80}, which is too large or of "
                    "another type than the values in earlier rows"
                )
    return pa.schema(list(schema.items()))


def _joined(before: pa.DataType | None, values: Sequence[Any]) -> pa.DataType | None:
    """Return a type that fits both the values and `before`; None if there is no such type."""
    try:
        new_type = pa.array(values).type
        if before is None or new_type == before:
            return new_type
        fields = [pa.schema([("", type_)]) for type_ in (before, new_type)]
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
    """Yield the lines of a file with their line ends. Only a line feed ends a line; texts may contain other ends."""
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
    """Yield the first line number and the values of each row of a .csv or .tsv file, without blank rows."""
    tabs = file_type(path) == ".tsv"
    quoting: Any = csv.QUOTE_NONE if tabs and not has_quotes(path) else csv.QUOTE_MINIMAL
    reader = csv.reader(read_lines(path), delimiter="\t" if tabs else ",", quoting=quoting, strict=True)
    limit = csv.field_size_limit(2**31 - 1)  # a long value is a flaw of its row, not an error of the file
    line = 1
    try:
        while (row := next(reader, None)) is not None:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {line}: {error}; quote fields that contain commas, quotes or line breaks"
        ) from error
    finally:
        csv.field_size_limit(limit)


def _separated(path: Path) -> Iterator[Row]:
    records = _records(path)
    _, header = next(records, (1, []))
    for line, row in records:
        location = f"{path.name}, line {line}"
        if len(row) == len(header):
            yield Row(location, {name: value or None for name, value in zip(header, row, strict=True)})
        else:  # a stray separator shifts values to other columns
            yield Row(location, {}, "wrong_number_of_columns")


_INSIDE = r'[^"]*(?:""[^"]*)*'
_FIELD = rf'(?:"{_INSIDE}"|[^"\t]*)'
# a line up to its end, or up to an opening quote that a later line closes
_QUOTED_LINE = re.compile(rf'{_FIELD}(?:\t{_FIELD})*(?P<open>\t"{_INSIDE})?|(?P<all>"{_INSIDE})')
_DOUBLED = re.compile(r'(?:^|\t)"[^"\t]*[^"\t]""[^"\t][^\t]*"(?:\t|$)')


def has_quotes(path: Path) -> bool:
    """Return whether quotes in a .tsv file delimit values, as `csv` and pandas write them, or belong to the texts.

    A writer that quotes puts each value with a quote in quotes and doubles the quote inside. A quote in any other
    position shows that quotes belong to the texts.

    Raises:
        ValueError: a file with both kinds of quotes, of which one would be misread.
    """
    doubled = stray = inside = 0  # line numbers of the first doubled and stray quote, and of an open quote
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
                f"{path}, line {stray}: quotes are used differently in line {doubled}; either put every value that "
                "contains a quote in quotes and double the quote, or use no quoting in the whole file"
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
    except ValueError:  # an object over several lines, or malformed JSON, which raises an error below
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
    """Return the rows of a single object: its columns, as pandas writes them, its rows under `data`, or the object."""
    columns = list(value.values())
    if columns and all(isinstance(column, dict) and column and all(map(str.isdigit, column)) for column in columns):
        numbers = dict.fromkeys(number for column in columns for number in column)
        return [{name: column.get(number) for name, column in value.items()} for number in numbers]
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
    return {name: None if item != item else item for name, item in value.items()}


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
    """Return whether a file has blank lines between lines with text."""
    shape = (key for key, _ in itertools.groupby(bool(line.strip()) for line in read_lines(path)))
    return sum(itertools.islice((key for key in shape if key), 2)) > 1


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(io.BytesIO(gzip.decompress(path.read_bytes())) if path.suffix.lower() == ".gz" else path)
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a complete parquet file: {error}") from error


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
        raise ValueError(f"{path} is not a complete parquet file: {error}") from error
