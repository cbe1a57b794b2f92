from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_seq2seq import TEXTS, make_model, make_tokenizer
from transformers.utils import logging

from hf_genai.evaluation.attention_maps import AttentionMap, attention_maps, generated_attention
from hf_genai.evaluation.words import word_groups

SOURCES = ["the red house", "don't open the doors, it is very old", "la maison"]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer("byte_bpe")


def build(family):
    return make_model(family, attn_implementation="eager")


@pytest.fixture(scope="module", params=["bart", "t5", "marian", "rnn"])
def model(request):
    model = build(request.param)
    model.generation_config.sequence_bias = [[[2], END_BIAS[request.param]]]
    model.generation_config.max_new_tokens = 8
    return model


def rescore(model, batch, sequences):
    """(N, T, S): the weights that a forward pass over the finished sequences gives, mean over layers and heads."""
    per_source = len(sequences) // len(batch["input_ids"])
    repeated = {key: value.repeat_interleave(per_source, 0) for key, value in batch.items()}
    with torch.no_grad():
        output = model(**repeated, decoder_input_ids=sequences, output_attentions=True, use_cache=False)
    return torch.stack(output.cross_attentions).mean((0, 2)), output


END_BIAS = {"bart": 2.0, "t5": 1.0, "marian": 6.0, "rnn": 4.0}  # makes some sequences end early, in random models
ATTENTIONS = {"output_attentions": True, "return_dict_in_generate": True}
SEARCHES = {
    "greedy": {},
    "greedy without cache": {"use_cache": False},
    "sample": {"do_sample": True, "num_return_sequences": 2},
    "beam": {"num_beams": 4, "num_return_sequences": 2},
    "beam, early stopping": {
        "num_beams": 4,
        "num_return_sequences": 4,
        "early_stopping": True,
        "length_penalty": -1.0,
    },
    "beam sample without cache": {"num_beams": 3, "do_sample": True, "num_return_sequences": 2, "use_cache": False},
}


@pytest.mark.parametrize("prompt", [None, [[1, 30, 40], [1, 50, 60], [1, 30, 70]]], ids=["start token", "prompt of 3"])
@pytest.mark.parametrize("search", SEARCHES)
def test_weights_of_generate_equal_those_of_rescoring_the_returned_sequences(model, tokenizer, search, prompt):
    torch.manual_seed(3)
    batch = tokenizer(SOURCES, padding=True, return_tensors="pt", return_token_type_ids=False)
    extra = {} if prompt is None else {"decoder_input_ids": torch.tensor(prompt)}
    output = model.generate(**batch, **extra, **SEARCHES[search], **ATTENTIONS)
    expected, _ = rescore(model, batch, output.sequences)
    rows = generated_attention(output)
    assert len(rows) == len(output.sequences)
    for row, wanted, sequence in zip(rows, expected, output.sequences.tolist(), strict=True):
        assert row.shape[0] == len(sequence) - 1
        length = (sequence[1:] + [2]).index(2) + (2 in sequence[1:])  # up to and including the end token
        torch.testing.assert_close(row[:length], wanted[:length], atol=1e-5, rtol=0)


def test_some_beams_end_early_and_change_rows_so_that_the_comparison_can_fail(model, tokenizer):
    batch = tokenizer(SOURCES, padding=True, return_tensors="pt", return_token_type_ids=False)
    output = model.generate(**batch, **SEARCHES["beam"], **ATTENTIONS)
    indices = output.beam_indices
    assert (indices == -1).any()
    assert (indices[:, 1:] != indices[:, :1])[indices[:, 1:] >= 0].any()


def test_maps_of_a_forward_pass_equal_maps_of_generate(model, tokenizer):
    batch = tokenizer(SOURCES, padding=True, return_tensors="pt", return_token_type_ids=False)
    output = model.generate(**batch, num_beams=3, **ATTENTIONS)
    _, forward = rescore(model, batch, output.sequences[:, :-1])
    ended = (output.sequences == 2).cumsum(1) - (output.sequences == 2).long() > 0
    labels = output.sequences.masked_fill(ended, -100)[:, 1:]
    generated = attention_maps(output, batch["input_ids"], tokenizer)
    forced = attention_maps(forward, batch["input_ids"], tokenizer, labels=labels)
    for one, other in zip(generated, forced, strict=True):
        assert one.target_tokens == other.target_tokens
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-5)


@pytest.mark.parametrize("words", [True, False])
def test_rows_sum_to_one_and_the_labels_spell_the_texts(tokenizer, words):
    batch = tokenizer(SOURCES, padding=True, return_tensors="pt", return_token_type_ids=False)
    model = build("bart")
    output = model.generate(**batch, num_beams=2, num_return_sequences=2, max_new_tokens=8, **ATTENTIONS)
    maps = attention_maps(output, batch["input_ids"], tokenizer, words=words)
    assert len(maps) == 6
    if words:
        assert maps[2].source_tokens == ["don't", "open", "the", "doors", ",", "it", "is", "very", "old"]
        assert maps[0].source_tokens == maps[1].source_tokens == ["the", "red", "house"]
    for attention in maps:
        np.testing.assert_allclose(attention.weights.sum(1), 1, atol=1e-6)
        assert (attention.trimmed > 0).all()  # </s> gets a share in a random model


def fake_output(weights, sequences):
    """A greedy generate() output of one layer and one head with the given (T, S) weights."""
    steps = tuple((torch.tensor(row)[None, None, None],) for row in weights)
    return SimpleNamespace(sequences=torch.tensor([sequences]), cross_attentions=steps)


def test_source_pieces_are_summed_and_target_pieces_averaged():
    tokenizer = make_tokenizer("word", ["ab cd", "x y"])
    spelled = make_tokenizer("char", ["ab cd"])
    source = spelled("ab cd")["input_ids"]  # a, b, space, c, d, </s>
    x, y = tokenizer.convert_tokens_to_ids(["x", "y"])
    weights = [[0.1, 0.2, 0.1, 0.3, 0.3, 0.0], [0.0, 0.0, 0.0, 0.0, 0.5, 0.5], [1.0, 0, 0, 0, 0, 0]]
    (result,) = attention_maps(fake_output(weights, [1, x, y, 2]), torch.tensor([source]), spelled, tokenizer)
    assert result.source_tokens == ["ab", "cd"]
    assert result.target_tokens == ["x", "y"]
    np.testing.assert_allclose(result.weights, [[0.3, 0.7], [0.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(result.trimmed, [0.0, 0.5], atol=1e-6)

    reverse = torch.tensor([tokenizer("x y")["input_ids"]])
    weights = [[0.2, 0.8, 0.0], [0.6, 0.4, 0.0], [0.0, 0.0, 1.0]]
    a, b = spelled.convert_tokens_to_ids(["a", "b"])
    (result,) = attention_maps(fake_output(weights, [1, a, b, 2]), reverse, tokenizer, spelled)
    assert result.target_tokens == ["ab"]
    np.testing.assert_allclose(result.weights, [[0.4, 0.6]], atol=1e-6)


def test_special_tokens_can_be_kept_and_a_row_that_saw_only_them_stays_empty():
    tokenizer = make_tokenizer("word", ["x y"])
    source = torch.tensor([[*tokenizer("x y")["input_ids"], 0]])
    x, y = tokenizer.convert_tokens_to_ids(["x", "y"])
    output = fake_output([[0.5, 0.3, 0.2, 0.0], [0.0, 0.0, 1.0, 0.0], [0.2, 0.2, 0.6, 0.0]], [1, x, y, 2])
    (kept,) = attention_maps(output, source, tokenizer, skip_special_tokens=False)
    assert kept.source_tokens == ["x", "y", "</s>"]
    assert kept.target_tokens == ["x", "y", "</s>"]
    np.testing.assert_allclose(kept.weights[2], [0.2, 0.2, 0.6], atol=1e-6)
    (trimmed,) = attention_maps(output, source, tokenizer)
    np.testing.assert_allclose(trimmed.weights, [[0.625, 0.375], [0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(trimmed.trimmed, [0.2, 1.0], atol=1e-6)


def test_the_attention_mask_decides_what_is_padding_and_unknown_words_are_shown():
    tokenizer = make_tokenizer("word", ["x y"])
    source = torch.tensor([tokenizer("x boat y")["input_ids"]])
    output = fake_output([[0.5, 0.2, 0.1, 0.2]], [1, 3])
    (result,) = attention_maps(output, source, tokenizer)
    assert result.source_tokens == ["x", "<unk>", "y"] and result.target_tokens == ["<unk>"]
    (result,) = attention_maps(output, source, tokenizer, attention_mask=torch.tensor([[0, 1, 1, 1]]))
    assert result.source_tokens == ["<unk>", "y"]


def test_a_beam_that_ended_early_shows_one_end_token(model, tokenizer):
    batch = tokenizer(SOURCES, padding=True, return_tensors="pt", return_token_type_ids=False)
    output = model.generate(**batch, **SEARCHES["beam"], **ATTENTIONS)
    maps = attention_maps(output, batch["input_ids"], tokenizer, words=False, skip_special_tokens=False)
    assert any(attention.target_tokens[-1] == "</s>" for attention in maps)
    assert all(attention.target_tokens.count("</s>") <= 1 for attention in maps)


def test_the_wrong_rows_of_assisted_decoding_do_not_pass_unnoticed(tokenizer, caplog):
    model = make_model("t5", attn_implementation="eager")
    batch = tokenizer(SOURCES[:1], return_tensors="pt", return_token_type_ids=False)
    prompt = model.generate(**batch, max_new_tokens=8)
    logging.enable_propagation()
    plain = model.generate(**batch, decoder_input_ids=prompt, max_new_tokens=6, **ATTENTIONS)
    generated_attention(plain)
    assert not caplog.records
    lookup = {"prompt_lookup_num_tokens": 4, "max_matching_ngram_size": 1}
    assisted = model.generate(**batch, decoder_input_ids=prompt, max_new_tokens=6, **lookup, **ATTENTIONS)
    assert torch.equal(plain.sequences, assisted.sequences)
    generated_attention(assisted)
    logging.disable_propagation()
    assert "forward pass" in caplog.records[-1].message


def test_layers_and_heads_are_chosen_and_checked(tokenizer):
    model = build("bart")
    batch = tokenizer(SOURCES[:1], return_tensors="pt", return_token_type_ids=False)
    output = model.generate(**batch, max_new_tokens=4, **ATTENTIONS)
    wanted = torch.cat([step[1][0, 0] for step in output.cross_attentions])
    torch.testing.assert_close(generated_attention(output, layers=-1, heads=0)[0], wanted)
    halves = [generated_attention(output, layers=[layer])[0] for layer in (0, 1)]
    torch.testing.assert_close(generated_attention(output)[0], (halves[0] + halves[1]) / 2)
    with pytest.raises(ValueError, match="layers must be numbers from -2 to 1, got 2"):
        generated_attention(output, layers=2)
    with pytest.raises(ValueError, match="heads must be numbers"):
        generated_attention(output, heads=[])


def test_missing_attentions_say_how_to_get_them(tokenizer):
    model = make_model("bart", attn_implementation="sdpa")
    batch = tokenizer(SOURCES[:1], return_tensors="pt", return_token_type_ids=False)
    for output_attentions in (True, False):
        output = model.generate(
            **batch, max_new_tokens=2, output_attentions=output_attentions, return_dict_in_generate=True
        )
        with pytest.raises(ValueError, match='attn_implementation="eager"'):
            attention_maps(output, batch["input_ids"], tokenizer)
    with pytest.raises(ValueError, match="labels are needed"):
        attention_maps(model(**batch, decoder_input_ids=torch.tensor([[1]])), batch["input_ids"], tokenizer)


def test_maps_of_the_wrong_source_are_refused(tokenizer):
    output = fake_output([[0.5, 0.5]], [1, 5])
    with pytest.raises(ValueError, match="weights cover 2 source tokens, input_ids has 3"):
        attention_maps(output, torch.tensor([[5, 6, 2]]), tokenizer)
    with pytest.raises(ValueError, match="1 sequences cannot come from 2 sources"):
        attention_maps(output, torch.tensor([[5, 2], [6, 2]]), tokenizer)
    with pytest.raises(ValueError, match="weights must be"):
        AttentionMap(["a"], ["b"], np.ones((1, 2)), np.zeros(1))


WORDS = [
    ["the", "red", "house", "is", "very", "old"],
    ["don't", "open", "the", "doors", ",", "it", "costs", "3.14", "euros", "!"],
    ["la", "maison", "rouge", "n'est", "pas", "très", "vieille"],
    None,
    ["البيت", "الأحمر", "قديم", "جدا"],
    ["הבית", "האדום", "ישן", "מאוד"],
]


@pytest.mark.parametrize("kind", ["byte_bpe", "unigram", "wordpiece", "char"])
def test_words_come_back_from_every_kind_of_tokenizer(kind):
    tokenizer = make_tokenizer(kind)
    for text, expected in zip(TEXTS, WORDS, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        words, starts = word_groups(ids, tokenizer)
        assert starts[0] == 0 and starts == sorted(set(starts))
        if expected is None:
            assert "".join(words).replace(" ", "") == text
        elif kind == "wordpiece" and "'" in text:
            assert "".join(words).replace(" ", "") == text.replace(" ", "")  # its decoder parts the apostrophe
        else:
            assert words == expected


def test_japanese_characters_stay_apart_though_their_bytes_are_joined():
    tokenizer = make_tokenizer("byte_bpe", ["only Latin letters here"], vocab_size=270)
    ids = tokenizer("日本 é", add_special_tokens=False)["input_ids"]
    assert len(ids) == 9
    assert word_groups(ids, tokenizer) == (["日", "本", "é"], [0, 3, 6])


def test_unknown_words_and_kept_special_tokens_are_words_of_their_own():
    tokenizer = make_tokenizer("word", ["red house"])
    ids = tokenizer("red boat house")["input_ids"]
    assert word_groups(ids, tokenizer) == (["red", "<unk>", "house", "</s>"], [0, 1, 2, 3])
    unigram = make_tokenizer("unigram")
    char = make_tokenizer("char")
    assert word_groups(char("ж ж a", add_special_tokens=False)["input_ids"], char)[0] == ["<unk>", "<unk>", "a"]
    pieces, starts = word_groups(unigram("the red")["input_ids"], unigram, join=False)
    assert pieces[-1] == "</s>" and starts == list(range(len(pieces)))
