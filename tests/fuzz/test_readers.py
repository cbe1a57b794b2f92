"""Whatever a file holds: its rows, or an error that names it."""

import csv
import gzip
import io
import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_genai.data import load_pairs
from hf_genai.data.readers import columns_of, read_rows
from hf_genai.data.texts import load_texts

NAMES = ["rows.csv", "rows.tsv", "rows.jsonl", "rows.json", "rows.txt", "rows.parquet", "rows.csv.gz"]
# what the formats are made of, and what breaks them
PIECES = ['"', '""', ",", "\t", "\n", "\r\n", "\r", "\n\n", "{", "}", "[", "]", ":", "text", "label", '"text"', "null"]
PIECES += [
    '{"text": "a", "label": "b"}',
    '"label"',
    "NaN",
    "1",
    "1e999",
    "-",
    "9" * 5000,
    "\\ud800",
    "\\",
    " ",
    "\x00",
]
PIECES += ["text,label\n", "text\tlabel\n", "\ufeff", "\u2028", "é", "[" * 2000, '{"a":' * 2000]
BYTES = [piece.encode() for piece in PIECES] + [b"\xff"]
CONTENT = st.binary(max_size=60) | st.lists(st.sampled_from(BYTES)).map(b"".join)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def named(error: ValueError, name: str) -> bool:
    """Whether an error is one of ours, which name the file, and of a length that a person reads."""
    return type(error) is ValueError and name in str(error) and len(str(error)) < 1500


def write(path: Path, content: bytes) -> Path:
    """Write a file; what its format wraps whole is well wrapped half of the times."""
    if path.suffix == ".gz" and len(content) % 2:
        content = gzip.compress(content)
    if path.suffix == ".parquet" and len(content) % 2:
        whole = io.BytesIO()
        pq.write_table(pa.table({"text": [content, b"a"], "label": ["a", "b"]}), whole)
        content = whole.getvalue()[: -len(content) if len(content) % 3 else None]
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", NAMES)
@given(content=CONTENT)
def test_rows_have_places_and_values_or_flaws(name, content, tmp_path):
    path = write(tmp_path / name, content)
    try:
        rows, columns = list(read_rows(path)), columns_of(path)
    except ValueError as error:
        assert named(error, name)
        return
    assert all(row.location.startswith(f"{name}, ") and set(row.values) <= set(columns) for row in rows)
    assert all((row.flaw is None) or not row.values for row in rows)


@pytest.mark.parametrize("load", ["texts", "pairs"])
@given(contents=st.lists(st.tuples(st.sampled_from(NAMES), CONTENT), min_size=1, max_size=2))
def test_sets_are_loaded_or_their_files_named(load, contents, tmp_path):
    paths = [write(tmp_path / f"{number}{name}", content) for number, (name, content) in enumerate(contents)]
    try:
        if load == "texts":
            data = load_texts(paths, columns=["text"], optional=["label"], validation=0.1, test=0)
        else:
            data = load_pairs(paths, source_column="text", target_column="label", hold_out=False)
    except ValueError as error:
        assert any(named(error, path.name) for path in paths)
    else:
        assert len(data.train)


@given(
    rows=st.lists(st.tuples(TEXT.filter(str.strip), TEXT.filter(str.strip)), min_size=1, max_size=5),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_is_written_comes_back_from_each_format(rows, quoting, tmp_path):
    records = [{"text": text, "label": label} for text, label in rows]
    for name, delimiter in (("rows.csv", ","), ("rows.tsv", "\t"), ("rows.csv.gz", ",")):
        file = io.StringIO(newline="")
        csv.writer(file, delimiter=delimiter, quoting=quoting).writerows([("text", "label"), *rows])
        content = file.getvalue().encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    (tmp_path / "rows.json").write_text(json.dumps(records), "utf-8")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in records), "utf-8")
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.tsv", "rows.csv.gz", "rows.json", "rows.jsonl", "rows.parquet"):
        assert [row.values for row in read_rows(tmp_path / name)] == records, name
