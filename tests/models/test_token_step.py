"""Decoding steps by packed weights, against the layers themselves (`plain_kernels` turns the steps off)."""

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers.cache_utils import DynamicCache

import hf_genai
from hf_genai import GenaiGPTConfig, GenaiGPTForCausalLM, GenaiT5Config, GenaiT5ForConditionalGeneration
from hf_genai.models import packed_linear, token_step
from hf_genai.models.fast_path import plain_kernels
from hf_genai.models.packed_linear import FUSED, PLAIN, PackedLinear

SIZES = {"vocab_size": 97, "hidden_size": 32, "num_attention_heads": 4, "initializer_range": 0.3}
SIZES |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": [2, 3, 4]}


def gpt(preset=GenaiGPTConfig, **options):
    torch.manual_seed(0)
    return GenaiGPTForCausalLM(preset(**{"num_hidden_layers": 2, **SIZES, **options})).eval()


def t5(preset=GenaiT5Config):
    torch.manual_seed(0)
    return GenaiT5ForConditionalGeneration(preset(encoder_layers=2, decoder_layers=2, **SIZES)).eval()


MODELS = {
    "gpt": gpt,
    "gpt_classic": lambda: gpt(GenaiGPTConfig.classic),
    "gpt_post_norm": lambda: gpt(norm_position="post", position_embedding_type="relative_bias"),
    "t5": t5,
    "t5_classic": lambda: t5(GenaiT5Config.classic),
}


@pytest.fixture
def steps_made(monkeypatch):
    made = []
    build = token_step.CachedStep.__init__

    def count(self, *args):
        made.append(self)
        build(self, *args)

    monkeypatch.setattr(token_step.CachedStep, "__init__", count)
    return made


def prompts(rows: int = 3):
    """Rows of different lengths, padded on the left."""
    ids = torch.randint(5, 97, (rows, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[0, :4], mask[0, :4] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("activation", [None, *FUSED])
@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (2 * packed_linear.PANEL, 16)])
@pytest.mark.parametrize("layout", ["as it lies", "packed", "panels"])
def test_a_packed_linear_map_is_the_linear_map(activation, shape, layout, monkeypatch, through_numpy):
    monkeypatch.setattr(packed_linear, "SMALLEST_PACKED", 0 if layout == "packed" else 10**6)
    monkeypatch.setattr(packed_linear, "SMALLEST_IN_PANELS", (0, 0) if layout == "panels" else (10**6, 10**6))
    monkeypatch.setattr(packed_linear, "FEWEST_OUTPUTS", 0)
    weight, bias = torch.randn(shape), torch.randn(shape[0])
    for b in (bias, None):
        stored = weight if b is None else weight.t().contiguous().t()
        packed = PackedLinear(stored, b, activation)
        for rows in (1, 5, 40, 0, 5):
            x = torch.randn(rows, shape[1])
            wanted = F.linear(x, weight, b)
            wanted = wanted if activation is None else PLAIN[activation](wanted)
            found = packed(x)
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
            assert found.is_contiguous()
    in_panels = 8 if activation == "gelu_pytorch_tanh" else 10  # oneDNN's own is the better one for many rows
    assert len(through_numpy) == (in_panels if layout == "panels" else 0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_by_steps_writes_what_the_layers_write(name, beams, steps_made):
    model = MODELS[name]()
    options = {**prompts(), "num_beams": beams, "max_new_tokens": 45, "do_sample": False}
    found = model.generate(**options)
    assert len(steps_made) == 1
    with plain_kernels():
        wanted = model.generate(**options)
    assert len(steps_made) == 1
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert len(wanted.unique()) > 4


def test_keys_find_room_in_a_long_text():
    options = {**prompts(), "max_new_tokens": 90, "do_sample": False, "eos_token_id": None}
    found = gpt().generate(**options)
    with plain_kernels():
        assert torch.equal(found, gpt().generate(**options))


def warmed_up(model):
    """A cache that has its step, and the next token."""
    cache = DynamicCache(config=model.config)
    ids = prompts(2)["input_ids"][:, 4:]
    with torch.no_grad():
        model(ids, past_key_values=cache)
        for _ in range(token_step.WARM_UP_STEPS + 3):
            model(ids[:, :1], past_key_values=cache)
    assert token_step.step_of(cache) is not None
    return cache, ids[:, :1]


@torch.no_grad()
def test_a_cache_that_was_copied_cropped_or_reordered_goes_on_as_without_steps():
    model = gpt()
    cache, token = warmed_up(model)
    for change in (copy.deepcopy, lambda c: c.crop(-2), lambda c: c.reorder_cache(torch.tensor([1, 0]))):
        cache = change(cache) or cache
        for _ in range(token_step.WARM_UP_STEPS + 3):
            twin = copy.deepcopy(cache)
            with plain_kernels():
                wanted = model(token, past_key_values=twin).logits
            torch.testing.assert_close(model(token, past_key_values=cache).logits, wanted, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(cache.layers[1].keys, twin.layers[1].keys, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("part", ["self_attn.q_proj", "mlp.up_proj"])
def test_weights_that_change_between_steps_are_seen(part, monkeypatch):
    monkeypatch.setattr(packed_linear, "SMALLEST_PACKED", 0)  # else some are used where they lie, and not packed
    model = gpt()
    cache, token = warmed_up(model)
    twin = copy.deepcopy(cache)
    model.model.layers[0].get_submodule(part).weight.mul_(2)
    model.lm_head.weight.mul_(3)
    with plain_kernels():
        wanted = model(token, past_key_values=twin).logits
    torch.testing.assert_close(model(token, past_key_values=cache).logits, wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_hook_on_a_layer_is_called_in_each_step():
    model, calls = gpt(), []
    cache, token = warmed_up(model)
    model.model.layers[1].mlp.register_forward_hook(lambda *_: calls.append(1))
    model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    model(token, past_key_values=cache)
    assert len(calls) == 2
    assert len(model(token, past_key_values=cache, output_hidden_states=True).hidden_states) == 3


@torch.no_grad()
def test_steps_leave_dropout_and_replaced_layers_alone():
    class Doubled(torch.nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    model = gpt(hidden_dropout_prob=0.5)
    model.model.layers[0].mlp.up_proj.__class__ = Doubled
    options = {**prompts(), "max_new_tokens": 20, "do_sample": False}
    found = model.generate(**options)
    with plain_kernels():
        assert torch.equal(found, model.generate(**options))
    model = gpt(hidden_dropout_prob=0.5)
    cache, token = warmed_up(model)
    twin = copy.deepcopy(cache)
    model.model.layers.train()
    found = model(token, past_key_values=cache).logits
    model.eval()
    assert not torch.allclose(found, model(token, past_key_values=twin).logits, atol=1e-2)


def test_steps_leave_gradients_alone():
    model = gpt()
    cache, token = warmed_up(model)
    model(token, past_key_values=cache).logits.sum().backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("room", [0, 2])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_of_a_few_rows_is_that_of_torch(rows, room, masked, through_numpy):
    keys, values = torch.randn(2, 6, 7 + room, 4)[:, :, :7]  # parts of larger buffers, as those of a cache are
    query, mask = torch.randn(3, 2, rows, 4), torch.randn(3, 1, rows, 7) if masked else None
    found = token_step.attend_rows(query, keys, values, mask)
    seen = (part.view(3, 2, 7, 4) for part in (keys, values))
    torch.testing.assert_close(found, F.scaled_dot_product_attention(query, *seen, mask, scale=1.0))
    assert len(through_numpy) == 2


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("loop", [None, hf_genai.fast_generate])
def test_generation_through_numpy_writes_what_the_layers_write(beams, loop, through_numpy):
    model = gpt()
    options = {**prompts(), "num_beams": beams, "max_new_tokens": 20, "do_sample": False}
    found = model.generate(**options, custom_generate=loop)
    assert through_numpy
    with plain_kernels():
        assert torch.equal(found, model.generate(**options))
