"""Pack texts of different lengths into rows of one length, so that hardly anything is padding."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datasets import Dataset


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


def pack(dataset: Dataset, row_length: int) -> tuple[Dataset, PackingReport]:
    """Pack tokenized texts into rows.

    The rows have two columns: `input_ids`, the texts one after another, and `lengths`, where one ends and the next
    begins. `objectives` makes of them positions that start over with each text, so that no text sees another. Texts
    longer than a row are cut into pieces first.

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
    texts = dataset["input_ids"][:]
    pieces = split_long([len(text) for text in texts], row_length)
    if not pieces:
        raise ValueError("dataset holds no token to pack")
    rows = first_fit([end - start for _, start, end in pieces], row_length)
    packed: dict[str, list] = {"input_ids": [], "lengths": []}
    for row in rows:
        parts = [texts[text][start:end] for text, start, end in (pieces[item] for item in row)]
        packed["input_ids"].append([token for part in parts for token in part])
        packed["lengths"].append([len(part) for part in parts])
    tokens = sum(end - start for _, start, end in pieces)
    split = sum(len(text) > row_length for text in texts)
    return Dataset.from_dict(packed), PackingReport(len(texts), len(rows), tokens, row_length, split)
