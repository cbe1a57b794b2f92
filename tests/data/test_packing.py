"""Packing: every token once, no row too long, few places left."""

import pytest
import torch
from datasets import Dataset

from hf_genai.data.packing import first_fit, pack, split_long


def slow_first_fit(lengths, row_length):
    rows, room = [], []
    for item, length in enumerate(lengths):
        for row, left in enumerate(room):
            if left >= length:
                rows[row].append(item)
                room[row] -= length
                break
        else:
            rows.append([item])
            room.append(row_length - length)
    return rows


def test_an_item_goes_into_the_first_row_that_has_room_for_it():
    assert first_fit([5, 4, 3, 2], 8) == [[0, 2], [1, 3]]


@pytest.mark.parametrize("count", [1, 2, 7, 64, 501])
def test_the_tree_finds_the_same_rows_as_looking_at_each(count):
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, 33, (count,), generator=generator).tolist()
    assert first_fit(lengths, 32) == slow_first_fit(lengths, 32)


def test_texts_longer_than_a_row_are_cut_in_order():
    assert split_long([3, 9], 4) == [(0, 0, 3), (1, 0, 4), (1, 4, 8), (1, 8, 9)]


def test_packing_keeps_every_token_once_and_says_how_full_the_rows_are():
    texts = [[1, 2, 3], [4] * 9, [5, 6]]
    rows, report = pack(Dataset.from_dict({"input_ids": texts, "other": ["a", "b", "c"]}), 8)
    assert rows.column_names == ["input_ids", "lengths"]
    assert rows["input_ids"][:] == [[1, 2, 3, 4, 5, 6], [4] * 8]
    assert rows["lengths"][:] == [[3, 1, 2], [8]]
    assert (report.num_texts, report.num_rows, report.num_tokens, report.num_split) == (3, 2, 14, 1)
    assert report.fill_rate == 14 / 16
    assert "87.5% filled" in str(report)


def test_texts_of_real_lengths_fill_the_rows_nearly_whole():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 120, (500,), generator=generator).tolist()
    _, report = pack(Dataset.from_dict({"input_ids": [[1] * length for length in lengths]}), 256)
    assert report.fill_rate > 0.97


@pytest.mark.parametrize(
    ("columns", "row_length", "message"),
    [
        ({"text": ["a"]}, 8, "input_ids; it has text"),
        ({"input_ids": [[1]]}, 0, "row_length must be at least 1, not 0"),
        ({"input_ids": [[]]}, 8, "no token"),
    ],
)
def test_what_cannot_be_packed_is_refused(columns, row_length, message):
    with pytest.raises(ValueError, match=message):
        pack(Dataset.from_dict(columns), row_length)


def test_an_item_that_fits_no_row_is_refused():
    with pytest.raises(ValueError, match=r"from 1 to row_length \(4\), but item 1 has 5"):
        first_fit([1, 5], 4)
