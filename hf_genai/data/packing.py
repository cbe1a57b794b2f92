"""Pack texts of different lengths into rows of one length with little padding."""

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

SHARD_TOKENS = 1 << 24  # tokens packed at once: enough to fill rows as well as all texts would, in at most 250 MB


@dataclass(frozen=True)
class PackingReport:
    """Counts of a packed dataset; `fill_rate` (0-1) is the share of positions that hold a token."""

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
    """Return (text index, start, end) of pieces of at most `row_length` tokens, in order."""
    return [
        (text, start, min(start + row_length, length))
        for text, length in enumerate(lengths)
        for start in range(0, length, row_length)
    ]


def first_fit(lengths: Iterable[int], row_length: int) -> list[list[int]]:
    """Put each item into the first row with enough room; return the item indices of each row.

    With lengths 5, 4, 3, 2 and rows of 8 the result is [[0, 2], [1, 3]].

    A tree over the rows finds the first row in logarithmic time. First fit uses at most 1.7 times the minimum number
    of rows (Johnson 1974, "Fast Algorithms for Bin Packing").

    Raises:
        ValueError: an item that is empty or longer than a row.
    """
    lengths = list(lengths)
    size = 1
    while size < len(lengths):
        size *= 2
    room = [row_length] * (2 * size)  # room[node]: the largest room of all rows below the node; rows are the leaves
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
    """Return (first text, end) of each shard: texts with up to `most_tokens` tokens in all, or one longer text."""
    before = np.concatenate([[0], np.cumsum(lengths)])  # tokens before each text
    bounds = [0]
    while bounds[-1] < len(lengths):
        end = int(np.searchsorted(before, before[bounds[-1]] + most_tokens, side="right")) - 1
        bounds.append(max(end, bounds[-1] + 1))
    return list(pairwise(bounds))


def pack_shard(texts: pa.ChunkedArray, row_length: int) -> pa.Table:
    """Pack texts (lists of token ids) into a table of rows; see `pack`."""
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

    The result has two columns: `input_ids` (the concatenated texts of a row) and `lengths` (the lengths of these
    texts). The collators turn `lengths` into positions that restart with each text, so that texts do not attend to
    each other. Texts longer than a row are split into pieces.

    Texts are packed in shards of `SHARD_TOKENS` tokens, so that memory does not grow with the data. The rows of a
    dataset on disk are written to its `datasets` cache; the rows of a dataset in memory stay in memory.

    Args:
        dataset: has a column `input_ids`; other columns are dropped.
        row_length: maximum number of tokens in a row.

    Raises:
        ValueError: no column `input_ids`, no token, or a row_length below 1.
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
        raise ValueError("dataset must hold at least one token to pack, not 0")
    # everything the rows depend on, including this file: the cache outlives changes of the code
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
    return rows, PackingReport(
        num_texts=len(lengths),
        num_rows=len(rows),
        num_tokens=int(lengths.sum()),
        row_length=row_length,
        num_split=int((lengths > row_length).sum()),
    )
