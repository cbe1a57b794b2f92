"""`fast_generate` against plain `generate()`, run by the models' own layers, without packed steps."""

import pytest
import torch
from transformers import AttentionInterface, StoppingCriteria, StoppingCriteriaList
from transformers.generation import EosTokenCriteria, LogitsProcessor, LogitsProcessorList, MaxLengthCriteria
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hf_genai import (
    GenaiGPTConfig,
    GenaiGPTForCausalLM,
    GenaiRNNConfig,
    GenaiRNNForCausalLM,
    GenaiRNNForConditionalGeneration,
    GenaiT5Config,
    GenaiT5ForConditionalGeneration,
    fast_generate,
)
from hf_genai.decoding import generate, search, steps
from hf_genai.models.fast_path import plain_kernels

SIZES = {"vocab_size": 97, "hidden_size": 32, "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1}
SEVERAL_ENDS = {"num_attention_heads": 4, "eos_token_id": [2, 3, 4, 5], **SIZES}


def gpt(preset=GenaiGPTConfig, **options):
    return GenaiGPTForCausalLM(preset(**{"num_hidden_layers": 2, **SEVERAL_ENDS, **options}))


def t5(preset=GenaiT5Config, **options):
    return GenaiT5ForConditionalGeneration(preset(encoder_layers=2, decoder_layers=2, **SEVERAL_ENDS, **options))


MODELS = {
    "gpt": gpt,
    "gpt_classic": lambda: gpt(GenaiGPTConfig.classic),
    "gpt_sinusoidal_post_norm": lambda: gpt(norm_position="post", position_embedding_type="sinusoidal"),
    "gpt_relative": lambda: gpt(position_embedding_type="relative_bias"),
    "t5": t5,
    "t5_classic": lambda: t5(GenaiT5Config.classic),
    "rnn": lambda: GenaiRNNForConditionalGeneration(GenaiRNNConfig(eos_token_id=2, **SIZES)),
    "rnn_lm": lambda: GenaiRNNForCausalLM(GenaiRNNConfig(eos_token_id=2, is_encoder_decoder=False, **SIZES)),
}
SEARCHES = {
    "greedy": {},
    "greedy_other_pad": {"pad_token_id": 9},
    "greedy_min_new_tokens": {"min_new_tokens": 20},
    "sampling": {"do_sample": True, "top_k": 20, "num_return_sequences": 2},
    "sampling_of_all_tokens": {"do_sample": True, "top_k": 0, "num_return_sequences": 2},
    "beams": {"num_beams": 3},
    "beams_long": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0},
    "beams_early": {"num_beams": 3, "early_stopping": True, "length_penalty": 0.3},
    # a processor keeps sentences that are full in the batch
    "beams_full": {
        **{"num_beams": 3, "early_stopping": True, "length_penalty": 3.0, "repetition_penalty": 1.3},
        **{"eos_token_id": [2, *range(50, 97)], "num_return_sequences": 3},
    },
    "beams_never": {"num_beams": 2, "early_stopping": "never", "max_length": 40},
    "beams_processed": {"num_beams": 3, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
}


def make(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


def prompts(rows: int = 5):
    """Rows of different lengths, padded on the left."""
    ids = torch.randint(6, 97, (rows, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row in range(rows - 1):
        ids[row, :row], mask[row, :row] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def both(model, **options):
    """What plain generate() writes, and what fast_generate does."""
    options = {"do_sample": False, **options}
    if "max_length" not in options:
        options = {"max_new_tokens": 45, **options}
    torch.manual_seed(0)
    with plain_kernels():
        wanted = model.generate(**options)
    torch.manual_seed(0)
    return wanted, model.generate(**options, custom_generate=fast_generate)


@pytest.mark.parametrize("search_name", SEARCHES)
@pytest.mark.parametrize("name", MODELS)
def test_it_writes_the_tokens_of_plain_generate(name, search_name):
    wanted, found = both(make(name), **prompts(), **SEARCHES[search_name])
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["gpt", "t5_classic"])
def test_one_row_without_padding_writes_the_same(name):
    for options in ({}, {"num_beams": 3}):
        wanted, found = both(make(name), input_ids=prompts()["input_ids"][-1:], **options)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["gpt_classic", "t5", "rnn", "rnn_lm"])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("padded", [True, False])
def test_rows_that_have_ended_leave_the_batch(name, beams, padded, monkeypatch):
    kept = []
    for kind in (steps.TransformerSteps, steps.ModelSteps):
        monkeypatch.setattr(
            kind, "keep", lambda self, rows, keep=kind.keep: (kept.append(len(rows)), keep(self, rows))
        )
    inputs = prompts(8) if padded else {"input_ids": prompts(8)["input_ids"].clamp(min=6)}
    wanted, found = both(make(name), **inputs, num_beams=beams, eos_token_id=[2, *range(60, 97, 3)])
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert any(0 < rows < 8 for rows in kept), "no row ended before another"


@pytest.mark.parametrize("name", ["gpt", "gpt_relative", "t5_classic"])
def test_slots_that_no_beam_descends_from_are_given_up(name, monkeypatch):
    slots = []
    clean = steps.TransformerSteps.clean

    def record(self):
        before = self.slots
        clean(self)
        slots.append((before, self.slots))

    monkeypatch.setattr(steps.TransformerSteps, "clean", record)
    model = make(name)
    model.generation_config.eos_token_id = None
    wanted, found = both(model, **prompts(), num_beams=4, max_new_tokens=80)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert any(after < before for before, after in slots)


def test_a_decoder_that_is_given_a_beginning_goes_on_from_it():
    start = torch.tensor([[1, 7, 8]] * 5)
    for name in ("t5", "t5_classic"):
        wanted, found = both(make(name), **prompts(), decoder_input_ids=start, num_beams=2)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "rotary", "relative_bias"])
@pytest.mark.parametrize("beams", [1, 3])
def test_beginnings_of_several_lengths_are_padded_on_the_left(kind, beams):
    torch.manual_seed(0)
    model = t5(position_embedding_type=kind).eval()
    start = torch.tensor([[1, 7, 8], [0, 1, 9], [0, 0, 1], [1, 20, 21], [0, 1, 30]])
    options = {"decoder_input_ids": start, "decoder_attention_mask": (start > 0).long(), "num_beams": beams}
    wanted, found = both(model, **prompts(), **options)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    del options["decoder_attention_mask"]
    assert not torch.equal(wanted, both(model, **prompts(), **options)[0])


def test_packed_weights_follow_the_model():
    model = gpt(tie_word_embeddings=False).eval()
    both(model, **prompts())
    weight, head = model.model.layers[0].mlp.up_proj.weight, model.lm_head.weight
    for change in (
        *(lambda: weight.mul_(-3), lambda: weight.data.mul_(-2), lambda: head.mul_(-1)),
        *(weight.round_, lambda: weight.copy_(weight.flip(1))),  # whole numbers in another order have the same sum
    ):
        with torch.no_grad():
            change()
        wanted, found = both(model, **prompts())
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


class Doubled(torch.nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def test_a_layer_that_was_replaced_or_hooked_is_used():
    model, calls = make("gpt"), []
    model.model.layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    found = model.generate(**prompts(), max_new_tokens=9, min_new_tokens=9, custom_generate=fast_generate)
    assert len(calls) == 9 == found.shape[1] - 9
    for name in ("model.norm", "lm_head"):
        model, calls = make("gpt"), []
        model.get_submodule(name).register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model.generate(**prompts(), max_new_tokens=9, min_new_tokens=9, custom_generate=fast_generate)
        assert len(calls) == 9
    for name in ("model.layers.0.mlp.up_proj", "lm_head"):
        model = make("gpt")
        model.get_submodule(name).__class__ = Doubled
        wanted, found = both(model, **prompts(), repetition_penalty=1.2)  # else twice the scores would be the same
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_model_in_another_dtype_under_autocast_or_reading_vectors_of_an_encoder_writes_the_same(beams):
    wanted, found = both(make("gpt").double(), **prompts(), num_beams=beams)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    wanted, found = both(make("rnn").bfloat16(), **prompts(), num_beams=beams, max_new_tokens=80, eos_token_id=None)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        wanted, found = both(make("gpt"), **prompts(), num_beams=beams)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    torch.manual_seed(0)
    model, source = gpt(add_cross_attention=True).eval(), torch.randn(5, 6, 32)
    wanted, found = both(model, **prompts(), encoder_hidden_states=source, num_beams=beams)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert not torch.equal(wanted, both(model, **prompts(), num_beams=beams)[0])


def test_an_attention_of_the_caller_is_used():
    calls: list[int] = []
    AttentionInterface.register(
        "counted", lambda *args, **options: (calls.append(1), sdpa_attention_forward(*args, **options))[1]
    )
    model = make("gpt")
    model.set_attn_implementation("counted")
    for loop in (None, fast_generate):
        calls.clear()
        model.generate(**prompts(), max_new_tokens=9, min_new_tokens=9, custom_generate=loop)
        assert len(calls) == 9 * model.config.num_hidden_layers


def test_a_score_that_packed_steps_do_not_know_is_left_to_the_model():
    torch.manual_seed(0)
    wanted, found = both(gpt(attention_type="additive").eval(), **prompts())
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


class StopAfter(StoppingCriteria):
    """Ends the first row after some tokens, the others later."""

    def __call__(self, input_ids, scores, **kwargs):
        return (torch.arange(len(input_ids)) + 15 < input_ids.shape[1]) | (input_ids[:, -1] == 50)


class StopEarlier(MaxLengthCriteria):
    """Says more than the class that it is made from."""

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids[:, -1] % 7 == 0


class NoToken(LogitsProcessor):
    """Forbids each row another token: wrong if rows leave the batch."""

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[torch.arange(len(scores)), torch.arange(len(scores)) + 10] = -torch.inf
        return scores


@pytest.mark.parametrize("beams", [1, 3])
def test_criteria_and_processors_of_the_caller_are_obeyed(beams):
    for options in (
        {"stopping_criteria": StoppingCriteriaList([StopAfter()])},
        {"stopping_criteria": StoppingCriteriaList([StopAfter()]), "eos_token_id": None},
        {"stopping_criteria": StoppingCriteriaList([StopEarlier(9 + 45)])},
        {"stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(17)])},
        # instead of the four end tokens of the model
        {"stopping_criteria": StoppingCriteriaList([EosTokenCriteria([50, 60, 70])]), "pad_token_id": 9},
        {"stopping_criteria": StoppingCriteriaList([EosTokenCriteria([50, 60, 70])]), "eos_token_id": None},
        {"logits_processor": LogitsProcessorList([NoToken()])},
        {"prefix_allowed_tokens_fn": lambda batch, ids: list(range(2 + batch, 60))},
    ):
        model = make("gpt")
        wanted, found = both(model, **prompts(), num_beams=beams, **options)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


class Language(LogitsProcessor):
    """Scores by place and last token, whatever the model says: twenty tokens, of which three end a text."""

    def __init__(self):
        self.table = torch.randn(64, 97, 97, generator=torch.Generator().manual_seed(3)) * 2.5
        self.table[:, :, 20:] = -50

    def __call__(self, input_ids, scores):
        return self.table[input_ids.shape[1], input_ids[:, -1]].log_softmax(-1)


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-0.5, 0.0, 2.0])
def test_beams_that_end_often_stop_when_those_of_transformers_do(early_stopping, length_penalty):
    options = {"early_stopping": early_stopping, "length_penalty": length_penalty, "max_new_tokens": 12}
    options |= {"num_beams": 2, "num_return_sequences": 2, "eos_token_id": [2, 3, 4]}
    processors = LogitsProcessorList([Language()])
    wanted, found = both(make("gpt"), **prompts(4), **options, logits_processor=processors)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_length_of_the_caller_beyond_the_configured_one_is_reached():
    longer = StoppingCriteriaList([MaxLengthCriteria(40)])
    wanted, found = both(make("gpt"), **prompts(), max_new_tokens=5, eos_token_id=None, stopping_criteria=longer)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert found.shape[1] == 40


def test_outputs_as_a_dictionary_hold_texts_and_scores():
    for name in ("gpt", "t5"):
        model = make(name)
        options = {**prompts(), "num_beams": 3, "return_dict_in_generate": True, "max_new_tokens": 20}
        found = model.generate(**options, custom_generate=fast_generate)
        wanted = model.generate(**options, output_scores=True)
        assert type(found) is type(wanted)
        torch.testing.assert_close(found.sequences, wanted.sequences)
        torch.testing.assert_close(found.sequences_scores, wanted.sequences_scores)
        options["num_beams"] = 1
        found, wanted = model.generate(**options, custom_generate=fast_generate), model.generate(**options)
        assert type(found) is type(wanted)
        torch.testing.assert_close(found.sequences, wanted.sequences)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_scores": True, "return_dict_in_generate": True}, "keeps no scores"),
        ({"output_logits": True, "return_dict_in_generate": True}, "keeps no logits"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "keeps no attentions"),
        ({"output_hidden_states": True, "return_dict_in_generate": True}, "keeps no hidden_states"),
        ({"num_beams": 2, "do_sample": True}, "not beam_sample"),
        ({"prompt_lookup_num_tokens": 3}, "not assisted_generation"),
        ({"cache_implementation": "static"}, "cache_implementation"),
        ({"use_cache": False}, "use_cache"),
        ({"prefill_chunk_size": 4}, "prefill_chunk_size"),
        ({"dtype": "int4"}, "dtype must be one of float32, bfloat16, int8, not 'int4'"),
    ],
)
def test_what_it_does_not_offer_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make("gpt").generate(**prompts(), max_new_tokens=5, custom_generate=fast_generate, **options)


def test_a_cache_that_was_begun_is_refused():
    model, given = make("gpt"), prompts()
    cache = model(given["input_ids"]).past_key_values
    longer = {name: torch.cat([value, torch.ones_like(value[:, :1])], 1) for name, value in given.items()}
    with pytest.raises(ValueError, match="starts from an empty cache"):
        model.generate(**longer, past_key_values=cache, max_new_tokens=5, custom_generate=fast_generate)


def test_weights_that_several_processes_share_are_refused(monkeypatch):
    monkeypatch.setattr(generate, "is_fsdp_managed_module", lambda model: True)
    with pytest.raises(ValueError, match="several processes in step.*FSDP"):
        make("gpt").generate(**prompts(), max_new_tokens=5, custom_generate=fast_generate)


def test_a_dtype_that_a_model_cannot_have_is_refused():
    for model, reason in ((make("rnn"), "packed steps are for"), (make("gpt").train(), "training mode")):
        with pytest.raises(ValueError, match=reason):
            model.generate(**prompts(), max_new_tokens=5, custom_generate=fast_generate, dtype="int8")


@pytest.mark.parametrize("vocabulary", [97, 1024, 1733 * 29, 8192, 1021])
@pytest.mark.parametrize("k", [1, 8])
def test_the_best_tokens_are_those_of_topk(vocabulary, k):
    scores = torch.randn(7, vocabulary, generator=torch.Generator().manual_seed(0))
    scores[:, 50:70] = -torch.inf
    wanted, found = scores.topk(k), search.best(scores, k)
    torch.testing.assert_close(found[0], wanted.values)
    torch.testing.assert_close(found[1], wanted.indices)
    ties = torch.zeros(3, vocabulary)
    ties[:, [60, 70, 90]] = 1
    assert (search.best(ties, 1)[1] == 60).all()


def test_the_names_of_row_wise_processors_are_those_of_transformers():
    from transformers.generation import logits_process

    assert all(hasattr(logits_process, name) for name in generate.ROW_WISE)
