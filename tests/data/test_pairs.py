import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from datasets import Dataset, DatasetDict

from hf_genai.data import pairs as pairs_module
from hf_genai.data.pairs import load_pairs

ROWS = [(f"number {i}", f"nombre {i}") for i in range(40)]


def write_csv(path, rows=ROWS, header="source,target"):
    path.write_text("\n".join([header, *(f"{a},{b}" for a, b in rows)]) + "\n", encoding="utf-8")
    return path


def texts(dataset):
    return list(zip(dataset["source"], dataset["target"], strict=True))


def test_the_built_in_pairs_come_with_an_honest_provenance():
    data = load_pairs("cldr:en-fr", train_size=200, validation=20, test=30)
    assert [len(d) for d in (data.train, data.validation, data.test)] == [200, 20, 30]
    assert data.train.column_names == ["source", "target"]
    for side in ("source", "target"):
        assert not set(data.train[side]) & {*data.validation[side], *data.test[side]}
    assert data.provenance.synthetic
    assert "parts are human translations" in data.provenance.description
    assert "composed by rule" in data.provenance.description
    assert data.provenance.origin.startswith("Babel 2.") and data.provenance.origin.endswith("(PyPI), seed 0")
    assert data.provenance.languages == ("en", "fr")
    assert not any(data.report.left_out.values())


def test_a_split_of_zero_pairs_is_empty_and_no_error():
    data = load_pairs("cldr:en-de", train_size=5, validation=0, test=2)
    assert (len(data.validation), len(data.test)) == (0, 2)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "txt"])
def test_each_kind_of_file_gives_the_same_pairs(tmp_path, suffix):
    path = tmp_path / f"pairs.{suffix}"
    sources, targets = zip(*ROWS, strict=True)
    if suffix == "csv":
        write_csv(path)
    elif suffix == "tsv":
        path.write_text("source\ttarget\r\n" + "".join(f"{a}\t{b}\r\n" for a, b in ROWS))
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps({"source": a, "target": b}) + "\n" for a, b in ROWS))
    elif suffix == "parquet":
        pq.write_table(pa.table({"target": targets, "extra": sources, "source": sources}), path)
    else:
        path = [tmp_path / "a.en", tmp_path / "a.fr"]
        for file, side in zip(path, (sources, targets), strict=True):
            file.write_text("\n".join(side) + "\n")
    data = load_pairs(path, validation=5, test=5)
    assert sorted(texts(data.train) + texts(data.validation) + texts(data.test)) == sorted(ROWS)
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 5, 5)


def test_csv_keeps_commas_lines_quotes_and_words_that_look_like_nothing(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\ufeffsource,target\n"a, ""b""\nc",None\nNA,null\n12,3.0\n', encoding="utf-8")
    assert texts(load_pairs(path, validation=0, test=0).train) == [
        ('a, "b"\nc', "None"),
        ("NA", "null"),
        ("12", "3.0"),
    ]


def test_tsv_keeps_quotes_as_they_are(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('source\ttarget\n"open\t"ouvert\nb\tc\n')
    assert texts(load_pairs(path, validation=0, test=0).train) == [('"open', '"ouvert'), ("b", "c")]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_column_of_translations_is_found_by_its_languages(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    rows = [{"translation": {"en": a, "fr": b}} for a, b in ROWS[:4]]
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    data = load_pairs(path, source_column="fr", target_column="translation.en", validation=0, test=0)
    assert texts(data.train) == [(b, a) for a, b in ROWS[:4]]


def test_bad_rows_are_counted_by_reason_and_split(tmp_path, caplog):
    rows = [*ROWS[:5], ROWS[0], ("", "vide"), ("  ", "vide"), (None, "x"), (3, "trois")]
    rows += [("long", "l" * 100), ("too long", "l" * 101)]
    path, given = tmp_path / "a.jsonl", tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps({"source": a, "target": b}) + "\n" for a, b in rows) + '{"source": "alone"}\n')
    given.write_text("".join(json.dumps({"source": a, "target": b}) + "\n" for a, b in [ROWS[1], ROWS[1], ("", "")]))
    data = load_pairs(path, test=given, validation=0, max_length_chars=100)
    reasons = {"duplicate": 1, "empty": 2, "missing": 2, "not_text": 1, "too_long": 1, "held_out": 1}
    assert data.report.left_out == {"train": reasons, "validation": {}, "test": {"empty": 1}}
    assert data.report.kept == {"train": 5, "validation": 0, "test": 2}
    assert "2 missing" in str(data.report)
    assert "2 missing" in caplog.text


def test_rows_with_a_stray_separator_are_left_out(tmp_path):
    path = write_csv(tmp_path / "a.csv", [*ROWS[:3], ("well, yes", "oui")])
    path.write_text(path.read_text("utf-8") + "\n\n", "utf-8")  # empty lines are no rows
    data = load_pairs(path, validation=0, test=0)
    assert data.report.left_out["train"] == {"wrong_number_of_columns": 1}
    assert len(data.train) == 3


def test_no_source_text_is_in_two_splits_and_order_and_seed_do_not_matter(tmp_path):
    rows = [(f"source {i % 30}", f"target {i}") for i in range(90)]
    one = load_pairs(write_csv(tmp_path / "a.csv", rows), validation=0.1, test=0.2)
    two = load_pairs(write_csv(tmp_path / "b.csv", rows[::-1]), validation=0.1, test=0.2, seed=5)
    sets = [set(getattr(one, split)["source"]) for split in ("train", "validation", "test")]
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
    assert [len(one.validation), len(one.test)] == [9, 18]
    for split in ("train", "validation", "test"):
        assert sorted(texts(getattr(one, split))) == sorted(texts(getattr(two, split)))


def test_the_choice_of_held_out_pairs_is_fixed_for_good(tmp_path):
    data = load_pairs(write_csv(tmp_path / "a.csv"), validation=3, test=3)
    assert sorted(data.test["source"]) == ["number 18", "number 2", "number 3"]
    assert sorted(data.validation["source"]) == ["number 16", "number 28", "number 37"]


def test_given_splits_win_over_the_training_set_and_test_over_validation(tmp_path):
    train = write_csv(tmp_path / "train.csv")
    validation = write_csv(tmp_path / "valid.csv", ROWS[:4])
    test = write_csv(tmp_path / "test.csv", ROWS[3:6])
    data = load_pairs(train, validation=validation, test=str(test))
    assert (texts(data.validation), texts(data.test)) == (ROWS[:3], ROWS[3:6])
    assert sorted(texts(data.train)) == sorted(ROWS[6:])
    assert data.report.left_out == {"train": {"held_out": 6}, "validation": {"held_out": 1}, "test": {}}


def test_a_small_set_still_gives_a_pair_to_each_split(tmp_path):
    data = load_pairs(write_csv(tmp_path / "a.csv", ROWS[:5]))
    assert [len(data.train), len(data.validation), len(data.test)] == [3, 1, 1]


def test_train_size_draws_with_the_seed_and_leaves_held_out_pairs_alone(tmp_path):
    path = write_csv(tmp_path / "a.csv")
    one, two, again = (load_pairs(path, train_size=10, seed=seed) for seed in (0, 1, 0))
    assert len(one.train) == 10
    assert texts(one.train) == texts(again.train) != texts(two.train)
    assert texts(one.test) == texts(two.test)


def test_a_set_with_nothing_left_is_an_error_that_says_why(tmp_path):
    with pytest.raises(ValueError, match=r"left to train on(.|\n)*1 empty \(a.csv, line 3\), 1 missing"):
        load_pairs(write_csv(tmp_path / "a.csv", [("", "a"), (" ", "b")]))
    with pytest.raises(ValueError, match="no pair is left for test(.|\n)*1 missing"):
        load_pairs(write_csv(tmp_path / "b.csv"), test=write_csv(tmp_path / "c.csv", [("", "a")]))
    with pytest.raises(ValueError, match="no pair is left for test"):
        load_pairs(tmp_path / "b.csv", test=tmp_path / "c.csv", hold_out=False)
    with pytest.raises(ValueError, match="no pair is left to train on"):
        load_pairs(write_csv(tmp_path / "d.csv", []))


def test_holding_out_more_than_there_is_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="test=40: leaves nothing to train on; the set has 40 good pairs"):
        load_pairs(write_csv(tmp_path / "a.csv"), test=40)


def test_bytes_that_are_not_utf8_are_named_by_file_and_line(tmp_path):
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        path = tmp_path / name
        path.write_bytes(b'source,target\n{"a": 1}\ncaf\xe9,b\n')
        with pytest.raises(ValueError, match=rf"{name}, line 3: must be UTF-8, not the byte 0xe9"):
            load_pairs(path)


def test_malformed_files_are_named_with_their_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"source": "a", "target": "b"}\n{"source": \n')
    with pytest.raises(ValueError, match="a.jsonl, line 2: is broken or cut off, it is not JSON"):
        load_pairs(path)
    path = tmp_path / "a.csv"
    path.write_text('source,target\na,b\n"c,d\n')
    with pytest.raises(ValueError, match="a.csv, line 3: unexpected end of data"):
        load_pairs(path)
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 cut in half")
    with pytest.raises(ValueError, match="a.parquet is not a complete parquet file"):
        load_pairs(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"config_name": "en"},
            r"data_config \(config_name\)='en' is for a data set on the Hub; .*a.csv is no such data set",
        ),
        ({"source_column": "src"}, r"source_column='src' is not a column of .*a.csv; columns found: source, target"),
        ({"validation": 1.5}, "validation must be a number of pairs, a share"),
        ({"test": -1}, "test must be a number of pairs"),
        ({"test": "missing.csv"}, "no such file: missing.csv"),
        ({"max_length_chars": 0}, "max_length_chars must be at least 1, not 0"),
        ({"train_size": 0}, "train_size must be at least 1"),
        ({"source": "cdlr:en-fr"}, "unknown scheme; known: 'cldr:en-fr'"),
        ({"source": "nowhere/pairs.csv"}, "no such file: nowhere/pairs.csv"),
        ({"source": "cldr:en-fr", "test": 0.5}, "test must be a number of pairs with source='cldr:en-fr', not 0.5"),
        ({"source": ["a.csv", "b.fr"]}, "no such file"),
    ],
)
def test_wrong_arguments_are_refused_by_name(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_pairs(**{"source": write_csv(tmp_path / "a.csv"), **arguments})


def test_text_files_of_different_lengths_are_refused_with_their_counts(tmp_path):
    (tmp_path / "a.en").write_text("1\n2\n3\n")
    (tmp_path / "a.fr").write_text("1\n2")
    with pytest.raises(ValueError, match="a.en has 3, .*a.fr 2"):
        load_pairs([tmp_path / "a.en", tmp_path / "a.fr"])
    with pytest.raises(ValueError, match="exactly two plain text files"):
        load_pairs(tmp_path / "a.en")


def test_a_hub_dataset_brings_its_own_splits(monkeypatch):
    def rows(part):
        return Dataset.from_list([{"id": str(i), "translation": {"en": a, "fr": b}} for i, (a, b) in enumerate(part)])

    splits = DatasetDict(train=rows(ROWS), validation=rows(ROWS[:3]), dev2=rows(ROWS[3:5]))
    monkeypatch.setattr(pairs_module, "load_dataset", lambda name, config, revision: splits)
    columns = {"source_column": "en", "target_column": "fr"}
    data = load_pairs("someone/books", test="dev2", revision="v2", licence="mit", **columns)
    assert (texts(data.validation), texts(data.test)) == (ROWS[:3], ROWS[3:5])
    assert sorted(texts(data.train)) == sorted(ROWS[5:])
    assert data.provenance.name == "someone/books"
    assert (data.provenance.origin, data.provenance.licence) == ("someone/books, revision v2", "mit")
    assert (data.provenance.synthetic, data.provenance.dataset_id) == (None, "someone/books")
    assert len(load_pairs("someone/books", validation=7, **columns).validation) == 7
    with pytest.raises(
        ValueError, match=r"source_column='source' .* columns found: id, translation.en, translation.fr"
    ):
        load_pairs("someone/books")


def test_a_dataset_that_cannot_be_opened_says_what_the_name_could_have_been(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'cldr-en-fr' on the Hub")

    monkeypatch.setattr(pairs_module, "load_dataset", fail)
    with pytest.raises(ValueError, match="neither built in .*nor a file here.*Couldn't reach"):
        load_pairs("cldr-en-fr")


def test_a_language_pack_is_read_without_placeholders_and_untranslated_texts(tmp_path, monkeypatch):
    folder = tmp_path / "jupyterlab_language_pack_xx_XX" / "locale" / "xx_XX" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    (tmp_path / "jupyterlab_language_pack_xx_XX" / "__init__.py").touch()
    info = tmp_path / "jupyterlab_language_pack_xx_XX-4.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: jupyterlab-language-pack-xx-XX\nVersion: 4.5\n")
    catalog = Catalog(locale="fr")
    catalog.add("Save", "Enregistrer", context="menu")
    catalog.add("Open %1", "Ouvrir %1")
    catalog.add("Menu", "Menu")
    catalog.add(("a cell", "many cells"), ("une cellule", "des cellules"))
    with (folder / "jupyterlab.mo").open("wb") as file:
        write_mo(file, catalog)
    monkeypatch.syspath_prepend(tmp_path)
    data = load_pairs("jupyterlab:xx-XX", validation=0, test=0)
    assert sorted(texts(data.train)) == [
        ("Save", "Enregistrer"),
        ("a cell", "une cellule"),
        ("many cells", "des cellules"),
    ]
    assert data.report.left_out["train"] == {"placeholder_or_markup": 1, "untranslated": 1}
    assert data.provenance.origin == "jupyterlab-language-pack-xx-XX 4.5 (PyPI)"
    assert "jupyterlab_language_pack_xx_XX" not in sys.modules


def test_a_missing_language_pack_names_the_extra():
    with pytest.raises(ImportError, match=r"pip install 'hf_genai\[jupyterlab\]'"):
        load_pairs("jupyterlab:yy-YY")
