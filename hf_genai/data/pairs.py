"""Load sentence pairs, filter them, hold out validation and test pairs, and record the provenance."""

import hashlib
import logging
import numbers
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from babel import __version__ as babel_version
from datasets import Dataset, DatasetInfo, Features, Value, load_dataset, load_from_disk

from .cldr import CldrPairs
from .language_packs import read_language_pack
from .pair_files import RawPair, numbered, read_arrow, read_pairs
from .readers import TABLES, file_type, files_of_folder

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
DEFAULT_SHARE = 0.05
MAX_SHOWN = 3  # number of locations that a report shows for each reason
CLDR_SIZES = {"train": 8000, "validation": 500, "test": 500}
_FEATURES = Features({"source": Value("string"), "target": Value("string")})

# How much of a set to hold out (0 for none), or the files or the Hub split that hold it.
HeldOut = float | str | Path | Sequence[str | Path] | None


@dataclass(frozen=True)
class Provenance:
    """Origin of a dataset, for the model card."""

    name: str
    description: str
    licence: str
    origin: str  # package and version, address, or file names
    languages: tuple[str, ...] = ()
    synthetic: bool | None = None  # True: made by a program; False: written by people; None: unknown
    dataset_id: str | None = None  # name on the Hub; None: not on the Hub


def describe_left_out(counts: Mapping[str, int], locations: Mapping[str, Sequence[str]]) -> str:
    """Return the reasons with row counts and the first locations: "2 empty (a.csv, line 3; ...)"."""

    def location_text(reason: str, count: int) -> str:
        shown = locations.get(reason, ())
        return f" ({'; '.join(shown)}{'; ...' if len(shown) < count else ''})" if shown else ""

    return ", ".join(f"{count:,} {reason}{location_text(reason, count)}" for reason, count in sorted(counts.items()))


@dataclass
class PairReport:
    """Numbers of kept pairs by split, and of left-out rows by split and reason.

    Splits that are held out of the training rows count their left-out rows as "train".
    """

    kept: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, dict[str, int]] = field(default_factory=lambda: {split: {} for split in SPLITS})
    locations: dict[str, dict[str, list[str]]] = field(default_factory=lambda: {split: {} for split in SPLITS})
    """Locations of the first left-out rows, by split and reason."""

    def add(self, split: str, reason: str, count: int = 1, location: str | None = None) -> None:
        self.left_out[split][reason] = self.left_out[split].get(reason, 0) + count
        if location is not None and len(locations := self.locations[split].setdefault(reason, [])) < MAX_SHOWN:
            locations.append(location)

    def __str__(self) -> str:
        lines = []
        for split in SPLITS:
            bad = describe_left_out(self.left_out[split], self.locations[split])
            lines.append(f"{split}: {self.kept.get(split, 0):,} pairs" + (f"; left out: {bad}" if bad else ""))
        return "\n".join(lines)


@dataclass
class PairData:
    """Three datasets with the columns `source` and `target` (text), the report and the provenance."""

    train: Dataset
    validation: Dataset
    test: Dataset
    report: PairReport
    provenance: Provenance


def load_pairs(
    source: str | Path | Sequence[str | Path] = "cldr:en-fr",
    *,
    source_column: str = "source",
    target_column: str = "target",
    validation: HeldOut = None,
    test: HeldOut = None,
    hold_out: bool = True,
    train_size: int | None = None,
    max_length_chars: int = 1000,
    seed: int = 0,
    config_name: str | None = None,
    revision: str | None = None,
    licence: str | None = None,
    languages: tuple[str, str] | None = None,
) -> PairData:
    """Load sentence pairs.

    White space around texts is removed; otherwise texts are unchanged. Rows are left out and counted by reason: a text
    is `missing`, `not_text`, `empty` or `too_long`; the pair is a `duplicate` of an earlier training pair; a later
    split has the same source text (`held_out`); or the reader reports a flaw (`wrong_number_of_columns`,
    `untranslated`, `placeholder_or_markup`).

    Args:
        source: one of
            - "cldr:en-fr": generated from Unicode CLDR in any two languages of Babel (see `cldr`);
            - "jupyterlab:fr-FR": JupyterLab's texts, from the package jupyterlab-language-pack-fr-FR;
            - a .csv, .tsv, .jsonl or .parquet file, or a list of them;
            - a list of two plain text files, source then target, with aligned lines;
            - the name of a dataset on the Hub, or a folder that `datasets.load_dataset` reads.
        source_column, target_column: columns of tables; "en" also matches {"translation": {"en": ...}}.
        validation, test: a number of pairs (int; 0 for none), a share of the set (0 < float < 1), file(s) like
            `source`, or the name of a split on the Hub. None: the Hub dataset's split, or else 5 % of the pairs (CLDR:
            500 pairs). Pairs are held out by a hash of the source text, so the choice is stable and no source text is
            in two splits.
        hold_out: False: with None, a split that the source lacks stays empty.
        train_size: maximum number of training pairs, drawn with `seed` (CLDR: the exact number; None is 8,000).
        max_length_chars: maximum number of characters in a text.
        seed: seed of CLDR's combinations and of `train_size`; the seed never moves a pair between splits.
        config_name, revision: configuration and revision of a dataset on the Hub.
        licence, languages: licence and languages of your own files, for the model card.

    Raises:
        ValueError: a missing source, file, column or split, an invalid size, or a split without pairs.
        ImportError: the language pack is not installed.
    """
    if max_length_chars < 1:
        raise ValueError(f"max_length_chars must be at least 1, not {max_length_chars}")
    if train_size is not None and train_size < 1:
        raise ValueError(f"train_size must be at least 1 or None, not {train_size}")
    held_out = {"validation": validation, "test": test}
    for split, value in held_out.items():
        _check_held_out(split, value)
    columns = (source_column, target_column)
    raw: dict[str, Iterable[RawPair]]
    paths = _paths(source)
    if paths is not None or str(source).startswith(("cldr:", "jupyterlab:")):
        refuse_hub_options(source, config_name, revision)
    if isinstance(source, str) and source.startswith("cldr:"):
        raw, provenance = _cldr(source, held_out, train_size, seed)
        held_out = {split: None if raw[split] else 0 for split in held_out}
        raw = {split: rows for split, rows in raw.items() if rows}
    elif isinstance(source, str) and source.startswith("jupyterlab:"):
        raw, provenance = _jupyterlab(source)
    elif paths is not None:
        raw = {"train": read_pairs(paths, *columns)}
        name = ", ".join(path.name for path in paths)
        provenance = Provenance(
            name=name,
            description=f"Sentence pairs from {name}.",
            licence=licence or "not stated",
            origin=name,
            languages=tuple(languages or ()),
        )
    else:
        raw, provenance = _named_set(str(source), columns, held_out, config_name, revision, licence, languages)
    for split, value in held_out.items():
        if value is not None and not isinstance(value, numbers.Real):
            files = [value] if isinstance(value, (str, Path)) else list(value)  # type: ignore[arg-type]
            if split not in raw:
                raw[split] = read_pairs([Path(file).expanduser() for file in files], *columns)
            held_out[split] = None
    if not hold_out:
        held_out = {split: 0 if value is None else value for split, value in held_out.items()}
    return _finish(raw, held_out, train_size, max_length_chars, seed, provenance)


def _finish(
    raw: dict[str, Iterable[RawPair]],
    held_out: dict[str, Any],
    train_size: int | None,
    max_length_chars: int,
    seed: int,
    provenance: Provenance,
) -> PairData:
    report = PairReport()
    kept = {split: _judge(rows, split, max_length_chars, report) for split, rows in raw.items()}
    for split, against in (("validation", ("test",)), ("train", ("validation", "test"))):
        taken = {source for other in against for source, _ in kept.get(other, ())}
        before = kept.get(split, [])
        kept_now = [pair for pair in before if pair[0] not in taken]
        if len(kept_now) < len(before):
            report.add(split, "held_out", len(before) - len(kept_now))
            kept[split] = kept_now
    if not kept["train"]:
        raise ValueError(f"{provenance.name}: no pair is left to train on.\n{report}")
    kept |= _hold_out(kept["train"], {split: held_out[split] for split in ("validation", "test") if split not in kept})
    if train_size is not None and len(kept["train"]) > train_size:
        chosen = set(
            sorted(range(len(kept["train"])), key=lambda i: _hash(f"{seed}:{i}:{kept['train'][i][0]}"))[:train_size]
        )
        kept["train"] = [pair for i, pair in enumerate(kept["train"]) if i in chosen]
    report.kept = {split: len(kept[split]) for split in SPLITS}
    for split in SPLITS:
        if not kept[split] and (split in raw or held_out.get(split) != 0):
            raise ValueError(f"{provenance.name}: no pair is left for {split}.\n{report}")
    if any(report.left_out.values()):
        logger.warning("%s: some rows were left out\n%s", provenance.name, report)
    columns = {split: [list(texts) for texts in zip(*kept[split], strict=True)] or [[], []] for split in SPLITS}
    data = {
        split: Dataset.from_dict({"source": sources, "target": targets}, features=_FEATURES)
        for split, (sources, targets) in columns.items()
    }
    return PairData(**data, report=report, provenance=provenance)


def _judge(rows: Iterable[RawPair], split: str, max_length_chars: int, report: PairReport) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    seen: set[tuple[str, str]] = set()
    for location, row in rows:
        reason = (
            row if isinstance(row, str) else next(filter(None, (_flaw(text, max_length_chars) for text in row)), None)
        )
        if reason is None:
            pair = (row[0].strip(), row[1].strip())
            if split != "train" or pair not in seen:
                seen.add(pair)
                pairs.append(pair)
                continue
            reason = "duplicate"
        report.add(split, reason, location=location)
    return pairs


def _flaw(text: Any, max_length_chars: int) -> str | None:
    if text is None or text != text:  # NaN, as pandas writes a missing text
        return "missing"
    if not isinstance(text, str):
        return "not_text"
    text = text.strip()
    if not text:
        return "empty"
    if len(text) > max_length_chars:
        return "too_long"
    return None


def _hold_out(pairs: list[tuple[str, str]], sizes: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Assign source texts to test, validation and train, in the order of their hashes."""
    sources = sorted({source for source, _ in pairs}, key=_hash)
    counts = Counter(source for source, _ in pairs)
    split_of: dict[str, str] = {}
    next_source = iter(sources)
    for split in ("test", "validation"):
        if split not in sizes:
            continue
        size = DEFAULT_SHARE if sizes[split] is None else sizes[split]
        # At least one pair for a share: an empty split would only fail later, in evaluation.
        wanted = size if isinstance(size, int) else max(1, round(size * len(pairs)))
        if wanted >= len(pairs) - len(split_of):
            raise ValueError(
                f"{split}={sizes[split]}: leaves nothing to train on; the set has {len(pairs)} good pairs"
            )
        count = 0
        while count < wanted and (source := next(next_source, None)) is not None:
            split_of[source] = split
            count += counts[source]
    result: dict[str, list[tuple[str, str]]] = {split: [] for split in ("train", *sizes)}
    for pair in pairs:
        result[split_of.get(pair[0], "train")].append(pair)
    return result


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _check_held_out(split: str, value: HeldOut) -> None:
    if isinstance(value, numbers.Real) and (
        isinstance(value, bool) or value < 0 or (not isinstance(value, int) and not 0 < value < 1)
    ):
        raise ValueError(f"{split} must be a number of pairs, a share between 0 and 1, or file(s), not {value!r}")


def _paths(source: str | Path | Sequence[str | Path]) -> list[Path] | None:
    """Return the files that `source` names; None if `source` can only be a folder or a name on the Hub."""
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if path.is_dir():
            return None
        is_file = (
            isinstance(source, Path) or path.is_file() or file_type(path) in TABLES or source[:1] in ("/", ".", "~")
        )
        return [path] if is_file else None
    return [Path(path).expanduser() for path in source]


def _cldr(source: str, held_out: dict[str, Any], train_size: int | None, seed: int) -> tuple[dict, Provenance]:
    source_language, _, target_language = source.removeprefix("cldr:").partition("-")
    sizes = dict(CLDR_SIZES, train=train_size or CLDR_SIZES["train"])
    for split, value in held_out.items():
        if value is not None and not isinstance(value, int):
            raise ValueError(f"{split} must be a number of pairs with source={source!r}, not {value!r}")
        sizes[split] = sizes[split] if value is None else value
    generator = CldrPairs(source_language, target_language)
    drawn = generator.draw(sizes["train"], sizes["validation"], sizes["test"], seed)
    pairs = {split: list(numbered(rows, source)) for split, rows in drawn.items()}
    missing = (
        f" CLDR lacks in one of these languages: {', '.join(generator.missing_kinds)}."
        if generator.missing_kinds
        else ""
    )
    return pairs, Provenance(
        name=f"Unicode CLDR combinations, {source_language}-{target_language}",
        description=(
            "Dates, times, measures, money, and lists of countries and languages. The parts are human translations "
            "(Unicode CLDR through Babel); the combinations are composed by rule, and nobody wrote or checked these "
            "phrases. Validation and test are combinations held out by a hash; no source and no target text of theirs "
            f"occurs in training. Kinds: {', '.join(generator.kinds)}.{missing}"
        ),
        licence="BSD-3-Clause (Babel), Unicode-3.0 (CLDR data)",
        origin=f"Babel {babel_version} (PyPI), seed {seed}",
        languages=(source_language, target_language),
        synthetic=True,
    )


def _jupyterlab(source: str) -> tuple[dict, Provenance]:
    locale = source.removeprefix("jupyterlab:")
    rows, version = read_language_pack(locale)
    return {"train": numbered(rows, source)}, Provenance(
        name=f"JupyterLab language pack, {locale}",
        description="Texts of a real program, JupyterLab and its extensions, translated by volunteers.",
        licence="BSD-3-Clause",
        origin=f"jupyterlab-language-pack-{locale} {version} (PyPI)",
        languages=("en", locale.split("-")[0]),
        synthetic=False,
    )


def _named_set(
    source: str,
    columns: tuple[str, str],
    held_out: dict[str, Any],
    config_name: str | None,
    revision: str | None,
    licence: str | None,
    languages: tuple[str, str] | None,
) -> tuple[dict, Provenance]:
    """Read a folder, or a data set on the Hub."""
    if ":" in source:
        raise ValueError(f"source={source!r}: unknown scheme; known: 'cldr:en-fr', 'jupyterlab:fr-FR'")
    splits = open_set(source, config_name, revision, "'cldr:en-fr', 'jupyterlab:fr-FR'")
    wanted = {"train": "train"}
    for split, value in held_out.items():
        if isinstance(value, str) and value in splits:
            wanted[split] = value
        elif value is None and split in splits:
            wanted[split] = split
    raw: dict[str, Iterable[RawPair]] = {}
    for split, name in wanted.items():
        rows = splits[name]
        if isinstance(rows, list):
            raw[split] = read_pairs(rows, *columns)
        else:
            raw[split] = read_arrow(rows.with_format("arrow")[:], *columns, where=f"{source}, split {name}")
    return raw, provenance_of_set(source, splits, revision, licence, languages)


def refuse_hub_options(source: Any, config_name: str | None, revision: str | None) -> None:
    """Raise ValueError if options of a dataset on the Hub are given for another source."""
    for name, value in {"data_config (config_name)": config_name, "data_revision (revision)": revision}.items():
        if value is not None:
            raise ValueError(f"{name}={value!r} is for a data set on the Hub; {source} is no such data set")


def open_set(
    source: str, config_name: str | None, revision: str | None, built_in: str
) -> dict[str, Dataset] | dict[str, list[Path]]:
    """Open a dataset on the Hub or a folder (of files, or saved by `save_to_disk`); return its splits or their files.

    A dataset without splits is returned as `train`.

    Args:
        built_in: names of built-in sources, for the error message.

    Raises:
        ValueError: a source that cannot be opened or has no split `train`.
    """
    folder = Path(source).expanduser()
    saved = all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))  # by save_to_disk
    if folder.is_dir():
        refuse_hub_options(source, config_name if saved else None, revision)
        source = str(folder)
    splits: dict | None = None
    try:
        if saved:
            splits = {"train": load_from_disk(source)}
        elif folder.is_dir():
            splits = files_of_folder(folder, config_name)
        if splits is None:
            splits = load_dataset(source, config_name, revision=revision)
    except Exception as error:  # whatever datasets, its readers or the network raise
        raise ValueError(
            f"source={source!r} is neither built in ({built_in}) nor a file here, and datasets.load_dataset could not"
            f" open it: {error}"
        ) from error
    if "train" not in splits:
        raise ValueError(f"{source} has no split 'train'; splits found: {', '.join(splits)}")
    return splits


def provenance_of_set(
    source: str, splits: Mapping[str, Any], revision: str | None, licence: str | None, languages: Sequence[str] | None
) -> Provenance:
    """Return the provenance of a folder or of a dataset on the Hub, from the dataset's own description."""
    info = getattr(splits["train"], "info", DatasetInfo())
    is_folder = Path(source).expanduser().is_dir()
    name = Path(source).expanduser().resolve().name if is_folder else source  # a card does not publish local paths
    return Provenance(
        name=name,
        description=info.description.strip() or f"The dataset {name}.",
        licence=licence or info.license or "not stated",
        origin=info.homepage or (name if is_folder else f"{name}, revision {revision or 'newest'}"),
        languages=tuple(languages or ()),
        dataset_id=None if is_folder else name,
    )
