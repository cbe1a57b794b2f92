"""Pack texts of different lengths into rows of one length, so that hardly anything is padding."""

import inspect
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from datasets.fingerprint import Hasher

from ..private_names import fingerprint_of

SHARD_TOKENS = 1 << 24  # packed at once: rows get as full as from all texts, and memory grows by 250 MB at most


@dataclass(frozen=True)
class PackingReport:
    """What packing made of a set of texts; `fill_rate` (0-1) is the share of the rows' places that hold a token."""

    num_texts: int
    num_rows: int
    num_tokens: int
    row_length: int
    num_split: int

    @property
    def fill_rate(self) -> float:
        return self.num_tokens / (self.num_rows * self.row_length) if self.num_rows else 0.0

    def __str__(self) -> str:
        split = f"; {self.num_split:,} longer texts were cut into several" if self.num_split else ""
        return (
            f"{self.num_texts:,} texts, {self.num_tokens:,} tokens in {self.num_rows:,} rows of {self.row_length}:"
            f" {self.fill_rate:.1%} filled{split}"
        )


def split_long(lengths: Sequence[int], row_length: int) -> list[tuple[int, int, int]]:
    """Return (text, start, end) of each piece of at most `row_length` tokens, in order."""
    return [
        (text, start, min(start + row_length, length))
        for text, length in enumerate(lengths)
        for start in range(0, length, row_length)
    ]


def first_fit(lengths: Iterable[int], row_length: int) -> list[list[int]]:
    """Put each item into the first row that still has room for it; return the items of each row.

    With lengths 5, 4, 3, 2 and rows of 8: [[0, 2], [1, 3]].

    A tree over the rows finds that row in the logarithm of their number (Johnson 1974, "Fast Algorithms for Bin
    Packing": never more than 1.7 times the fewest rows possible).

    Raises:
        ValueError: an item that is empty or longer than a row.
    """
    lengths = list(lengths)
    size = 1
    while size < len(lengths):
        size *= 2
    room = [row_length] * (2 * size)  # room[node]: the largest room of a row below the node; the leaves are the rows
    rows: list[list[int]] = []
    for item, length in enumerate(lengths):
        if not 0 < length <= row_length:
            raise ValueError(f"lengths must be from 1 to row_length ({row_length}), but item {item} has {length}")
        node = 1
        while node < size:
            node = 2 * node if room[2 * node] >= length else 2 * node + 1
        row = node - size
        if row == len(rows):
            rows.append([])
        rows[row].append(item)
        room[node] -= length
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return rows


def shards_of(lengths: np.ndarray, most_tokens: int) -> list[tuple[int, int]]:
    """Return (first text, one past the last) of each shard: up to `most_tokens` tokens, or one longer text."""
    before = np.concatenate([[0], np.cumsum(lengths)])  # tokens before each text
    bounds = [0]
    while bounds[-1] < len(lengths):
        end = int(np.searchsorted(before, before[bounds[-1]] + most_tokens, side="right")) - 1
        bounds.append(max(end, bounds[-1] + 1))
    return list(pairwise(bounds))


def pack_shard(texts: pa.ChunkedArray, row_length: int) -> pa.Table:
    """Return the rows that texts, lists of token ids, make; see `pack`."""
    lengths = pc.list_value_length(texts).to_numpy()
    ids = pc.list_flatten(texts).to_numpy()
    first = np.cumsum(lengths) - lengths  # of each text's ids
    pieces = split_long(lengths.tolist(), row_length)
    rows = first_fit([end - start for _, start, end in pieces], row_length)
    order = [pieces[item] for row in rows for item in row]
    sizes = np.array([0, *(end - start for _, start, end in order)])
    row_ends = np.cumsum([0, *map(len, rows)])  # counted in pieces
    packed = [ids[first[text] + start : first[text] + end] for text, start, end in order]
    return pa.table(
        {
            "input_ids": pa.ListArray.from_arrays(
                pa.array(np.cumsum(sizes)[row_ends], pa.int32()), np.concatenate(packed or [ids])
            ),
            "lengths": pa.ListArray.from_arrays(pa.array(row_ends, pa.int32()), sizes[1:]),
        }
    )


def pack(dataset: Dataset, row_length: int) -> tuple[Dataset, PackingReport]:
    """Pack tokenized texts into rows.

    The rows have two columns: `input_ids`, the texts one after another, and `lengths`, where one ends and the next
    begins. `objectives` makes of them positions that start over with each text, so that no text sees another. Texts
    longer than a row are cut into pieces first.

    A shard of `SHARD_TOKENS` tokens is packed at a time, so that memory does not grow with the data. The rows of a
    dataset on disk lie beside it, in `datasets`' cache; those of a dataset in memory stay there.

    Args:
        dataset: with a column `input_ids`; other columns are dropped.
        row_length: tokens of a row, at most.

    Raises:
        ValueError: no column `input_ids`, no text, or a row_length below 1.
    """
    if "input_ids" not in dataset.column_names:
        raise ValueError(f"dataset must have a column input_ids; it has {', '.join(dataset.column_names) or 'none'}")
    if row_length < 1:
        raise ValueError(f"row_length must be at least 1, not {row_length}")
    texts = dataset.select_columns("input_ids").with_format("arrow")
    lengths = np.concatenate(
        [np.zeros(0, int), *(pc.list_value_length(table["input_ids"]).to_numpy() for table in texts.iter(1000))]
    )
    if not lengths.sum():
        raise ValueError("dataset holds no token to pack")
    # what the rows depend on; this file, too, as a cache outlives a change of it
    code = inspect.getsource(sys.modules[__name__])
    fingerprint = Hasher.hash([fingerprint_of(dataset), row_length, SHARD_TOKENS, code])
    files = dataset.cache_files
    shards = Dataset.from_dict({"shard": shards_of(lengths, SHARD_TOKENS)}).with_format("arrow")
    rows = shards.map(
        lambda batch: pack_shard(texts[slice(*batch["shard"][0].as_py())]["input_ids"], row_length),
        batched=True,
        batch_size=1,
        remove_columns="shard",
        cache_file_name=str(Path(files[0]["filename"]).with_name(f"cache-{fingerprint}.arrow")) if files else None,
        new_fingerprint=fingerprint,
        desc="packing, in shards",
    ).with_format(None)
    split = int((lengths > row_length).sum())
    return rows, PackingReport(len(lengths), len(rows), int(lengths.sum()), row_length, split)
