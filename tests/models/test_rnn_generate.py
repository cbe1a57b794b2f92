"""All of generate(): searching, sampling, going on, and what comes back with the ids."""

import itertools

import pytest
import torch
from private_names import beam_search
from tiny_rnn import ENCODER_DECODERS, STACKS, ragged, tiny_model
from transformers import EncoderDecoderCache, TextStreamer

from hf_genai import GenaiRNNForCausalLM, GenaiRNNForConditionalGeneration

# one of each way in which the decoder looks at the source
VARIANTS = [
    "gru, additive after",
    "gru, additive fed, two layers",
    "gru, additive before, two layers",
    "lstm, general fed, reversed source",
    "lstm, none after, untied",
    "gru, none before, two vocabularies",
]
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def translator(variant: str = "gru, additive fed, two layers", std: float = 1.0, **more):
    return tiny_model(GenaiRNNForConditionalGeneration, ENCODER_DECODERS[variant], std=std, **more)


def source(batch: int = 4, side: str = "left", longest: int = 7, seed: int = 0) -> dict:
    ids, mask = ragged(batch, longest, 19, side, seed)
    return {"input_ids": ids, "attention_mask": mask}


def assert_varied(ids: torch.Tensor) -> None:
    """A model that writes the same whatever it reads would pass most tests, and show nothing."""
    assert len(ids.unique(dim=0)) > 1
    assert len(ids.unique()) > 4


def trimmed(ids: torch.Tensor) -> list[list[int]]:
    """The new tokens of each row, to its end token."""
    rows = [row[1:] for row in ids.tolist()]
    return [row[: row.index(2) + 1] if 2 in row else row for row in rows]


def log_probabilities(model, inputs: dict, sequences: torch.Tensor) -> torch.Tensor:
    """Return log p (B, T) of each token after the first, by one pass over whole sequences without a cache."""
    with torch.no_grad():
        logits = model(**inputs, decoder_input_ids=sequences[:, :-1], use_cache=False).logits
    return logits.log_softmax(-1).gather(2, sequences[:, 1:, None]).squeeze(2)


# Searching


@each_variant
def test_greedy_takes_the_best_next_token_of_a_full_pass(variant):
    model, inputs = translator(variant), source()
    ids = model.generate(**inputs, max_new_tokens=9, do_sample=False, eos_token_id=None)
    assert_varied(ids)
    with torch.no_grad():
        logits = model(**inputs, decoder_input_ids=ids[:, :-1], use_cache=False).logits
    assert torch.equal(ids[:, 1:], logits.argmax(-1))


@pytest.mark.parametrize("variant", ["gru, additive fed, two layers", "lstm, none after, untied"])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_a_beam_as_wide_as_the_language_finds_what_exhaustive_search_finds(variant, length_penalty):
    vocabulary, longest, end = 5, 3, 2
    model = translator(variant, vocab_size=vocabulary)
    inputs = {"input_ids": torch.tensor([[3, 4, 4, 2], [4, 3, 2, 0]])}
    inputs["attention_mask"] = inputs["input_ids"].ne(0).long()
    texts = [
        text
        for length in range(1, longest + 1)
        for text in itertools.product(range(vocabulary), repeat=length)
        if end not in text[:-1] and (text[-1] == end or length == longest)
    ]
    found = model.generate(
        **inputs,
        num_beams=len(texts),
        num_return_sequences=10,
        max_new_tokens=longest,
        length_penalty=length_penalty,
        early_stopping="never",
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    for row in range(2):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        scores = {}
        for text in texts:
            sequence = torch.tensor([[1, *text]])
            scores[text] = log_probabilities(model, alone, sequence).sum().item() / len(text) ** length_penalty
        best = sorted(scores, key=scores.get, reverse=True)[:10]
        rows = slice(10 * row, 10 * row + 10)
        assert trimmed(found.sequences[rows]) == [list(text) for text in best]
        assert found.sequences_scores[rows].tolist() == pytest.approx([scores[text] for text in best], abs=1e-4)


@each_variant
def test_a_beam_of_one_is_greedy(variant):
    model, inputs = translator(variant), source()
    options = {"max_new_tokens": 9, "no_repeat_ngram_size": 2, "do_sample": False}
    greedy = model.generate(**inputs, **options)
    assert_varied(greedy)
    # asked for one beam, generate() searches greedily: its beam search is called by name
    one = model.generate(**inputs, **options, custom_generate=beam_search(model))
    assert trimmed(one) == trimmed(greedy)


@pytest.mark.parametrize("num_beams", [1, 4], ids=["greedy", "beam"])
@pytest.mark.parametrize("variant", ["gru, additive fed, two layers", "lstm, none after, untied"])
def test_thirty_two_at_once_are_written_as_thirty_two_alone(variant, num_beams):
    model, inputs = translator(variant), source(32)
    options = {"max_new_tokens": 8, "num_beams": num_beams, "no_repeat_ngram_size": 2, "do_sample": False}
    together = trimmed(model.generate(**inputs, **options))
    for row, written in enumerate(together):
        ids = inputs["input_ids"][row : row + 1, inputs["attention_mask"][row].bool()]
        assert trimmed(model.generate(ids, **options)) == [written]
    assert len({tuple(written) for written in together}) > 10


@pytest.mark.parametrize("num_beams", [1, 3], ids=["greedy", "beam"])
@each_variant
def test_the_side_of_the_padding_makes_no_difference(variant, num_beams):
    model, left = translator(variant), source(side="left")
    rows = [ids[mask.bool()] for ids, mask in zip(left["input_ids"], left["attention_mask"], strict=True)]
    right = {"input_ids": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)}
    right["attention_mask"] = right["input_ids"].ne(0).long()
    options = {"max_new_tokens": 8, "num_beams": num_beams, "no_repeat_ngram_size": 2, "do_sample": False}
    found = [model.generate(**inputs, **options) for inputs in (left, right)]
    assert_varied(found[0])
    assert torch.equal(*found)


def test_early_stopping_and_length_penalty_reach_the_search():
    model, inputs = translator(std=0.6), source(8)
    options = {"num_beams": 4, "max_new_tokens": 30, "do_sample": False}

    def mean_length(**more):
        texts = trimmed(model.generate(**inputs, **options, **more))
        return sum(map(len, texts)) / len(texts)

    assert mean_length(length_penalty=-2.0) < mean_length(length_penalty=3.0, early_stopping="never")
    ends = {"length_penalty": 3.0, "eos_token_id": [2, 5, 7, 9]}  # beams end often; longer ones score higher
    patient, hasty = (model.generate(**inputs, **options, **ends, early_stopping=when) for when in ("never", True))
    assert not torch.equal(hasty, patient)


def test_several_sequences_come_back_best_first_and_all_different():
    model, inputs = translator(), source()
    found = model.generate(
        **inputs,
        num_beams=5,
        num_return_sequences=5,
        max_new_tokens=6,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    for row in range(4):
        texts = trimmed(found.sequences[5 * row : 5 * row + 5])
        assert len({tuple(text) for text in texts}) == 5
        scores = found.sequences_scores[5 * row : 5 * row + 5].tolist()
        assert scores == sorted(scores, reverse=True)


def test_repetitions_are_punished_and_forbidden():
    model, inputs = translator(), source()
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    plain = model.generate(**inputs, **options)
    punished = model.generate(**inputs, **options, repetition_penalty=50.0)
    forbidden = model.generate(**inputs, **options, no_repeat_ngram_size=1)

    def different(ids):
        return sum(len(set(row)) for row in ids[:, 1:].tolist())

    assert different(plain) < different(punished) <= different(forbidden) == 4 * 12


# Sampling


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"top_k": 3},
        {"top_p": 0.6},
        {"temperature": 1.5, "top_k": 8, "top_p": 0.9, "num_return_sequences": 3},
        {"num_beams": 3, "num_return_sequences": 2, "temperature": 1.3},
    ],
    ids=str,
)
def test_the_same_seed_samples_the_same_and_another_one_something_else(options):
    model, inputs = translator(std=0.6), source()
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(model.generate(**inputs, **{"top_k": 0, **options}, do_sample=True, max_new_tokens=8))
    assert found[0].shape[0] == 4 * options.get("num_return_sequences", 1)
    assert torch.equal(found[0], found[1])
    assert trimmed(found[0]) != trimmed(found[2])


def test_sampling_from_the_best_token_alone_is_greedy():
    model, inputs = translator(), source()
    greedy = model.generate(**inputs, do_sample=False, max_new_tokens=8)
    assert torch.equal(model.generate(**inputs, do_sample=True, top_k=1, max_new_tokens=8), greedy)


# Where to start from


@pytest.mark.parametrize("num_beams", [1, 3], ids=["greedy", "beam"])
@each_variant
def test_it_goes_on_from_a_prefix(variant, num_beams):
    model, inputs = translator(variant), source()
    options = {"num_beams": num_beams, "do_sample": False, "eos_token_id": None}
    prefix = torch.tensor([[1, 5, 9], [1, 6, 4], [1, 3, 3], [1, 8, 17]])
    ids = model.generate(**inputs, **options, decoder_input_ids=prefix, max_new_tokens=6)
    assert torch.equal(ids[:, :3], prefix)
    assert ids.shape == (4, 9)
    if num_beams == 1:
        with torch.no_grad():
            logits = model(**inputs, decoder_input_ids=ids[:, :-1]).logits
        assert torch.equal(logits.argmax(-1)[:, 2:], ids[:, 3:])
    else:
        uncached = {**options, "use_cache": False, "decoder_input_ids": prefix, "max_new_tokens": 6}
        assert torch.equal(model.generate(**inputs, **uncached), ids)


def test_prefixes_of_several_lengths_are_padded_on_the_left_and_masked():
    model, inputs = translator(), source(2)
    prefix, mask = torch.tensor([[1, 5, 9], [0, 1, 6]]), torch.tensor([[1, 1, 1], [0, 1, 1]])
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    both = model.generate(**inputs, **options, decoder_input_ids=prefix, decoder_attention_mask=mask)
    for row in range(2):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        short = prefix[row : row + 1, mask[row].bool()]
        ids = model.generate(**alone, **options, decoder_input_ids=short)
        assert torch.equal(ids[0, -6:], both[row, -6:])


@pytest.mark.parametrize("num_beams", [1, 3], ids=["greedy", "beam"])
def test_vectors_and_encoder_outputs_stand_in_for_ids(num_beams):
    model, inputs = translator(), source()
    options = {"num_beams": num_beams, "max_new_tokens": 8, "do_sample": False, "no_repeat_ngram_size": 2}
    expected = model.generate(**inputs, **options)
    assert_varied(expected)
    mask = inputs["attention_mask"]
    vectors = model.get_input_embeddings()(inputs["input_ids"])
    assert torch.equal(model.generate(inputs_embeds=vectors, attention_mask=mask, **options), expected)
    encoded = model.get_encoder()(**inputs)
    assert torch.equal(model.generate(encoder_outputs=encoded, attention_mask=mask, **options), expected)


def test_the_encoder_runs_once_and_keys_are_projected_once(monkeypatch):
    model, inputs = translator("gru, additive after"), source()
    calls = {"encoder": 0, "keys": 0}
    encode, project = model.model.encoder.forward, model.model.decoder.attention.project
    monkeypatch.setattr(
        model.model.encoder,
        "forward",
        lambda *a, **k: (calls.update(encoder=calls["encoder"] + 1), encode(*a, **k))[1],
    )
    monkeypatch.setattr(
        *(model.model.decoder.attention, "project"),
        lambda *a, **k: (calls.update(keys=calls["keys"] + 1), project(*a, **k))[1],
    )
    model.generate(**inputs, max_new_tokens=6, num_beams=3, do_sample=False, eos_token_id=None)
    assert calls == {"encoder": 1, "keys": 1}


@each_variant
def test_it_goes_on_from_a_returned_cache(variant):
    model, inputs = translator(variant), source()
    options = {"do_sample": False, "eos_token_id": None}
    whole = model.generate(**inputs, **options, max_new_tokens=10)
    first = model.generate(**inputs, **options, max_new_tokens=4, return_dict_in_generate=True)
    assert isinstance(first.past_key_values, EncoderDecoderCache)
    assert first.past_key_values.get_seq_length() == 4
    rest = model.generate(
        **inputs,
        **options,
        max_new_tokens=6,
        decoder_input_ids=first.sequences,
        decoder_attention_mask=torch.ones_like(first.sequences),  # says that the ids are all, not the new ones alone
        past_key_values=first.past_key_values,
    )
    assert_varied(whole)
    assert torch.equal(rest, whole)


@pytest.mark.parametrize("num_beams", [1, 3], ids=["greedy", "beam"])
def test_a_static_cache_writes_the_same(num_beams):
    model, inputs = translator(), source()
    options = {"num_beams": num_beams, "max_new_tokens": 8, "do_sample": False}
    expected = model.generate(**inputs, **options)
    assert torch.equal(model.generate(**inputs, **options, cache_implementation="static"), expected)


def test_two_vocabularies_write_in_the_second():
    model = translator("gru, none before, two vocabularies")
    model.resize_token_embeddings(40)
    inputs = {"input_ids": torch.tensor([[39, 25, 30, 2], [24, 39, 2, 0]])}
    inputs["attention_mask"] = inputs["input_ids"].ne(0).long()
    for num_beams in (1, 3):
        ids = model.generate(**inputs, num_beams=num_beams, max_new_tokens=8, do_sample=False)
        assert ids.max() < 19


# Faster


def test_an_assistant_changes_nothing():
    model, draft = translator(), translator(seed=0, std=0.9)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "no_repeat_ngram_size": 2}
    for inputs in (source(1, longest=6), source(1, longest=4, seed=3)):
        expected = model.generate(**inputs, **options)
        for assistant in (model, draft):
            assert torch.equal(model.generate(**inputs, **options, assistant_model=assistant), expected)


@pytest.mark.parametrize(
    "variant", ["gru, additive after", "gru, additive fed, two layers", "lstm, none after, untied"]
)
def test_looking_up_the_prompt_changes_nothing(variant):
    model = translator(variant)
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 5, 6, 8, 2]])}
    options = {"max_new_tokens": 14, "do_sample": False, "eos_token_id": None}
    prefix = torch.tensor([[1, 5, 6, 7, 5, 6]])
    expected = model.generate(**inputs, **options, decoder_input_ids=prefix)
    found = model.generate(**inputs, **options, decoder_input_ids=prefix, prompt_lookup_num_tokens=3)
    assert torch.equal(found, expected)


def test_a_language_model_generates_in_every_way():
    model = tiny_model(GenaiRNNForCausalLM, STACKS["lstm, untied, one way"], std=1.5)
    inputs = source()
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    together = model.generate(**inputs, **options)[:, 7:]
    assert_varied(together)
    for row in range(4):
        ids = inputs["input_ids"][row : row + 1, inputs["attention_mask"][row].bool()]
        alone = model.generate(ids, **options)
        assert alone[0, ids.shape[1] :].tolist() == together[row].tolist()
        assisted = model.generate(ids, **options, assistant_model=model)
        assert torch.equal(assisted, alone)
        first = model.generate(ids, **{**options, "max_new_tokens": 3}, return_dict_in_generate=True)
        rest = model.generate(
            *(first.sequences,),
            **{**options, "max_new_tokens": 5, "past_key_values": first.past_key_values},
            attention_mask=torch.ones_like(first.sequences),
        )
        assert torch.equal(rest, alone)


# What comes back


class Words:
    """Just enough of a tokenizer for a streamer."""

    def decode(self, ids, **kwargs) -> str:
        return "".join(f"w{int(token)} " for token in ids)


def test_a_streamer_hears_every_token(capsys):
    model, inputs = translator(), source(1)
    ids = model.generate(**inputs, max_new_tokens=6, do_sample=False, streamer=TextStreamer(Words()))
    assert capsys.readouterr().out.split() == [f"w{token}" for token in ids[0].tolist()]


@pytest.mark.parametrize("num_beams", [1, 3], ids=["greedy", "beam"])
def test_transition_scores_are_the_models_log_probabilities(num_beams):
    model, inputs = translator(std=0.6), source()
    found = model.generate(
        **inputs,
        num_beams=num_beams,
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
        output_scores=True,
        return_dict_in_generate=True,
    )
    indices = found.beam_indices if num_beams > 1 else None
    scores = model.compute_transition_scores(found.sequences, found.scores, indices, normalize_logits=num_beams == 1)
    torch.testing.assert_close(scores, log_probabilities(model, inputs, found.sequences), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_beams", [1, 3], ids=["greedy", "beam"])
@pytest.mark.parametrize(
    "variant", ["gru, additive after", "gru, additive fed, two layers", "lstm, scaled dot before"]
)
def test_attention_comes_back_in_transformers_shapes_and_is_that_of_a_full_pass(variant, num_beams):
    model, inputs = translator(variant), source()
    found = model.generate(
        **inputs,
        num_beams=num_beams,
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=None,
        output_attentions=True,
        output_hidden_states=True,
        return_dict_in_generate=True,
    )
    assert len(found.cross_attentions) == len(found.decoder_hidden_states) == 5
    for layers in found.cross_attentions:
        (weights,) = layers
        assert weights.shape == (4 * num_beams, 1, 1, 7)
    if num_beams > 1:
        rows = found.beam_indices
        weights = torch.stack([step[0][rows[:, place], 0, 0] for place, step in enumerate(found.cross_attentions)], 1)
    else:
        weights = torch.cat([step[0][:, 0] for step in found.cross_attentions], dim=1)  # (B, T, S)
    with torch.no_grad():
        whole = model(**inputs, decoder_input_ids=found.sequences[:, :-1], output_attentions=True)
    torch.testing.assert_close(weights, whole.cross_attentions[0][:, 0], atol=1e-5, rtol=1e-4)
    assert weights.masked_select(inputs["attention_mask"][:, None] == 0).abs().max() == 0


def test_without_attention_there_is_none_to_return():
    model, inputs = translator("lstm, none after, untied"), source()
    found = model.generate(**inputs, max_new_tokens=3, output_attentions=True, return_dict_in_generate=True)
    assert found.cross_attentions is None or all(step is None for step in found.cross_attentions)


def test_guessed_tokens_come_with_attention_weights_too():
    model, inputs = translator(), source(1)
    options = {"max_new_tokens": 12, "do_sample": False, "return_dict_in_generate": True, "output_attentions": True}
    guessed = model.generate(**inputs, **options, prompt_lookup_num_tokens=3)
    assert torch.equal(guessed.sequences, model.generate(**inputs, **options).sequences)
    assert guessed.cross_attentions[0][0].shape[-1] == inputs["input_ids"].shape[1]
