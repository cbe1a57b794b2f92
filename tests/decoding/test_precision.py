"""Weights in bfloat16 and int8, against float32."""

import pytest
import torch
import torch.nn.functional as F

from hf_genai import GenaiGPTConfig, GenaiGPTForCausalLM, fast_generate
from hf_genai.decoding import weights
from hf_genai.decoding.weights import BFloat16Linear, Int8Linear, packer
from hf_genai.models.packed_linear import PLAIN, packing_works

needs_bfloat16 = pytest.mark.skipif(not packing_works(torch.bfloat16), reason="no bfloat16 products on this CPU")
needs_int8 = pytest.mark.skipif(
    torch.backends.quantized.engine not in ("x86", "fbgemm", "onednn"), reason="no 8-bit products on this CPU"
)
PRECISIONS = [
    pytest.param(BFloat16Linear, marks=needs_bfloat16, id="bfloat16"),
    pytest.param(Int8Linear, marks=needs_int8, id="int8"),
]


def variance_of_rounding(packed, x, weight, wanted):
    """Return the variance of each output's error (N, M) if each number is rounded to the nearest step, as it should.

    An error of rounding is spread evenly over a step, which has a variance of step squared / 12. A bfloat16 has steps
    of 2^-7 of its leading power of two at most.
    """
    relative = (2**-7) ** 2 / 12
    result = (x**2) @ (weight**2).T * relative * 2 + 2 * wanted**2 * relative
    if isinstance(packed, Int8Linear):
        weight_steps = weight.abs().amax(1) / 127  # (M,)
        result = result + (x**2).sum(1, keepdim=True) * weight_steps**2 / 12
        if not (packed.mixed and len(x) == 1):  # 7 bits where full sums of 8-bit products would overflow
            step = (x.max().clamp(min=0) - x.min().clamp(max=0)) / (127 if packed.reduce_range else 255)
            result = result + (weight**2).sum(1) * step**2 / 12
    return result


@pytest.mark.parametrize("linear", PRECISIONS)
@pytest.mark.parametrize("activation", [None, *PLAIN])
@pytest.mark.parametrize("rows", [1, 6])
def test_a_product_is_off_by_no_more_than_the_rounding_of_its_numbers(linear, activation, rows):
    torch.manual_seed(0)
    x, bias = torch.randn(rows, 64), torch.randn(128)
    weight = torch.randn(128, 64) * torch.logspace(-2, 1, 128).unsqueeze(1)  # a scale for all would lose the small
    wanted = F.linear(x, weight, bias)
    packed = linear(weight, bias, activation)
    off = variance_of_rounding(packed, x, weight, wanted).sqrt()
    wanted = wanted if activation is None else PLAIN[activation](wanted)
    found = packed(x)
    assert found.dtype == torch.float32
    errors = (found - wanted) / off
    # 768 normal errors reach 3.5, and no activation is steeper than 1.13; a wrong scale or a lost bit shows in both
    assert errors.abs().max() < 5
    assert errors.square().mean().sqrt() < 1.3


@pytest.mark.parametrize(
    "dtype", [pytest.param("bfloat16", marks=needs_bfloat16), pytest.param("int8", marks=needs_int8)]
)
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


@needs_int8
def test_int8_without_the_product_of_single_rows_quantises_them(monkeypatch):
    torch.manual_seed(0)
    x, weight = torch.randn(1, 64), torch.randn(32, 64)
    monkeypatch.setattr(weights, "mixed_product_works", lambda: False)
    packed, wanted = Int8Linear(weight), F.linear(x, weight)
    assert not packed.mixed
    errors = (packed(x) - wanted) / variance_of_rounding(packed, x, weight, wanted).sqrt()
    assert errors.abs().max() < 5


def test_a_machine_without_the_products_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(weights, "packing_works", lambda dtype: False)
    with pytest.raises(ValueError, match="bfloat16.*use float32"):
        packer("bfloat16")
    monkeypatch.setattr(torch.backends.quantized, "engine", "qnnpack")
    with pytest.raises(ValueError, match="int8.*not torch .* with 'qnnpack': use float32"):
        packer("int8")
