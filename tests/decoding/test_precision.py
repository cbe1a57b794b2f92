"""Weights in bfloat16 and int8, against float32."""

import pytest
import torch
import torch.nn.functional as F

from hf_genai import GenaiGPTConfig, GenaiGPTForCausalLM, fast_generate
from hf_genai.decoding import weights
from hf_genai.decoding.weights import BFloat16Linear, Int8Linear, packer
from hf_genai.models.packed_linear import PLAIN, packing_works

needs_bfloat16 = pytest.mark.skipif(not packing_works(torch.bfloat16), reason="no bfloat16 products on this CPU")
PRECISIONS = [
    pytest.param(BFloat16Linear, 0.02, marks=needs_bfloat16, id="bfloat16"),
    pytest.param(Int8Linear, 0.05, id="int8"),
]


@pytest.mark.parametrize(("linear", "error"), PRECISIONS)
@pytest.mark.parametrize("activation", [None, *PLAIN])
@pytest.mark.parametrize("rows", [1, 6])
def test_a_product_is_off_by_little(linear, error, activation, rows):
    torch.manual_seed(0)
    x, bias = torch.randn(rows, 64), torch.randn(128)
    weight = torch.randn(128, 64) * torch.logspace(-2, 1, 128).unsqueeze(1)  # a scale for all would lose the small
    wanted = F.linear(x, weight, bias)
    wanted = wanted if activation is None else PLAIN[activation](wanted)
    found = linear(weight, bias, activation)(x)
    assert found.dtype == torch.float32
    scale = weight.norm(dim=1) + bias.abs()
    assert ((found - wanted).abs() / scale).max() < error


@pytest.mark.parametrize("dtype", [pytest.param("bfloat16", marks=needs_bfloat16), "int8"])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_model_sure_of_its_tokens_writes_the_same_in_each_dtype(dtype, beams, rows):
    torch.manual_seed(0)
    model = GenaiGPTForCausalLM(
        GenaiGPTConfig(vocab_size=31, hidden_size=32, num_attention_heads=4, num_hidden_layers=2)
    )
    ids = (torch.arange(20) * 7 % 28 + 3).repeat(4, 1) + 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    options = {"max_new_tokens": 14, "num_beams": beams, "do_sample": False, "eos_token_id": None}
    found = model.generate(ids[:rows, :6], **options, custom_generate=fast_generate, dtype=dtype)
    torch.testing.assert_close(found, ids[:rows], rtol=0, atol=0)


def test_int8_without_the_product_of_single_rows_quantises_them(monkeypatch):
    x, weight = torch.randn(1, 64), torch.randn(32, 64)
    found = Int8Linear(weight)(x)
    monkeypatch.setattr(weights, "mixed_product_works", lambda: False)
    torch.testing.assert_close(Int8Linear(weight)(x), found, atol=0.3, rtol=0)


def test_a_machine_without_the_products_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(weights, "packing_works", lambda dtype: False)
    with pytest.raises(ValueError, match="bfloat16.*use float32"):
        packer("bfloat16")
    monkeypatch.setattr(torch.backends.quantized, "engine", "qnnpack")
    with pytest.raises(ValueError, match="int8.*not torch .* with 'qnnpack': use float32"):
        packer("int8")
