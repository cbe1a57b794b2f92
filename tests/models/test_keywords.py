"""The cache under both of its names, on every release, and keywords that nobody reads."""

import copy
import warnings

import pytest
import torch
from tiny_cases import GPT, cases
from transformers import AttentionInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils import TransformersKwargs

from hf_genai.models.base import CACHE_NAME, cache_field, renamed
from hf_genai.models.blocks import TransformerLayer
from hf_genai.registry import FAMILIES, load

NAMES = ("cache", "past_key_values")
CASES = dict(cases())
# one configuration of each class
ONE_EACH = {case.name: case for case in CASES.values()}
each = pytest.mark.parametrize("case", ONE_EACH.values(), ids=ONE_EACH)
generating = pytest.mark.parametrize(
    "case", [pytest.param(case, id=name) for name, case in ONE_EACH.items() if case.generates]
)


@each
@torch.no_grad()
def test_a_keyword_that_nobody_reads_is_named_with_the_nearest_that_is_read(case):
    model, batch = case.model(), case.batch()
    with pytest.raises(TypeError, match=rf"{case.name} has no argument 'attention_maks'.*'attention_mask'"):
        model(**batch, attention_maks=batch["attention_mask"])
    with pytest.raises(TypeError, match="'kv_store'"):  # what the next release may call the cache
        model(**batch, kv_store=None)
    with pytest.raises(TypeError, match="'kv_store'"):  # in what pipeline parallelism hands on
        model(**batch, kwargs={"kv_store": None})
    with pytest.raises(TypeError, match="'kwargs'"):
        model(**batch, kwargs=None)


@each
@torch.no_grad()
def test_what_transformers_hands_to_any_model_is_taken(case):
    model, batch = case.model(), case.batch("right", labels=True)
    known = dict.fromkeys(set(TransformersKwargs.__annotations__) - {"position_ids", "is_causal"})
    wanted = model(**batch)[0]
    found = model(**batch, **known, return_dict=True)[0]
    torch.testing.assert_close(found, wanted)


def test_one_positional_argument_too_many_is_an_error():
    case = ONE_EACH["GenaiGPTForCausalLM"]
    model, batch = case.model(), case.batch()
    with pytest.raises(TypeError, match="positional arguments"):
        model(*[None] * 20)
    with pytest.raises(TypeError, match="positional arguments"):
        model.generate(*[None] * 30)
    with pytest.raises(TypeError, match="multiple values for argument 'inputs'"):
        model.generate(batch["input_ids"], inputs=batch["input_ids"])


def test_what_a_head_hands_on_is_known_to_it_and_to_nobody_else():
    bert = ONE_EACH["GenaiBertForTokenClassification"]
    model, batch = bert.model(), bert.batch("right")
    assert torch.equal(model(**batch, unpad=False).logits, model(**batch).logits)
    with pytest.raises(TypeError, match="GenaiBertForTokenClassification has no argument 'label_smoothing'"):
        model(**batch, label_smoothing=0.1)


def test_arguments_of_a_users_own_attention_are_known():
    seen = []

    def own(module, query, key, value, attention_mask, heat=1.0, **kwargs):
        seen.append(heat)
        return sdpa_attention_forward(module, query * heat, key, value, attention_mask, **kwargs)

    AttentionInterface.register("warm", own)
    case = ONE_EACH["GenaiGPTForCausalLM"]
    model, batch = case.model(attn_implementation="warm"), case.batch()
    model(**batch, heat=2.0)
    assert seen and set(seen) == {2.0}
    with pytest.raises(TypeError, match="has no argument 'haet'; the nearest one that it reads is 'heat'"):
        model(**batch, haet=2.0)
    with pytest.raises(TypeError, match="'query'"):  # the layer gives that itself
        model(**batch, query=None)


@generating
@torch.no_grad()
def test_a_cache_goes_in_and_comes_out_by_both_names(case):
    model, batch = case.loud_model(), case.batch()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        first = model(**batch, use_cache=True)
        assert first.cache is first.past_key_values is first["cache"] is first["past_key_values"]
        assert all(name in first and first.get(name) is first.cache for name in NAMES)
        assert sum(value is first.cache for value in first.to_tuple()) == 1
        ids = "decoder_input_ids" if case.kind == "seq2seq" else "input_ids"
        next_one = {**batch, ids: batch[ids][:, -1:]}
        for mask in ("decoder_attention_mask", "attention_mask")[case.kind != "seq2seq" :]:
            next_one.pop(mask, None)
        steps = [model(**next_one, **{name: copy.deepcopy(first.cache)}) for name in NAMES]
        assert torch.equal(steps[0].logits, steps[1].logits)
        assert not torch.allclose(steps[0].logits, model(**next_one).logits, atol=1e-3)
        with pytest.raises(ValueError, match="two names of one argument"):
            model(**next_one, cache=first.cache, past_key_values=first.cache)
        nothing = model(**batch, use_cache=False)
        assert nothing.cache is nothing.past_key_values is None
        assert not any(name in nothing for name in NAMES)


@generating
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_generate_goes_on_from_a_cache_given_by_either_name(case, name):
    """The tokens are those of one run, which are those without a cache."""
    model, batch = case.loud_model(), case.batch()
    batch.pop("decoder_attention_mask", None)
    batch.pop("decoder_input_ids", None)
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    wanted = model.generate(**batch, **options, max_new_tokens=8, use_cache=False)
    assert torch.equal(model.generate(**batch, **options, max_new_tokens=8), wanted)
    start = model.generate(**batch, **options, max_new_tokens=4, return_dict_in_generate=True)
    assert start.past_key_values is not None
    side = "decoder_" if case.kind == "seq2seq" else ""
    so_far = {f"{side}input_ids": start.sequences, f"{side}attention_mask": torch.ones_like(start.sequences)}
    found = model.generate(**{**batch, **so_far}, **options, max_new_tokens=4, **{name: start.past_key_values})
    assert torch.equal(found, wanted)


@generating
@torch.no_grad()
def test_generate_takes_a_whole_batch_with_its_labels_as_trainer_hands_it(case):
    model, batch = case.loud_model(), case.batch(labels=True)
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    wanted = model.generate(**{name: value for name, value in batch.items() if name != "labels"}, **options)
    assert torch.equal(model.generate(**batch, **options), wanted)


@generating
@pytest.mark.parametrize("beams", [1, 2])
@torch.no_grad()
def test_generate_takes_the_tokenizer_of_stop_strings(case, beams):
    model, batch = case.loud_model(), case.batch()
    options = {"max_new_tokens": 2, "num_beams": beams, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(**batch, **options, tokenizer=object()), model.generate(**batch, **options))


@generating
@pytest.mark.parametrize("name", NAMES)
def test_inputs_of_a_step_give_the_cache_by_both_names(case, name):
    model, cache = case.model(), DynamicCache()
    inputs = model.prepare_inputs_for_generation(torch.tensor([[3, 4]]), **{name: cache})
    assert all(other in inputs and inputs[other] is inputs.get(other) is cache for other in NAMES)
    assert list(inputs.values()).count(cache) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_caches_are_not_gathered_as_predictions(family):
    config = load(family, FAMILIES[family][1])()
    assert set(NAMES) <= set(config.keys_to_ignore_at_inference)


@torch.no_grad()
def test_layers_take_either_name():
    case = next(case for case in CASES.values() if case.family == GPT and case.generates)
    model = case.loud_model().model
    layer = next(module for module in model.modules() if isinstance(module, TransformerLayer))
    hidden = torch.randn(1, 3, model.config.hidden_size)
    angles = None if model.rotary_emb is None else model.rotary_emb(hidden, torch.arange(3)[None])
    found = []
    for name in NAMES:
        cache = DynamicCache(config=model.config)
        found.append(layer(hidden, position_embeddings=angles, **{name: cache}))
        assert cache.get_seq_length() == 3
        layer.self_attn(hidden, position_embeddings=angles, **{name: cache})
        assert cache.get_seq_length() == 6
    assert torch.equal(*found)


def test_a_cache_of_none_gives_way_to_the_other_name():
    cache = DynamicCache()
    assert renamed("cache", {"cache": None, "past_key_values": cache}) == {"cache": cache}
    assert renamed("cache", {"cache": cache, "past_key_values": None}) == {"cache": cache}
    assert renamed("past_key_values", {"cache": cache}) == {"past_key_values": cache}
    assert renamed("cache", {"past_key_values": None}) == {"cache": None}
    assert cache_field(cache) == {CACHE_NAME: cache}
