"""Texts: where they come from, which are kept, and that no text is in two splits."""

import gzip
import json

import pytest

from hf_genai.data.texts import Values, load_texts


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return path


def test_the_interpreters_own_files_are_prose_and_code():
    prose = load_texts("stdlib:prose")
    words = sum(len(text.split()) for text in prose.train["text"])
    assert words > 200_000
    assert prose.provenance.licence == "PSF-2.0"
    code = load_texts("stdlib:code")
    assert any("def wraps(" in text for text in [*code.train["text"], *code.validation["text"], *code.test["text"]])
    assert len(code.train) > 400


def test_texts_are_held_out_by_their_hash_and_stand_in_one_split_only():
    data = load_texts("stdlib:prose", validation=0.1, test=0.2)
    sizes = [len(data.train), len(data.validation), len(data.test)]
    assert sizes[1] / sum(sizes) == pytest.approx(0.1, abs=0.02)
    assert sizes[2] / sum(sizes) == pytest.approx(0.2, abs=0.02)
    sets = [set(split["text"]) for split in (data.train, data.validation, data.test)]
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
    again = load_texts("stdlib:prose", validation=0.1, test=0.2)
    assert again.validation["text"][:] == data.validation["text"][:]


def test_paragraphs_of_a_plain_file_are_texts(tmp_path):
    (tmp_path / "a.txt").write_text("One\ntwo.\n\nThree.\n\nThree.\n", "utf-8")
    data = load_texts(tmp_path / "a.txt", validation=0, test=0)
    assert data.train["text"][:] == ["One\ntwo.", "Three."]
    assert data.left_out["train"]["duplicate"] == 1
    assert not len(data.validation)


def test_labelled_rows_keep_their_columns_and_lose_what_has_no_text(tmp_path):
    rows = [{"text": f"text {number}", "label": "a", "other": 1} for number in range(40)]
    path = write(tmp_path / "rows.jsonl", [*rows, {"text": "  ", "label": "b"}, {"text": None, "label": "b"}])
    data = load_texts(path, columns=["text", "label"], validation=0.2, test=0)
    assert data.train.column_names == ["text", "label"]
    assert len(data.train) + len(data.validation) == 40
    assert dict(data.left_out["train"]) == {"empty": 1, "missing": 1}


def test_rows_that_share_a_text_may_leave_nothing_to_train_on(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\n" + "same text,a\nsame text,b\n" * 9)
    with pytest.raises(ValueError, match="left to train on .all are held out: rows of one text stay together"):
        load_texts(tmp_path / "rows.csv", columns=["text", "label"], validation=0.2, test=0.7)


def test_a_file_of_its_own_to_validate_on_takes_its_texts_out_of_training(tmp_path):
    train = write(tmp_path / "train.jsonl", [{"text": f"text {number}"} for number in range(10)])
    valid = write(tmp_path / "valid.jsonl", [{"text": "text 3"}, {"text": "text 4"}, {"text": "new"}, {"text": "new"}])
    data = load_texts(train, validation=valid, test=0)
    assert data.validation["text"][:] == ["text 3", "text 4", "new", "new"]  # what is scored on stays as it was given
    assert not {"text 3", "text 4"} & set(data.train["text"])
    assert data.left_out == {"train": {"held_out": 2}, "validation": {}}


def test_fewer_rows_are_drawn_by_the_seed(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"text": f"text {number}"} for number in range(100)])
    drawn = [load_texts(path, max_rows=10, seed=seed).train["text"][:] for seed in (0, 0, 1)]
    assert len(drawn[0]) == 10
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "stdlib:poems"}, "must be one of stdlib:prose, stdlib:code"),
        ({"source": "nowhere.csv"}, "no such file: nowhere.csv"),
        ({"columns": ["text", "label"]}, "no column label; columns found: text"),
        ({"revision": "main"}, "data_revision .* is for a data set on the Hub; stdlib:prose is no such data set"),
        ({"validation": 1.5}, "validation must be a share"),
        ({"source": ["a.csv", "b.parquet"]}, "no such file"),
    ],
)
def test_what_is_not_there_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        load_texts(**{"source": "stdlib:prose", **options})


def test_a_split_may_be_tested_on_that_is_called_validation_and_a_wrong_file_is_named(tmp_path):
    write(tmp_path / "train.jsonl", [{"text": f"text {number}"} for number in range(100)])
    write(tmp_path / "validation.jsonl", [{"text": "held out"}, {"text": "new"}])
    data = load_texts(str(tmp_path), validation=0.2, test="validation")
    assert data.test["text"][:] == ["held out", "new"] and data.names["test"].endswith(", split validation")
    assert 5 < len(data.validation) < 40 and len(data.train) + len(data.validation) == 100
    other = write(tmp_path / "other.jsonl", [{"body": "a"}])
    with pytest.raises(ValueError, match=r"^other\.jsonl: no column text; columns found: body"):
        load_texts(str(tmp_path), validation=0.2, test=other)


def test_a_folder_with_splits_keeps_them_and_one_without_train_is_refused(tmp_path):
    write(tmp_path / "train.jsonl", [{"text": f"text {number}"} for number in range(10)])
    write(tmp_path / "validation.jsonl", [{"text": "text 3"}, {"text": "new"}])
    data = load_texts(str(tmp_path), validation=0.5, test=0, licence="mit")
    assert data.validation["text"][:] == ["text 3", "new"]
    assert len(data.train) == 9
    assert data.provenance.licence == "mit"
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(ValueError, match="has no split 'train'; splits found: validation"):
        load_texts(str(tmp_path))


def test_texts_of_a_file_stay_on_disk_and_are_cleaned_there(tmp_path):
    texts = ["a text\n", "  another", "a text", "   ", "a third \n\n", *(f"text {number}" for number in range(200))]
    data = load_texts(write(tmp_path / "rows.jsonl", [{"text": text} for text in texts]), validation=0, test=0.1)
    assert data.train.cache_files and data.test.cache_files
    assert data.left_out["train"] == {"duplicate": 1, "empty": 1}
    found = [*data.train["text"], *data.test["text"]]
    assert sorted(found) == sorted(["a text", "  another", "a third", *texts[5:]])
    assert list(Values(data.train, "text")) == data.train["text"][:]


def test_files_are_read_as_they_stand(tmp_path):
    """A reader left to itself takes words for missing values, and a stray quote for the beginning of a long field."""
    words = [["null", "NA"], ["None", "US"], ["nan", "NA"]]
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in words))
    rows = [['"Stop, he said', "x"], ["second", "y"], ['a "third"', "z"], ['fourth"', "w"]]
    (tmp_path / "rows.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    for name, expected in (("rows.csv", words), ("rows.tsv", rows)):
        data = load_texts(tmp_path / name, columns=["text", "label"], validation=0, test=0)
        assert [[row["text"], row["label"]] for row in data.train] == expected
    (tmp_path / "texts.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\r\n")
    (tmp_path / "texts.txt.gz").write_bytes(gzip.compress(b"one\n\ntwo\n"))
    data.train.rename_column("label", "kind").save_to_disk(str(tmp_path / "saved"))
    for name, texts in (
        ("texts.txt", ["one", "two"]),
        ("texts.txt.gz", ["one", "two"]),
        ("saved", [text for text, _ in rows]),
    ):
        data = load_texts(str(tmp_path / name), validation=0, test=0)
        assert data.train["text"][:] == texts
        assert data.provenance.name == name  # and not the folder that it lies in: it goes into the model card
        assert str(tmp_path) not in str(data.provenance)
    with pytest.raises(ValueError, match=r"data_config \(config_name\)='en' is for a data set on the Hub"):
        load_texts(str(tmp_path / "saved"), config_name="en")


def test_values_of_a_table_stay_as_they_are_written(tmp_path):
    content = "text,label,empty\n007,01,\n1.50,true,\nword,1e3,\n"
    (tmp_path / "rows.csv").write_text(content)
    (tmp_path / "rows.tsv").write_text(content.replace(",", "\t"))
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(content.encode()))
    for name in ("rows.csv", "rows.tsv", "rows.csv.gz"):
        data = load_texts(tmp_path / name, columns=["text", "label", "empty"], validation=0, test=0)
        assert data.train["text"][:] == ["007", "1.50", "word"]
        assert data.train["label"][:] == ["01", "true", "1e3"]
        assert data.train["empty"][:] == [None] * 3


def test_white_space_hides_no_text_of_another_split(tmp_path):
    (tmp_path / "rows.txt").write_text("one\n\ntwo")
    (tmp_path / "held_out.txt").write_text("three\n\ntwo\n")  # the last paragraph with the end of its line
    data = load_texts(tmp_path / "rows.txt", validation=tmp_path / "held_out.txt", test=0)
    assert data.train["text"][:] == ["one"]
    assert data.validation["text"][:] == ["three", "two"]
    # with labels, texts stay as they are: answers are counted in their characters
    train = write(tmp_path / "train.jsonl", [{"text": "one", "label": "a"}, {"text": "two\n", "label": "a"}])
    held_out = write(tmp_path / "held_out.jsonl", [{"text": "two", "label": "a"}, {"text": "three ", "label": "b"}])
    data = load_texts(train, columns=["text", "label"], validation=held_out, test=0)
    assert data.train["text"][:] == ["one"]
    assert data.validation["text"][:] == ["two", "three "]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        (
            "rows.csv",
            b"text\nhello, you\nbye, you\n",
            {},
            r"rows.csv: no row is left .*2 wrong_number_of_columns \(rows.csv, line 2; rows.csv, line 3\)",
        ),
        ("rows.csv", b"text,label,text\na,b,c\n", {}, "several columns are called text"),
        ("rows.csv", b"text\n", {}, "rows.csv: no row is left to train on .it holds no row"),
        ("rows.csv", b"", {}, "rows.csv: no column text; columns found: none"),
        (
            "rows.txt",
            b"a\n\nb",
            {"config_name": "en"},
            r"data_config \(config_name\)='en' is for a data set on the Hub",
        ),
        ("rows.txt", b"n\xe9", {}, "rows.txt, line 1: must be UTF-8, not the byte 0xe9"),
        ("rows", b"a", {}, "must end in .csv, .*, not .*rows"),
        ("rows.txt", b"a\n\nb", {"max_rows": 0}, "max_rows must be at least 1, not 0"),
        ("rows.txt", b"a\n\nb", {"validation": 0.5, "test": 0.5}, "must leave a share to train on"),
    ],
)
def test_files_that_cannot_be_read_say_why(name, content, options, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_texts(str(tmp_path / name), **options)


def test_training_texts_are_not_taken_to_be_scored_on(tmp_path, monkeypatch):
    def fail(name, *args, **kwargs):
        raise ConnectionError(f"no {name} on the Hub")

    path = write(tmp_path / "rows.jsonl", [{"text": f"text {number}"} for number in range(10)])
    monkeypatch.setattr("hf_genai.data.pairs.load_dataset", fail)
    with pytest.raises(ValueError, match="source='train' is neither built in .* nor a file here"):
        load_texts(path, validation="train")
