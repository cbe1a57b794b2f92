"""Packing: every token once, no row too long, few places left."""

import pytest
import torch
from datasets import Dataset

from hf_genai.data import packing
from hf_genai.data.packing import first_fit, pack, shards_of, split_long


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
        ({"input_ids": [[]]}, 8, "at least one token"),
    ],
)
def test_what_cannot_be_packed_is_refused(columns, row_length, message):
    with pytest.raises(ValueError, match=message):
        pack(Dataset.from_dict(columns), row_length)


def test_an_item_that_fits_no_row_is_refused():
    with pytest.raises(ValueError, match=r"from 1 to row_length \(4\), but item 1 has 5"):
        first_fit([1, 5], 4)


def random_texts(count, longest=40):
    """Texts whose tokens are all different; some are empty."""
    lengths = torch.randint(0, longest, (count,), generator=torch.Generator().manual_seed(count)).tolist()
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return [list(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]


@pytest.fixture
def on_disk(tmp_path):
    def make(texts):
        return Dataset.from_generator(lambda: ({"input_ids": text} for text in texts), cache_dir=str(tmp_path))

    return make


def test_a_shard_is_packed_as_texts_in_lists_are():
    texts, room = random_texts(200), 16
    pieces = [text[start : start + room] for text in texts for start in range(0, len(text), room)]
    expected = [[pieces[item] for item in row] for row in first_fit(map(len, pieces), room)]
    rows, _ = pack(Dataset.from_dict({"input_ids": texts}), room)
    assert rows["input_ids"][:] == [sum(parts, []) for parts in expected]
    assert rows["lengths"][:] == [[len(part) for part in parts] for parts in expected]


def test_a_shard_ends_before_it_holds_too_many_tokens_but_a_long_text_stays_whole():
    assert shards_of([3, 0, 4, 5, 30, 0, 0, 2], 7) == [(0, 3), (3, 4), (4, 5), (5, 8)]
    assert shards_of([9, 0], 7) == [(0, 1), (1, 2)]


@pytest.mark.parametrize("held", ["in memory", "on disk", "shuffled"])
def test_shards_keep_every_token_once_and_in_order_and_no_more_than_one_is_in_memory(held, on_disk, monkeypatch):
    texts = [*random_texts(300), []]
    dataset = Dataset.from_dict({"input_ids": texts}) if held == "in memory" else on_disk(texts)
    if held == "shuffled":
        dataset = dataset.shuffle(seed=0)
    whole, _ = pack(dataset, 16)
    seen, pack_shard = [], packing.pack_shard

    def watch(shard, row_length):
        seen.append(sum(len(text) for text in shard.to_pylist()))
        return pack_shard(shard, row_length)

    monkeypatch.setattr(packing, "pack_shard", watch)
    monkeypatch.setattr(packing, "SHARD_TOKENS", 500)
    rows, report = pack(dataset, 16)
    tokens = sum(map(len, texts))
    assert len(seen) > 5 and max(seen) <= 500 and sum(seen) == tokens
    assert sorted(token for row in rows["input_ids"] for token in row) == list(range(tokens))
    starts = {text[place] for text in texts for place in range(0, len(text), 16)}
    for row, lengths in zip(rows["input_ids"], rows["lengths"], strict=True):
        assert sum(lengths) == len(row) <= 16
        for end, length in zip(torch.tensor(lengths).cumsum(0).tolist(), lengths, strict=True):
            assert row[end - length] in starts
            assert row[end - length : end] == list(range(row[end - length], row[end - length] + length))
    assert (report.num_texts, report.num_tokens, report.num_rows) == (301, tokens, len(rows))
    assert report.num_split == sum(len(text) > 16 for text in texts)
    assert 0 <= len(rows) - len(whole) <= 2 * len(seen)
    assert rows.features == whole.features
    assert bool(rows.cache_files) == (held != "in memory")  # what was read from disk is written to it


def test_rows_on_disk_are_made_once_and_anew_when_anything_changes(on_disk, monkeypatch):
    texts, calls, pack_shard = random_texts(30), [], packing.pack_shard
    monkeypatch.setattr(packing, "pack_shard", lambda *given: calls.append(1) or pack_shard(*given))
    dataset = on_disk(texts)
    first = pack(dataset, 16)
    again = pack(dataset, 16)
    assert calls == [1]
    assert again[0]["input_ids"][:] == first[0]["input_ids"][:] and again[1] == first[1]
    assert max(map(len, pack(dataset, 24)[0]["input_ids"])) > 16
    fewer, _ = pack(dataset.select(range(10)), 16)
    assert sum(map(len, fewer["input_ids"])) == sum(map(len, texts[:10]))
    other, _ = pack(on_disk([[7, 7]]), 16)
    assert other["input_ids"][:] == [[7, 7]]
    monkeypatch.setattr(packing, "SHARD_TOKENS", 100)
    assert len(pack(dataset, 16)[0]) >= len(first[0])
    assert len(calls) > 6
    monkeypatch.setattr(packing.inspect, "getsource", lambda module: "packed in another way")
    calls.clear()
    pack(dataset, 16)
    assert calls
