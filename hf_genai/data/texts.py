"""Load texts, alone or with labels and the like, hold some out, and say where they came from."""

import csv
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, Features, Value, load_dataset

from .built_in import MAKERS, load_built_in
from .pairs import Provenance, hub_provenance, open_hub, refuse_hub_options

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
# suffix -> the builder of `datasets` that reads it
READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}
# An empty field alone is a missing value: left to itself the reader takes words such as NA, None and null for one.
_CSV: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
_OPTIONS: dict[str, dict[str, Any]] = {
    ".csv": _CSV,
    ".tsv": {**_CSV, "sep": "\t", "quoting": csv.QUOTE_NONE},  # else a stray quote swallows rows; as in `readers`
    ".txt": {"sample_by": "paragraph", "encoding": "utf-8-sig"},
}


@dataclass
class TextData:
    """Three datasets of the same columns; what was left out of each, by reason; where it all comes from."""

    train: Dataset
    validation: Dataset
    test: Dataset
    provenance: Provenance
    left_out: dict[str, Counter] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # of each split: its own file or split, else the whole


class Values:
    """A column's values, few of which are in memory at a time; quicker than the column itself, one by one."""

    def __init__(self, rows: Dataset, column: str):
        self.rows, self.column = rows.select_columns(column), column

    def __iter__(self) -> Iterator[Any]:
        for batch in self.rows.iter(100):
            yield from batch[self.column]


def load_texts(
    source: str | Path | Sequence[str | Path] = "stdlib:prose",
    *,
    columns: Sequence[str] = ("text",),
    optional: Sequence[str] = (),
    key: str | None = None,
    validation: float | str | Path = 0.05,
    test: float | str | Path = 0.05,
    max_rows: int | None = None,
    seed: int = 0,
    config_name: str | None = None,
    revision: str | None = None,
    licence: str | None = None,
    languages: Sequence[str] = (),
    reshape: Callable[[Dataset], Dataset] | None = None,
) -> TextData:
    """Load rows of texts.

    A row is left out, and counted, when its key is `missing` or `empty` (white space), when it is `held_out` because a
    later split has it and, of training texts without other columns, when it is a `duplicate`.

    Args:
        source: one of
            - "stdlib:prose", "stdlib:code" and others that `built_in` lists: made from files that are always there;
            - .csv, .tsv (without quoting), .jsonl, .parquet file(s), or .txt, whose paragraphs (blank lines between)
              are the texts; each also as .gz;
            - the name of a dataset on the Hub, or a folder that `datasets` reads.
        columns: that each row must have; others are dropped.
        optional: columns that are kept where a split has them.
        key: the column that says what a row is: no key is in two splits. None: the first of `columns`.
        validation, test: a share of the rows (0: none), held out by a hash of the key; or a file, or a split of a
            dataset on the Hub.
        max_rows: at most so many training rows, drawn with `seed`.
        config_name, revision: of a dataset on the Hub.
        licence, languages: of your own files, for the card.
        reshape: makes the columns of rows as they were read.

    Raises:
        ValueError: a source, file, column or split that is not there, a share outside 0 to 1, or no row left.
    """
    columns = list(columns)
    key = key or columns[0]
    wanted = {"validation": validation, "test": test}
    for split, value in wanted.items():
        if not isinstance(value, (str, Path)) and not 0 <= value < 1:
            raise ValueError(f"{split} must be a share from 0 to below 1, a file or a split, not {value!r}")
    if sum(value for value in wanted.values() if not isinstance(value, (str, Path))) >= 1:
        raise ValueError(f"validation ({validation}) and test ({test}) must leave a share to train on")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows must be at least 1, not {max_rows}")
    if isinstance(source, str) and source.startswith(("stdlib:", "cldr:")):
        refuse_hub_options(source, config_name, revision)
        rows, provenance = load_built_in(source)
        raw = {"train": rows}
    else:
        raw, provenance = _read(source, config_name, revision, licence, languages)
    found, names = {"train": raw["train"]}, dict.fromkeys(SPLITS, provenance.name)
    asked_for = set(map(str, wanted.values()))
    for split, value in wanted.items():
        if isinstance(value, (str, Path)):
            if value in raw and value != "train":
                found[split], names[split] = raw[str(value)], f"{provenance.name}, split {value}"
            else:
                own, where = _read(value, None, None, None, ())
                found[split], names[split] = own["train"], where.name
        elif split in raw and split not in asked_for:
            found[split] = raw[split]
        else:
            continue
        wanted[split] = 0.0
    raw, nothing = found, Dataset.from_dict({})
    data = TextData(nothing, nothing, nothing, provenance, names=names)
    kept: dict[str, Dataset] = {}
    for split in (name for name in SPLITS if name in raw):
        if reshape is not None:
            raw[split] = reshape(raw[split])
        if missing := [name for name in {*columns, key} if name not in raw[split].column_names]:
            raise ValueError(
                f"{names[split]}, {split}: no column {', '.join(sorted(missing))}; columns found:"
                f" {', '.join(raw[split].column_names)}"
            )
        for name in columns:
            if str(getattr(raw[split].features[name], "dtype", "")).startswith(("timestamp", "date", "time")):
                raise ValueError(
                    f"{names[split]}, {split}: column {name} was read as times, and how they were written is lost"
                    " (of .json and .jsonl, a column of nothing but ISO dates is); give them as texts, in .csv, .tsv"
                    " or .parquet"
                )
        wanted_columns = dict.fromkeys([*columns, key, *(set(optional) & set(raw[split].column_names))])
        kept[split] = _judge(raw[split].select_columns(list(wanted_columns)), key, split, data)
    kept |= _hold_out(kept["train"], key, wanted)
    seen: set[bytes] = set()
    for split in reversed(SPLITS):  # what is tested on is not trained on
        rows = kept.get(split, kept["train"].select([]))
        keys = list(map(_digest, Values(rows, key)))
        places = [place for place, own in enumerate(keys) if own not in seen]
        if len(places) < len(keys):
            data.left_out.setdefault(split, Counter())["held_out"] += len(keys) - len(places)
            rows = rows.select(places)
        seen.update(keys)
        kept[split] = rows.select_columns([*columns, *(name for name in optional if name in rows.column_names)])
    if max_rows is not None and len(kept["train"]) > max_rows:
        kept["train"] = kept["train"].shuffle(seed=seed).select(range(max_rows))
    if not len(kept["train"]):
        why = _report(data) or f"all are held out: rows of one {key} stay together"
        raise ValueError(f"{provenance.name}: no row is left to train on ({why})")
    data.train, data.validation, data.test = (kept[split] for split in SPLITS)
    if any(data.left_out.values()):
        logger.warning("%s: rows were left out: %s", provenance.name, _report(data))
    return data


def _report(data: TextData) -> str:
    return "; ".join(
        f"{split}: " + ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
        for split, reasons in data.left_out.items()
        if reasons
    )


def _digest(value: Any) -> bytes:
    """Return what stands for a value where all of a data set are remembered: 16 bytes, however long it is.

    White space around a text makes no other one of it: splits may come from files that differ in such.
    """
    return hashlib.sha256(_stripped(str(value)).encode("utf-8", "surrogatepass")).digest()[:16]


def _stripped(text: str) -> str:
    return text.strip("\n").rstrip()


def _judge(rows: Dataset, key: str, split: str, data: TextData) -> Dataset:
    reasons: Counter = data.left_out.setdefault(split, Counter())
    is_text = getattr(rows.features.get(key), "dtype", None) in ("string", "large_string")
    # of labelled rows, several may share a text, and offsets count its spaces
    alone = is_text and rows.column_names == [key]
    kept: set[bytes] = set()
    places: list[int] = []
    changed = False
    for place, value in enumerate(Values(rows, key)):
        text = "" if value is None else _stripped(str(value))
        if value is None:
            reasons["missing"] += 1
        elif not text.strip():
            reasons["empty"] += 1
        elif alone and split == "train" and (own := _digest(text)) in kept:
            reasons["duplicate"] += 1
        else:
            if alone:
                changed |= text != value
                if split == "train":
                    kept.add(own)
            places.append(place)
    if len(places) < len(rows):
        rows = rows.select(places)
    return rows.map(lambda batch: {key: list(map(_stripped, batch[key]))}, batched=True) if changed else rows


def _hold_out(rows: Dataset, key: str, wanted: dict[str, Any]) -> dict[str, Dataset]:
    """Deal rows out by a hash of their keys: the same rows on every machine, whatever else is in the set."""
    places: dict[str, list[int]] = {split: [] for split in SPLITS}
    for place, value in enumerate(Values(rows, key)):
        draw = int.from_bytes(_digest(value)[:8]) / 2**64
        if draw < wanted["test"]:
            places["test"].append(place)
        elif draw < wanted["test"] + wanted["validation"]:
            places["validation"].append(place)
        else:
            places["train"].append(place)
    return {split: rows.select(own) for split, own in places.items() if split == "train" or wanted[split]}


def _read(source: Any, config_name, revision, licence, languages) -> tuple[dict[str, Dataset], Provenance]:
    files = [source] if isinstance(source, (str, Path)) else list(source)
    paths = [Path(file).expanduser() for file in files]
    kinds = {_kind(path) for path in paths}
    if not any(path.is_dir() for path in paths) and (kinds <= set(READERS) or any(path.is_file() for path in paths)):
        if missing := [str(path) for path in paths if not path.is_file()]:
            raise ValueError(f"no such file: {', '.join(missing)} (looked from {Path.cwd()})")
        if len(kinds) != 1 or not kinds <= set(READERS):
            raise ValueError(
                f"expected files of one kind, ending in {', '.join(READERS)} (or these and .gz); got"
                f" {', '.join(map(str, files)) or 'none'}"
            )
        refuse_hub_options(", ".join(map(str, files)), config_name, revision)
        (kind,) = kinds
        try:
            options = dict(_OPTIONS.get(kind, {}))
            if READERS[kind] == "csv":
                options["features"] = Features(dict.fromkeys(_csv_columns(paths[0], options), Value("string")))
            rows = load_dataset(READERS[kind], data_files=[str(path) for path in paths], split="train", **options)
        except Exception as error:  # whatever the reader raises; the reason is often in what it wraps
            reason = error.__cause__ or error
            if "corresponds to no data" in str(reason):
                reason = ValueError("it holds no row")
            raise ValueError(f"{', '.join(map(str, paths))} could not be read: {reason}") from error
        name = ", ".join(path.name for path in paths)
        return {"train": rows}, Provenance(
            name, f"Texts from {name}.", licence or "not stated", name, tuple(languages)
        )
    if len(files) > 1:
        raise ValueError(
            f"expected files ending in {', '.join(READERS)}, or one name; got {', '.join(map(str, files))}"
        )
    splits = open_hub(str(source), config_name, revision, ", ".join(MAKERS))
    return dict(splits), hub_provenance(str(source), splits, revision, licence, languages)


def _csv_columns(path: Path, options: dict[str, Any]) -> list[str]:
    """Return the names of a file's columns, all of which are read as texts: a label 01 is not the number 1.

    Raises:
        ValueError: a name that stands there twice, or a first row with more fields than names, which a reader left to
            itself moves by one column.
    """
    names = pd.read_csv(path, header=None, nrows=2, dtype=str, **options).iloc[0].dropna()
    if twice := sorted(set(names[names.duplicated()])):
        raise ValueError(f"several columns are called {', '.join(twice)}")
    return list(pd.read_csv(path, nrows=0, **options).columns)


def _kind(path: Path) -> str:
    """Return a file's ending, without that of its compression."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
