"""Load rows of texts (with labels or other columns), hold out validation and test rows, and record the provenance."""

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
from .pairs import MAX_SHOWN, Provenance, describe_left_out, open_set, provenance_of_set, refuse_hub_options
from .readers import ENDINGS, FLAW, LOCATION, check_files, file_type, format_names, read_dataset

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


@dataclass
class TextData:
    """Three datasets with the same columns, the rows left out of each by reason, and the provenance."""

    train: Dataset
    validation: Dataset
    test: Dataset
    provenance: Provenance
    left_out: dict[str, Counter] = field(default_factory=dict)
    left_out_locations: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # of the first rows left out
    names: dict[str, str] = field(default_factory=dict)  # of the source of each split
    locations: dict[str, Dataset] = field(default_factory=dict)  # of the rows of each split, in a column

    def location(self, split: str, row: int) -> str:
        """Return the location of a row in its file, such as "rows.csv, line 3"; `row` counts from 0."""
        location = self.locations[split][row][LOCATION] if split in self.locations else row + 1
        return location if isinstance(location, str) else f"{self.names[split]}, {split}: row {location}"


class Values:
    """Iterate over a column's values in batches: faster than iterating over the column, with few values in memory."""

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
    """Load rows of texts and divide them into training, validation and test rows.

    Rows are left out and counted by reason: `missing` or `empty` (white space) if the key has no text, `held_out` if a
    later split has the same key, `wrong_number_of_columns` or `too_long` (over 10 million characters) if the file is
    flawed, and `duplicate` for repeated training texts without other columns.

    Args:
        source: one of
            - "stdlib:prose", "stdlib:code" or another name that `built_in` lists, which needs no download;
            - .csv, .tsv, .jsonl, .json, .parquet or .txt file(s), or a folder of them (see `readers`);
            - the name of a dataset on the Hub, or another folder that `datasets` can read.
        columns: required columns; other columns are dropped.
        optional: columns that are kept if a split has them.
        key: column that identifies a row; no key is in two splits. None: the first of `columns`.
        validation, test: a share of the rows (0: none), held out by a hash of the key, with at least one row in each
            split; or a file; or the name of a split of a dataset on the Hub.
        max_rows: maximum number of training rows, drawn with `seed`.
        config_name, revision: configuration and revision of a dataset on the Hub.
        licence, languages: licence and languages of your own files, for the model card.
        reshape: converts the rows of a file to the required columns.

    Raises:
        ValueError: a missing source, file, column or split, a share outside 0 to 1, or no training row left.
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
        return [read_dataset([path], needed, optional, all_columns=True) for path in paths]  # columns may differ

    if isinstance(source, str) and source.startswith(("stdlib:", "cldr:")):
        refuse_hub_options(source, config_name, revision)
        rows, provenance = load_built_in(source)
        raw: dict[str, Dataset | list[Path]] = {"train": rows}
    else:
        raw, provenance = _read(source, config_name, revision, licence, languages)
    raw_splits, names = {"train": raw["train"]}, dict.fromkeys(SPLITS, provenance.name)
    asked_for = set(map(str, wanted.values()))
    for split, value in wanted.items():
        if isinstance(value, (str, Path)):
            if value in raw and value != "train":
                raw_splits[split], names[split] = raw[str(value)], f"{provenance.name}, split {value}"
            else:
                other_split, where = _read(value, None, None, None, ())
                raw_splits[split], names[split] = other_split["train"], where.name
        elif split in raw and split not in asked_for:
            raw_splits[split] = raw[split]
        else:
            continue
        wanted[split] = 0.0
    nothing = Dataset.from_dict({})
    data = TextData(nothing, nothing, nothing, provenance, names=names)
    kept: dict[str, Dataset] = {}
    for split in (name for name in SPLITS if name in raw_splits):
        raw_rows = raw_splits[split]
        data.left_out[split] = Counter()
        parts = []
        for rows in of_files(raw_rows) if isinstance(raw_rows, list) else [raw_rows]:
            rows = _without_flaws(rows, split, data)
            rows = rows if reshape is None else reshape(rows)
            present = [name for name in rows.column_names if name != LOCATION]
            if missing := [name for name in needed if name not in present]:
                raise ValueError(
                    f"{names[split]}, {split}: no column {', '.join(missing)}; columns found: {format_names(present)}"
                )
            for name in columns:
                if str(getattr(rows.features[name], "dtype", "")).startswith(("timestamp", "date", "time")):
                    raise ValueError(
                        f"{names[split]}, {split}: column {name} must hold texts, not {rows.features[name]}"
                    )
            parts.append(rows.select_columns([*(name for name in [*needed, *optional] if name in present), LOCATION]))
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
        new_indices = [index for index, digest in enumerate(keys) if digest not in seen]
        if len(new_indices) < len(keys):
            data.left_out.setdefault(split, Counter())["held_out"] += len(keys) - len(new_indices)
            rows = rows.select(new_indices)
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
    data.locations = {split: rows.select_columns(LOCATION) for split, rows in kept.items()}
    data.train, data.validation, data.test = (
        kept[split].select_columns([*columns, *(name for name in optional if name in kept[split].column_names)])
        for split in SPLITS
    )
    if any(data.left_out.values()):
        logger.warning("%s: rows were left out: %s", provenance.name, _report(data))
    return data


def _report(data: TextData) -> str:
    return "; ".join(
        f"{split}: {describe_left_out(reasons, data.left_out_locations.get(split, {}))}"
        for split, reasons in data.left_out.items()
        if reasons
    )


def _digest(value: Any) -> bytes:
    """Return a hash of 16 bytes of a value, ignoring white space around texts, in which files may differ."""
    return hashlib.sha256(_stripped(str(value)).encode("utf-8", "surrogatepass")).digest()[:16]


def _stripped(text: str) -> str:
    return text.strip("\n").rstrip()


def _leave_out(rows: Dataset, index: int, reason: str, split: str, data: TextData) -> None:
    """Count a row that is left out, and record the locations of the first rows for each reason."""
    data.left_out[split][reason] += 1
    shown = data.left_out_locations.setdefault(split, {}).setdefault(reason, [])
    if len(shown) < MAX_SHOWN:
        location = rows[index][LOCATION]
        shown.append(location if isinstance(location, str) else f"row {location}")


def _without_flaws(rows: Dataset, split: str, data: TextData) -> Dataset:
    """Return the rows without the flawed rows of their file; a dataset without locations gets row numbers."""
    if FLAW not in rows.column_names:
        return rows.add_column(LOCATION, np.arange(1, len(rows) + 1))
    flaws = rows.data.column(FLAW)
    if flaws.null_count < len(rows):
        flawed = [(index, flaw) for index, flaw in enumerate(flaws.to_pylist()) if flaw is not None]
        for index, flaw in flawed:
            _leave_out(rows, index, flaw, split, data)
        rows = rows.select(np.delete(np.arange(len(rows)), [index for index, _ in flawed]))
    return rows.remove_columns(FLAW)


def _judge(rows: Dataset, key: str, split: str, data: TextData) -> Dataset:
    is_text = getattr(rows.features.get(key), "dtype", None) in ("string", "large_string")
    # rows with other columns may share a text, and character offsets in them count its spaces
    only_text = is_text and rows.column_names == [key, LOCATION]
    kept: set[bytes] = set()
    kept_indices: list[int] = []
    changed = False
    for index, value in enumerate(Values(rows, key)):
        text = "" if value is None else _stripped(str(value))
        if value is None:
            _leave_out(rows, index, "missing", split, data)
        elif not text.strip():
            _leave_out(rows, index, "empty", split, data)
        elif only_text and split == "train" and (digest := _digest(text)) in kept:
            _leave_out(rows, index, "duplicate", split, data)
        else:
            if only_text:
                changed |= text != value
                if split == "train":
                    kept.add(digest)
            kept_indices.append(index)
    if len(kept_indices) < len(rows):
        rows = rows.select(kept_indices)
    return rows.map(lambda batch: {key: list(map(_stripped, batch[key]))}, batched=True) if changed else rows


def _hold_out(rows: Dataset, key: str, wanted: dict[str, Any]) -> dict[str, Dataset]:
    """Divide rows into splits by a hash of their keys: a row's split does not depend on machine or other rows.

    A split that would be empty takes the key with the nearest hash from a split with more than one key.
    """
    draws = [int.from_bytes(_digest(value)[:8]) / 2**64 for value in Values(rows, key)]
    ends = {"test": wanted["test"], "validation": wanted["test"] + wanted["validation"], "train": 1.0}
    split_of = {draw: next(split for split, end in ends.items() if draw < end) for draw in sorted(set(draws))}
    asked_for = [split for split in ends if split == "train" or wanted[split]]
    for split in asked_for:
        others = [draw for draw, assigned in split_of.items() if assigned != split]
        if split not in split_of.values():
            sizes = Counter(split_of.values())
            movable = [draw for draw in others if sizes[split_of[draw]] > 1]
            if movable:
                split_of[movable[-1] if split == "train" else movable[0]] = split
    indices: dict[str, list[int]] = {split: [] for split in asked_for}
    for index, draw in enumerate(draws):
        indices[split_of[draw]].append(index)
    return {split: rows.select(assigned) for split, assigned in indices.items()}


def _read(
    source: Any, config_name, revision, licence, languages
) -> tuple[dict[str, Dataset | list[Path]], Provenance]:
    """Return the splits (or their files) and the provenance of a source."""
    files = [source] if isinstance(source, (str, Path)) else list(source)
    paths = [Path(file).expanduser() for file in files]
    kinds = {file_type(path) for path in paths}
    if not any(path.is_dir() for path in paths) and (kinds <= set(ENDINGS) or any(path.is_file() for path in paths)):
        check_files(paths)
        refuse_hub_options(", ".join(map(str, files)), config_name, revision)
        name = ", ".join(path.name for path in paths)
        return {"train": paths}, Provenance(
            name=name,
            description=f"Texts from {name}.",
            licence=licence or "not stated",
            origin=name,
            languages=tuple(languages),
        )
    if len(files) > 1:
        raise ValueError(
            f"source must be files ending in {', '.join(ENDINGS)}, or one name, not {', '.join(map(str, files))}"
        )
    splits = open_set(str(source), config_name, revision, ", ".join(MAKERS))
    return dict(splits), provenance_of_set(str(source), splits, revision, licence, languages)
