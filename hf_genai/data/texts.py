"""Load texts, alone or with labels and the like, hold some out, and say where they came from."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from .built_in import MAKERS, load_built_in
from .pairs import SHOWN, Provenance, open_set, provenance_of_set, refuse_hub_options, said_of_left_out
from .readers import ENDINGS, FLAW, PLACE, check_files, kind, read_dataset, said

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


@dataclass
class TextData:
    """Three datasets of the same columns; what was left out of each, by reason; where it all comes from."""

    train: Dataset
    validation: Dataset
    test: Dataset
    provenance: Provenance
    left_out: dict[str, Counter] = field(default_factory=dict)
    left_out_places: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # of the first ones
    names: dict[str, str] = field(default_factory=dict)  # of each split: its own file or split, else the whole
    places: dict[str, Dataset] = field(default_factory=dict)  # of the rows of each split, in a column

    def place(self, split: str, row: int) -> str:
        """Return where a row stands, "rows.csv, line 3", as the file counts; `row` counts from 0."""
        place = self.places[split][row][PLACE] if split in self.places else row + 1
        return place if isinstance(place, str) else f"{self.names[split]}, {split}: row {place}"


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
    later split has it, for what its file does to it (`wrong_number_of_columns`, `too_long`: over 10 million
    characters) and, of training texts without other columns, when it is a `duplicate`.

    Args:
        source: one of
            - "stdlib:prose", "stdlib:code" and others that `built_in` lists: made from files that are always there;
            - .csv, .tsv, .jsonl, .json, .parquet or .txt file(s), or a folder of them (see `readers`);
            - the name of a dataset on the Hub, or a folder of another kind that `datasets` reads.
        columns: that each row must have; others are dropped.
        optional: columns that are kept where a split has them.
        key: the column that says what a row is: no key is in two splits. None: the first of `columns`.
        validation, test: a share of the rows (0: none), held out by a hash of the key, but at least one row, and one
            to train on; or a file, or a split of a dataset on the Hub.
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
    needed = [*dict.fromkeys([*columns, key])]

    def of_files(paths: Sequence[Path]) -> list[Dataset]:
        if reshape is None:
            return [read_dataset(paths, needed, optional)]
        return [read_dataset([path], needed, optional, all_columns=True) for path in paths]  # of any form each

    if isinstance(source, str) and source.startswith(("stdlib:", "cldr:")):
        refuse_hub_options(source, config_name, revision)
        rows, provenance = load_built_in(source)
        raw: dict[str, Dataset | list[Path]] = {"train": rows}
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
    nothing = Dataset.from_dict({})
    data = TextData(nothing, nothing, nothing, provenance, names=names)
    kept: dict[str, Dataset] = {}
    for split in (name for name in SPLITS if name in found):
        own_rows = found[split]
        data.left_out[split] = Counter()
        parts = []
        for rows in of_files(own_rows) if isinstance(own_rows, list) else [own_rows]:
            rows = _without_flaws(rows, split, data)
            rows = rows if reshape is None else reshape(rows)
            there = [name for name in rows.column_names if name != PLACE]
            if missing := [name for name in needed if name not in there]:
                raise ValueError(
                    f"{names[split]}, {split}: no column {', '.join(missing)}; columns found: {said(there)}"
                )
            for name in columns:
                if str(getattr(rows.features[name], "dtype", "")).startswith(("timestamp", "date", "time")):
                    raise ValueError(
                        f"{names[split]}, {split}: column {name} must hold texts, not {rows.features[name]}"
                    )
            parts.append(rows.select_columns([*(name for name in [*needed, *optional] if name in there), PLACE]))
        try:
            rows = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
        except ValueError as error:
            raise ValueError(f"{names[split]}, {split}: the files' columns are of different types: {error}") from error
        kept[split] = _judge(rows, key, split, data)
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
        kept[split] = rows
    if max_rows is not None and len(kept["train"]) > max_rows:
        kept["train"] = kept["train"].shuffle(seed=seed).select(range(max_rows))
    if not len(kept["train"]):
        held_out = sum(map(len, kept.values()))
        why = _report(data) or (
            f"all are held out: rows of one {key} stay together" if held_out else "it holds no row"
        )
        raise ValueError(f"{provenance.name}: no row is left to train on ({why})")
    data.places = {split: rows.select_columns(PLACE) for split, rows in kept.items()}
    data.train, data.validation, data.test = (
        kept[split].select_columns([*columns, *(name for name in optional if name in kept[split].column_names)])
        for split in SPLITS
    )
    if any(data.left_out.values()):
        logger.warning("%s: rows were left out: %s", provenance.name, _report(data))
    return data


def _report(data: TextData) -> str:
    return "; ".join(
        f"{split}: {said_of_left_out(reasons, data.left_out_places.get(split, {}))}"
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


def _leave_out(rows: Dataset, place: int, reason: str, split: str, data: TextData) -> None:
    """Count a row that is left out, and remember where the first of a reason stand."""
    data.left_out[split][reason] += 1
    shown = data.left_out_places.setdefault(split, {}).setdefault(reason, [])
    if len(shown) < SHOWN:
        where = rows[place][PLACE]
        shown.append(where if isinstance(where, str) else f"row {where}")


def _without_flaws(rows: Dataset, split: str, data: TextData) -> Dataset:
    """Return rows with their places, without those that their file spoils; data sets of others count their rows."""
    if FLAW not in rows.column_names:
        return rows.add_column(PLACE, np.arange(1, len(rows) + 1))
    flaws = rows.data.column(FLAW)
    if flaws.null_count < len(rows):
        bad = [(place, flaw) for place, flaw in enumerate(flaws.to_pylist()) if flaw is not None]
        for place, flaw in bad:
            _leave_out(rows, place, flaw, split, data)
        rows = rows.select(np.delete(np.arange(len(rows)), [place for place, _ in bad]))
    return rows.remove_columns(FLAW)


def _judge(rows: Dataset, key: str, split: str, data: TextData) -> Dataset:
    is_text = getattr(rows.features.get(key), "dtype", None) in ("string", "large_string")
    # of labelled rows, several may share a text, and offsets count its spaces
    alone = is_text and rows.column_names == [key, PLACE]
    kept: set[bytes] = set()
    places: list[int] = []
    changed = False
    for place, value in enumerate(Values(rows, key)):
        text = "" if value is None else _stripped(str(value))
        if value is None:
            _leave_out(rows, place, "missing", split, data)
        elif not text.strip():
            _leave_out(rows, place, "empty", split, data)
        elif alone and split == "train" and (own := _digest(text)) in kept:
            _leave_out(rows, place, "duplicate", split, data)
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
    """Deal rows out by a hash of their keys: the same rows on every machine, whatever else is in the set.

    A split that gets none that way, of few rows, takes the keys that come next.
    """
    draws = [int.from_bytes(_digest(value)[:8]) / 2**64 for value in Values(rows, key)]
    ends = {"test": wanted["test"], "validation": wanted["test"] + wanted["validation"], "train": 1.0}
    split_of = {draw: next(split for split, end in ends.items() if draw < end) for draw in sorted(set(draws))}
    asked_for = [split for split in ends if split == "train" or wanted[split]]
    for split in asked_for:
        others = [draw for draw, own in split_of.items() if own != split]
        if split not in split_of.values():
            sizes = Counter(split_of.values())
            spare = [draw for draw in others if sizes[split_of[draw]] > 1]
            if spare:
                split_of[spare[-1] if split == "train" else spare[0]] = split
    places: dict[str, list[int]] = {split: [] for split in asked_for}
    for place, draw in enumerate(draws):
        places[split_of[draw]].append(place)
    return {split: rows.select(own) for split, own in places.items()}


def _read(
    source: Any, config_name, revision, licence, languages
) -> tuple[dict[str, Dataset | list[Path]], Provenance]:
    """Return each split, or the files that hold it, and where they come from."""
    files = [source] if isinstance(source, (str, Path)) else list(source)
    paths = [Path(file).expanduser() for file in files]
    kinds = {kind(path) for path in paths}
    if not any(path.is_dir() for path in paths) and (kinds <= set(ENDINGS) or any(path.is_file() for path in paths)):
        check_files(paths)
        refuse_hub_options(", ".join(map(str, files)), config_name, revision)
        name = ", ".join(path.name for path in paths)
        return {"train": paths}, Provenance(
            name, f"Texts from {name}.", licence or "not stated", name, tuple(languages)
        )
    if len(files) > 1:
        raise ValueError(
            f"expected files ending in {', '.join(ENDINGS)}, or one name; got {', '.join(map(str, files))}"
        )
    splits = open_set(str(source), config_name, revision, ", ".join(MAKERS))
    return dict(splits), provenance_of_set(str(source), splits, revision, licence, languages)
