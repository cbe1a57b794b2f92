"""The same rows, however a file is written and wherever it lies; what is wrong is said with file and line."""

import csv
import gzip
import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_genai.data import load_pairs, readers
from hf_genai.data.readers import columns_of, has_quotes, read_rows
from hf_genai.data.texts import load_texts

# what readers left to themselves change: quotes, line ends, words for nothing, numbers, spaces, other scripts
TEXTS = ['He said "hi"', '"whole"', "two\nlines", "a, b\tc", "NA", "null", "007", " spaces ", "日本 ❤️", "it's", "1e3"]
ROWS = [
    {"text": text, "label": label}
    for text, label in zip(TEXTS, ["01", "NA", "02", "true", "03", "4", "5", "6", "7", "8", "9"], strict=True)
]


def write(path: Path) -> Path:
    """Write ROWS as its ending says, by what people write such files with."""
    frame, ending = pd.DataFrame(ROWS), path.name.partition(".")[2].removesuffix(".gz")
    if ending in ("csv", "tsv"):
        frame.to_csv(path, sep={"csv": ",", "tsv": "\t"}[ending], index=False)
    elif ending == "module.tsv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], delimiter="\t")
            writer.writeheader()
            writer.writerows(ROWS)
    elif ending == "quoted.tsv":
        frame.to_csv(path, sep="\t", index=False, quoting=csv.QUOTE_ALL)
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        text = {
            "jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
            "json": json.dumps(ROWS),
            "indented.json": json.dumps(ROWS, indent=2),
            "lines.json": "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
            "pandas.json": frame.to_json(),
        }[ending]
        open_ = gzip.open if path.suffix == ".gz" else open
        with open_(path, "wt", encoding="utf-8") as file:
            file.write(text)
    return path


FORMATS = ["csv", "csv.gz", "tsv", "tsv.gz", "module.tsv", "quoted.tsv", "jsonl", "jsonl.gz", "json", "indented.json"]
FORMATS += ["lines.json", "pandas.json", "parquet"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_gives_the_same_rows_in_each_format_alone_in_a_folder_and_among_others(format, tmp_path, monkeypatch):
    path = write(tmp_path / f"train.{format}")
    (tmp_path / "more.jsonl").write_text('{"label": "x", "text": "more"}\n')
    alone = {"columns": ["text", "label"], "validation": 0, "test": 0}
    assert list(load_texts(path, **alone).train) == ROWS
    assert list(load_texts([path, tmp_path / "more.jsonl"], **alone).train) == [*ROWS, {"text": "more", "label": "x"}]
    (tmp_path / "more.jsonl").unlink()
    assert list(load_texts(str(tmp_path), **alone).train) == ROWS
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert list(load_texts(f"~/{tmp_path.name}", **alone).train) == ROWS
    for source in (path, str(tmp_path), f"~/{tmp_path.name}"):
        pairs = load_pairs(source, source_column="text", target_column="label", validation=0, test=0)
        assert list(pairs.train) == [{"source": r["text"].strip(), "target": r["label"]} for r in ROWS]


def test_columns_go_by_their_names_and_a_file_that_lacks_one_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\none,01\n")
    (tmp_path / "b.csv").write_text("label,extra,text\n02,x,two\n")
    options = {"columns": ["text", "label"], "validation": 0, "test": 0}
    assert list(load_texts(str(tmp_path), **options).train) == [
        {"text": "one", "label": "01"},
        {"text": "two", "label": "02"},
    ]
    (tmp_path / "c.csv").write_text("txt,label\nthree,03\n")
    with pytest.raises(ValueError, match=r"^c\.csv: no column text; columns found: txt, label"):
        load_texts(str(tmp_path), **options)
    with pytest.raises(ValueError, match=r"source_column='text' is not a column of .*c\.csv"):
        load_pairs(str(tmp_path), source_column="text", target_column="label")


def test_files_that_a_folder_leaves_aside_are_told(tmp_path, caplog):
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text(f"text\n{name}\nmore\n")
    (tmp_path / "notes.jsonl").write_text('{"text": "a"}\n')
    with caplog.at_level(logging.WARNING):
        data = load_texts(str(tmp_path), validation=0)
    assert data.test["text"][:] == ["test.csv", "more"] and data.train["text"][:] == ["train.csv"]
    assert "files of another split or format are ignored: notes.jsonl" in caplog.text


def test_a_text_file_without_blank_lines_is_a_text_a_line(tmp_path):
    (tmp_path / "lines.txt").write_text("\n\nOne.\r\nTwo.\nThree.\n\n")
    (tmp_path / "paragraphs.txt").write_text("\ufeffOne\nand on.\n \t\nTwo.\n")
    assert [tuple(row) for row in read_rows(tmp_path / "lines.txt")] == [
        ("lines.txt, line 3", {"text": "One."}, None),
        ("lines.txt, line 4", {"text": "Two."}, None),
        ("lines.txt, line 5", {"text": "Three."}, None),
    ]
    assert [(row.location, row.values["text"]) for row in read_rows(tmp_path / "paragraphs.txt")] == [
        ("paragraphs.txt, line 1", "One\nand on."),
        ("paragraphs.txt, line 4", "Two."),
    ]
    (tmp_path / "many.txt").write_text("".join(f"Sentence {number}.\n" for number in range(300)))
    data = load_texts(tmp_path / "many.txt", test=0)
    assert len(data.train) + len(data.validation) == 300 and len(data.validation) > 3


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a\tb\n", True),
        ('"one ""two"""\tx\nthree\ty\n', True),
        ('"over\ntwo lines"\tx\n"and\n\nthree"\t"y"\n', True),
        ('"Stop, he said\tx\n', False),
        ('6" long\tx\n', False),
        ('"Hello," she said.\tx\n"Whole."\ty\n', False),
    ],
)
def test_quotes_of_a_tsv_are_marks_of_the_text_where_no_writer_has_put_them(content, expected, tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("text\tlabel\n" + content)
    assert has_quotes(path) is expected
    found = [row.values["text"] for row in read_rows(path)]
    if not expected:
        assert found == [line.split("\t")[0] for line in content.splitlines()]
    else:
        assert not any('""' in text or text.startswith('"') for text in found)


def test_a_tsv_quoted_in_part_is_refused_with_both_lines(tmp_path):
    for content, lines in (('"a ""b"""\tx\nc "d"\ty\n', (3, 2)), ('c "d"\ty\n"a ""b"""\tx\n', (2, 3))):
        (tmp_path / "rows.tsv").write_text("text\tlabel\n" + content)
        message = r"rows\.tsv, line {}: quotes are used differently in line {}".format(*lines)
        with pytest.raises(ValueError, match=message):
            list(read_rows(tmp_path / "rows.tsv"))


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "json", "parquet", "csv.gz", "txt"])
def test_one_cell_far_too_long_leaves_out_its_row_and_tells_which(format, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(readers, "LONGEST", 200_000)
    texts = ["one\nand on", "x" * 200_001, "two", "y" * 200_000]
    path, frame = tmp_path / f"rows.{format}", pd.DataFrame({"text": texts, "label": list("abcd")})
    if format == "txt":
        path.write_text("\n\n".join(texts))
    elif format == "parquet":
        frame.to_parquet(path)
    elif format.startswith("json"):
        frame.to_json(path, orient="records", lines=format == "jsonl")
    else:
        frame.to_csv(path, sep="\t" if format == "tsv" else ",", index=False)
    location = {"json": "row 2", "jsonl": "line 2", "parquet": "row 2"}.get(format, "line 4")
    with caplog.at_level(logging.WARNING):
        data = load_texts(path, validation=0, test=0)
    assert data.train["text"][:] == [texts[0], texts[2], texts[3]]
    assert f"train: 1 too_long (rows.{format}, {location})" in caplog.text
    if format != "txt":
        options = {"source_column": "text", "target_column": "label", "validation": 0, "test": 0}
        pairs = load_pairs(path, **options, max_length_chars=1000)
        assert pairs.train["source"][:] == ["one\nand on", "two"]
        assert f"2 too_long (rows.{format}, {location}; " in str(pairs.report)


BROKEN = [
    ("rows.jsonl", b'null\n{"text": "a"}\n', r"rows\.jsonl, line 1: a row must be an object, not null"),
    ("rows.jsonl", b"null", r"rows\.jsonl, line 1: a row must be an object, not null"),
    ("rows.jsonl", b'{"text": "a"}\n\n[1]\n', r"rows\.jsonl, line 3: a row must be an object, not an array"),
    ("rows.json", b'[{"text": "a"},\n"b"]', r"rows\.json, row 2: a row must be an object, not a text"),
    ("rows.json", b"[" * 100_000, r"rows\.json, line 1: is broken: its JSON is nested too deeply"),
    ("rows.jsonl", b'{"text": "a"}\n{"text":' + b"[" * 100_000, r"rows\.jsonl, line 2: is broken: .* too deeply"),
    ("rows.jsonl", b'{"text": "a"}\n{"text": \n', r"rows\.jsonl, line 2: is broken or cut off, it is not JSON"),
    ("rows.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n', r"rows\.jsonl, line 2: is broken: \\ud800 is half"),
    ("rows.csv", b'text,label\n\n"a\n\nb",x\ncaf\xe9,y\n', r"rows\.csv, line 6: must be UTF-8, not the byte 0xe9"),
    ("rows.csv", b'text,label\n"a\n\nb",x\n"c,y\n', r"rows\.csv, line 5: unexpected end of data"),
    ("rows.tsv", b'text\tlabel\n"a\nb"\tx\nc\xff\ty\n', r"rows\.tsv, line 4: must be UTF-8, not the byte 0xff"),
    ("rows.txt", b"a\n\n\xff", r"rows\.txt, line 3: must be UTF-8, not the byte 0xff"),
    ("rows.csv", "text,label\na,b\n".encode("utf-16"), r"rows\.csv, line 1: must be UTF-8, not the byte 0xff"),
    ("rows.csv.gz", b"text\na\n", r"rows\.csv\.gz is broken or cut off: Not a gzipped file"),
    ("rows.csv.gz", gzip.compress(b"text\na\n" * 99)[:-12], r"rows\.csv\.gz is broken or cut off"),
    ("rows.parquet", b"PAR1 and no more", r"rows\.parquet is not a complete parquet file"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_a_broken_file_is_named_with_its_line(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_texts(tmp_path / name, validation=0, test=0)
    if not name.endswith("txt"):
        with pytest.raises(ValueError, match=message):
            load_pairs(tmp_path / name, source_column="text", target_column="text")


def test_values_of_one_column_are_of_one_type(tmp_path):
    rows = [{"text": str(number), "label": number, "other": number} for number in range(1500)]
    path = tmp_path / "rows.jsonl"
    options = {"columns": ["text", "label"], "validation": 0, "test": 0}
    for value in ("x", 10**30, [1]):
        path.write_text("\n".join(map(json.dumps, [*rows, {"text": "last", "label": value, "other": "x"}])))
        with pytest.raises(ValueError, match=r"rows\.jsonl, line 1501: column label holds .* of another type"):
            load_texts(path, **options)
    # a column that is not asked for may hold anything, and dates are texts
    path.write_text("\n".join(map(json.dumps, [*rows, {"text": "2026-01-02", "label": 3, "other": {}, "x": 10**30}])))
    assert load_texts(path, **options).train[1500] == {"text": "2026-01-02", "label": 3}
    path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": NaN}\n{"text": "c", "label": null}\n')
    assert load_texts(path, **options).train["label"][:] == [1, None, None]


def test_types_and_names_of_classes_in_parquet_are_kept(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).to_parquet(tmp_path / "a.parquet")
    data = load_texts(tmp_path / "a.parquet", columns=["text", "label"], validation=0, test=0)
    assert data.train.features["label"].names == ["bad", "good"] and data.train["label"][:] == [1, 0]
    assert columns_of(tmp_path / "a.parquet") == ["text", "label"]
    pq.write_table(pa.table({"text": np.array(["a"]), "label": [{"x": 1}]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: its columns do not match the columns of .*a\.parquet"):
        load_texts([tmp_path / "a.parquet", tmp_path / "b.parquet"], columns=["text", "label"])


def test_a_changed_file_is_read_anew(tmp_path):
    path = tmp_path / "rows.csv"
    for word in ("first", "other"):  # of one length
        path.write_text(f"text\n{word}\n")
        assert load_texts(path, validation=0, test=0).train["text"][:] == [word]


def test_rows_of_a_split_know_where_they_stand(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('text\n\n"a\nb"\n\nc\n  \nd\n' + "".join(f"{number}\n" for number in range(40)))
    data = load_texts(path, validation=0.2, test=0.2, max_rows=9)
    lines = dict(enumerate(path.read_text().split("\n"), 1))
    for split in ("train", "validation", "test"):
        rows = getattr(data, split)
        for number, text in enumerate(rows["text"]):
            line = int(data.location(split, number).removeprefix("rows.csv, line "))
            assert lines[line].strip('"') == text.split("\n")[0]
    assert data.left_out_locations["train"]["empty"] == ["rows.csv, line 7"]


@pytest.mark.parametrize("count", range(3, 9))
def test_a_row_is_held_out_wherever_rows_are(count, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text\n" + "".join(f"text {number}\n" for number in range(count)))
    data = load_texts(path, validation=0.05, test=0.05)
    sizes = [len(data.train), len(data.validation), len(data.test)]
    assert min(sizes) >= 1 and sum(sizes) == count
    much = load_texts(path, validation=0.49, test=0.49)
    assert min(len(much.train), len(much.validation), len(much.test)) >= 1
