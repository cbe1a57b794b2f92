"""Batches of the language modelling objectives, against literal tables and, for what chance does, many draws."""

import pytest
import torch

from hf_genai.data import train_tokenizer
from hf_genai.objectives import fill_in_the_middle, span_corruption
from hf_genai.objectives.causal_lm import CausalLMCollator
from hf_genai.objectives.masked_lm import MaskedLMCollator, word_ids
from hf_genai.objectives.prefix_lm import PrefixLMCollator

TEXTS = ["the cat sat on the mat", "an unbelievable story about unbelievable things", "one two three four five"]


@pytest.fixture(scope="module")
def tokenizer():
    made = train_tokenizer(TEXTS * 3, vocab_size=300)
    made.add_special_tokens({"mask_token": "<mask>"})
    sentinels = [f"<extra_id_{number}>" for number in range(20)]
    made.add_tokens([*sentinels, *fill_in_the_middle.TOKENS], special_tokens=True)
    return made


def test_packed_texts_do_not_predict_each_other():
    batch = CausalLMCollator(0)([{"input_ids": [5, 6, 7, 8, 9], "lengths": [3, 2]}, {"input_ids": [5, 6]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [5, 6, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9], [-100, 6, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    assert batch.keys() == {"input_ids", "labels", "position_ids"}


def test_rows_are_rounded_up_and_labels_of_their_own_are_kept():
    batch = CausalLMCollator(0, pad_to_multiple_of=4)([{"input_ids": [5, 6, 7], "labels": [-100, -100, 7]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7, -100]]
    with pytest.raises(ValueError, match="labels must be as long"):
        CausalLMCollator(0)([{"input_ids": [5, 6, 7], "labels": [5]}])


def test_what_is_masked_is_what_is_to_be_predicted(tokenizer):
    torch.manual_seed(0)
    collate = MaskedLMCollator(tokenizer, mask_prob=1.0, replace_prob=1.0, random_prob=0.0)
    batch = collate([{"input_ids": [10, 11, 2]}, {"input_ids": [12, 2]}])
    mask = tokenizer.mask_token_id
    assert batch["input_ids"].tolist() == [[mask, mask, 2], [mask, 2, 0]]
    assert batch["labels"].tolist() == [[10, 11, -100], [12, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_of_the_chosen_tokens_eighty_percent_are_masked_ten_random_ten_kept(tokenizer):
    torch.manual_seed(0)
    ids = torch.randint(4, 250, (400,)).tolist()
    chosen = masked = kept = 0
    for _ in range(100):
        batch = MaskedLMCollator(tokenizer)([{"input_ids": ids}])
        labels, found = batch["labels"][0], batch["input_ids"][0]
        picked = labels != -100
        assert torch.equal(labels[picked], torch.tensor(ids)[picked])
        assert torch.equal(found[~picked], torch.tensor(ids)[~picked])
        chosen += int(picked.sum())
        masked += int((found == tokenizer.mask_token_id).sum())
        kept += int((found[picked] == labels[picked]).sum())
        assert not torch.isin(found[found != tokenizer.mask_token_id], torch.tensor(tokenizer.all_special_ids)).any()
    assert chosen / 40_000 == pytest.approx(0.15, abs=0.006)
    assert masked / chosen == pytest.approx(0.8, abs=0.02)
    assert kept / chosen == pytest.approx(0.1, abs=0.015)  # and one in 250 of the random ones


def test_whole_words_are_masked_together(tokenizer):
    encoding = tokenizer(TEXTS[1])
    words = word_ids(encoding)
    assert words[-1] == -1
    assert max(words.count(word) for word in words) > 1
    torch.manual_seed(0)
    collate = MaskedLMCollator(tokenizer, mask_prob=0.3, whole_words=True)
    chosen = total = 0
    for _ in range(200):
        labels = collate([{"input_ids": encoding["input_ids"], "word_ids": words}])["labels"][0] != -100
        for word in set(words) - {-1}:
            own = [bool(picked) for picked, of in zip(labels, words, strict=True) if of == word]
            assert all(own) or not any(own)
            chosen, total = chosen + own[0], total + 1
    assert chosen / total == pytest.approx(0.3, abs=0.04)
    with pytest.raises(ValueError, match="needs word_ids"):
        collate([{"input_ids": [5]}])


def test_tokens_that_a_text_calls_special_are_not_chosen_whatever_the_length_of_the_rows(tokenizer):
    collate = MaskedLMCollator(tokenizer, mask_prob=1.0, pad_to_multiple_of=4)
    batch = collate([{"input_ids": [10, 11, 12], "special_tokens_mask": [0, 1, 0]}])
    assert batch["labels"].tolist() == [[10, -100, 12, -100]]
    collate = MaskedLMCollator(tokenizer, mask_prob=1.0, whole_words=True, pad_to_multiple_of=4)
    assert collate([{"input_ids": [10, 2], "word_ids": [0, -1]}])["labels"].tolist() == [[10, -100, -100, -100]]


def test_all_that_is_drawn_comes_from_the_generator(tokenizer):
    """So that a run that is gone on with draws what it would have drawn."""
    kinds = (MaskedLMCollator, span_corruption.SpanCorruptionCollator, fill_in_the_middle.FillInTheMiddleCollator)
    whole_words = MaskedLMCollator(tokenizer, whole_words=True)
    example = {"input_ids": list(range(10, 50)), "word_ids": [place // 2 for place in range(40)]}
    for collate in (*(kind(tokenizer) for kind in kinds), whole_words, PrefixLMCollator(0)):
        collate.generator, before = torch.Generator(), torch.get_rng_state()
        for _ in range(9):
            collate([dict(example)])
        assert torch.equal(torch.get_rng_state(), before), collate


def test_packed_rows_of_a_masked_language_model_start_over(tokenizer):
    batch = MaskedLMCollator(tokenizer)([{"input_ids": [10, 11, 12, 13], "lengths": [3, 1]}, {"input_ids": [10]}])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0], [0, 0, 1, 2]]
    assert "attention_mask" not in batch


def test_a_tokenizer_without_mask_token_is_refused():
    with pytest.raises(ValueError, match="tokenizer must have a mask token"):
        MaskedLMCollator(train_tokenizer(TEXTS, vocab_size=300))


def test_shares_that_are_none_are_refused(tokenizer):
    for options in ({"mask_prob": 0}, {"mask_prob": 1.1}, {"replace_prob": 0.8, "random_prob": 0.3}):
        with pytest.raises(ValueError, match="_prob"):
            MaskedLMCollator(tokenizer, **options)
    for options in ({"noise_density": 0}, {"noise_density": 1}, {"mean_span_length": 0.9}):
        with pytest.raises(ValueError, match=next(iter(options))):
            span_corruption.SpanCorruptionCollator(tokenizer, **options)


def test_inputs_and_targets_of_spans_are_rounded_up(tokenizer):
    batch = span_corruption.SpanCorruptionCollator(tokenizer, pad_to_multiple_of=8)([{"input_ids": [10, 11, 12]}])
    assert {name: tuple(value.shape) for name, value in batch.items()} == dict.fromkeys(batch, (1, 8))


def test_spans_become_sentinels_in_the_input_and_stand_in_the_target():
    source, target = span_corruption.corrupt([10, 11, 12, 13, 14, 15], [2, 1, 1, 2], [99, 98, 97], end=1)
    assert source == [10, 11, 99, 13, 98, 1]
    assert target == [99, 12, 98, 14, 15, 1]


def test_lengths_are_those_of_the_paper():
    assert span_corruption.length_before(512) == 568
    assert span_corruption.lengths_after(568) == (512, 114)


@pytest.mark.parametrize("length", [2, 3, 7, 50, 300])
def test_lengths_worked_out_are_the_lengths_made(tokenizer, length):
    torch.manual_seed(0)
    sentinels = list(range(1000, 1100))
    expected = span_corruption.lengths_after(length)
    for _ in range(20):
        parts = span_corruption.random_spans(length, 0.15, 3.0)
        assert min(parts) >= 1
        assert sum(parts) == length
        source, target = span_corruption.corrupt(list(range(length)), parts, sentinels, end=-1)
        assert (len(source), len(target)) == expected
        taken = {place: token for place, token in enumerate(target[:-1]) if token < 1000}
        assert sorted([*taken.values(), *(token for token in source[:-1] if token < 1000)]) == list(range(length))


def test_fifteen_percent_are_noise_in_spans_of_three_on_average_anywhere_in_the_text():
    torch.manual_seed(0)
    noisy, spans = torch.zeros(200), []
    for _ in range(500):
        parts, place = span_corruption.random_spans(200, 0.15, 3.0), 0
        for kept, taken in zip(parts[::2], parts[1::2], strict=True):
            noisy[place + kept : place + kept + taken] += 1
            place += kept + taken
            spans.append(taken)
    assert noisy.mean() / 500 == pytest.approx(0.15)
    assert sum(spans) / len(spans) == pytest.approx(3.0)
    assert (noisy[40:160] / 500 - 0.15).abs().max() < 0.08
    assert {1, 2, 3, 4, 5, 6} <= set(spans)


def test_corrupted_texts_are_padded_and_begin_with_the_first_sentinel(tokenizer):
    torch.manual_seed(0)
    texts = tokenizer(TEXTS)["input_ids"]
    collate = span_corruption.SpanCorruptionCollator(tokenizer)
    batch = collate([{"input_ids": ids} for ids in texts])
    first = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    for ids, source, mask, target in zip(
        texts, batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
    ):
        expected = span_corruption.lengths_after(len(ids) - 1)
        assert (int(mask.sum()), int((target != -100).sum())) == expected
        assert target[0] == first
        assert first in source
        assert source[int(mask.sum()) - 1] == tokenizer.eos_token_id
    long = [{"input_ids": list(range(10, 60))}]
    assert collate(long)["labels"].tolist() != collate(long)["labels"].tolist()  # drawn anew


@pytest.mark.parametrize("density", [0.9, 0.99])
def test_spans_have_text_between_them_however_dense_the_noise(density):
    for length in range(2, 12):
        parts = span_corruption.random_spans(length, density, 1.0)
        assert sum(parts) == length and min(parts) >= 1


def test_a_text_with_more_spans_than_sentinels_is_refused(tokenizer):
    exactly = span_corruption.SpanCorruptionCollator(tokenizer, noise_density=0.5, mean_span_length=1.0)
    assert exactly([{"input_ids": list(range(10, 50))}])["labels"].shape == (1, 41)
    with pytest.raises(ValueError, match=r"spans, but the tokenizer has only 20 sentinels"):
        span_corruption.SpanCorruptionCollator(tokenizer)([{"input_ids": [7] * 600}])
    with pytest.raises(ValueError, match="at least two tokens"):
        span_corruption.SpanCorruptionCollator(tokenizer)([{"input_ids": [7, 2]}])
    with pytest.raises(ValueError, match="tokenizer must have sentinels"):
        span_corruption.SpanCorruptionCollator(train_tokenizer(TEXTS, vocab_size=300))


def test_a_prefix_is_read_in_both_directions_and_not_predicted():
    batch = PrefixLMCollator(0)([{"input_ids": [5, 6, 7, 8], "prefix_length": 2}, {"input_ids": [5, 6]}])
    assert batch["labels"].tolist() == [[-100, -100, 7, 8], [-100, 6, -100, -100]]
    assert batch["attention_mask"][0, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["attention_mask"][1, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3]] * 2
    with pytest.raises(ValueError, match="prefix_length must be from 1 to 1"):
        PrefixLMCollator(0)([{"input_ids": [5, 6], "prefix_length": 2}])


def test_prefixes_of_all_lengths_are_drawn():
    torch.manual_seed(0)
    labels = PrefixLMCollator(0)([{"input_ids": [5, 6, 7, 8]}] * 300)["labels"]
    assert torch.bincount((labels == -100).sum(1), minlength=4)[1:4].min() > 70


def test_the_middle_moves_to_the_end():
    tokens = {"prefix": 97, "middle": 98, "suffix": 99}
    assert fill_in_the_middle.rearrange([1, 2, 3, 4, 5], (1, 3), "psm", **tokens) == [97, 1, 99, 4, 5, 98, 2, 3]
    assert fill_in_the_middle.rearrange([1, 2, 3, 4, 5], (1, 3), "spm", **tokens) == [97, 99, 4, 5, 98, 1, 2, 3]


def test_half_of_the_texts_are_rearranged_and_keep_their_end(tokenizer):
    torch.manual_seed(0)
    prefix, middle, suffix = tokenizer.convert_tokens_to_ids(list(fill_in_the_middle.TOKENS))
    text, end = [10, 11, 12, 13, 14, 15], tokenizer.eos_token_id
    collate = fill_in_the_middle.FillInTheMiddleCollator(tokenizer)
    moved = spm = 0
    for _ in range(400):
        batch = collate([{"input_ids": [*text, end]}])
        ids = batch["input_ids"][0].tolist()
        assert ids[-1] == end
        if ids[0] == prefix:
            moved += 1
            spm += ids[1] == suffix
            assert sorted(token for token in ids[:-1] if token < 20) == text
            assert {prefix, middle, suffix} <= set(ids)
        else:
            assert ids == [*text, end]
    assert moved / 400 == pytest.approx(0.5, abs=0.08)
    assert spm / moved == pytest.approx(0.5, abs=0.12)


def test_packed_texts_are_rearranged_one_by_one(tokenizer):
    torch.manual_seed(0)
    collate = fill_in_the_middle.FillInTheMiddleCollator(tokenizer, fim_prob=1.0, spm_prob=0.0)
    batch = collate([{"input_ids": [10, 11, 12, 2, 13, 14, 15, 2], "lengths": [4, 4]}])
    ids, starts = batch["input_ids"][0].tolist(), (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    assert starts == [0, 7]
    assert {token for token in ids[:7] if token < 20} == {10, 11, 12, 2}
    assert collate([{"input_ids": [10, 11, 2]}])["input_ids"].tolist() == [[10, 11, 2]]  # too short to be moved
    with pytest.raises(ValueError, match="fim_prob must be between 0 and 1, not 2"):
        fill_in_the_middle.FillInTheMiddleCollator(tokenizer, fim_prob=2)
    with pytest.raises(ValueError, match="tokenizer must have the tokens .*lacks <fim_prefix>"):
        fill_in_the_middle.FillInTheMiddleCollator(train_tokenizer(TEXTS, vocab_size=300))


@pytest.mark.parametrize("collate", [CausalLMCollator(0), PrefixLMCollator(0)])
def test_an_empty_batch_is_refused(collate):
    with pytest.raises(ValueError, match="examples must hold at least one example"):
        collate([])
