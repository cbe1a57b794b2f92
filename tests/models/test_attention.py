"""Attention against loops over every number, and against torch's own."""

import math

import pytest
import tiny_transformer as tiny
import torch
from torch import nn
from torch.nn import functional as F

import hf_genai
from hf_genai.models.attention import AdditiveScore, CrossAttention, DotScore, ScaledDotScore, SelfAttention, attend

HEADS, SIZE = 4, 4


def attention(kind=SelfAttention, is_causal: bool = False, implementation: str = "eager", **choices):
    sizes = {**tiny.SIZES, "num_key_value_heads": HEADS, "attention_bias": True, **choices}
    config = hf_genai.GenaiGPTConfig(**sizes, attn_implementation=implementation)
    torch.manual_seed(0)
    module = kind(config, 0, is_causal).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.6)
    return module


def score(module, query: list[float], key: list[float]) -> float:
    if isinstance(module.score_function, AdditiveScore):
        energy = module.score_function.energy.weight[0].tolist()
        return sum(w * math.tanh(q + k) for w, q, k in zip(energy, query, key, strict=True))
    product = sum(q * k for q, k in zip(query, key, strict=True))
    return product / math.sqrt(len(query)) if module.config.attention_type == "scaled_dot" else product


def by_loops(module, hidden, source, mask):
    """Attention of one text, written as the equations have it: output (T, D), weights (H, T, S)."""
    group = module.num_key_value_groups
    query, key, value = module.q_proj(hidden), module.k_proj(source), module.v_proj(source)
    contexts = torch.zeros(len(hidden), HEADS * module.head_dim)
    weights = torch.zeros(HEADS, len(hidden), len(source))
    for head in range(HEADS):
        own = slice(head * module.head_dim, (head + 1) * module.head_dim)
        shared = slice(head // group * module.head_dim, (head // group + 1) * module.head_dim)
        for t in range(len(hidden)):
            seen = [s for s in range(len(source)) if mask[t, s]]
            scores = [score(module, query[t, own].tolist(), key[s, shared].tolist()) for s in seen]
            total = sum(math.exp(x) for x in scores)
            for s, x in zip(seen, scores, strict=True):
                weights[head, t, s] = math.exp(x) / total
                contexts[t, own] += math.exp(x) / total * value[s, shared]
    return module.o_proj(contexts), weights


@pytest.mark.parametrize("attention_type", ["scaled_dot", "dot", "additive"])
@pytest.mark.parametrize("key_value_heads", [4, 2, 1])
@torch.no_grad()
def test_self_attention_is_what_the_equations_say(attention_type, key_value_heads):
    module = attention(attention_type=attention_type, num_key_value_heads=key_value_heads)
    hidden = torch.randn(2, 5, 16)
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()
    mask[1, :, 1:, 0] = False
    found, weights = module(hidden, mask)
    for row in range(2):
        expected = by_loops(module, hidden[row], hidden[row], mask[row, 0])
        torch.testing.assert_close((found[row], weights[row]), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_cross_attention_is_what_the_equations_say():
    module = attention(CrossAttention, num_key_value_heads=2)
    hidden, source = torch.randn(1, 3, 16), torch.randn(1, 6, 16)
    mask = torch.tensor([1, 1, 0, 1, 1, 0], dtype=torch.bool).expand(1, 1, 3, 6)
    found, weights = module(hidden, source, mask)
    expected = by_loops(module, hidden[0], source[0], mask[0, 0])
    torch.testing.assert_close((found[0], weights[0]), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("causal", [False, True])
def test_it_is_torchs_multi_head_attention_gradients_included(implementation, causal):
    module = attention(is_causal=causal, implementation=implementation)
    theirs = nn.MultiheadAttention(16, HEADS, batch_first=True)
    with torch.no_grad():
        for name in ("weight", "bias"):
            parts = [getattr(getattr(module, f"{x}_proj"), name) for x in "qkv"]
            getattr(theirs, f"in_proj_{name}").copy_(torch.cat(parts))
            getattr(theirs.out_proj, name).copy_(getattr(module.o_proj, name))
    ours_in, theirs_in = (torch.linspace(-1, 1, 160).view(2, 5, 16).sin().requires_grad_() for _ in range(2))
    mask = torch.ones(5, 5, dtype=torch.bool).tril() if causal else torch.ones(5, 5, dtype=torch.bool)
    found = module(ours_in, mask[None, None])[0]
    expected = theirs(theirs_in, theirs_in, theirs_in, attn_mask=~mask, need_weights=False)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, atol=1e-4, rtol=1e-4)
    together = torch.cat([getattr(module, f"{x}_proj").weight.grad for x in "qkv"])
    torch.testing.assert_close(together, theirs.in_proj_weight.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_score_and_attend_are_torchs_scaled_dot_product_attention(scale):
    query, key, value = torch.randn(3, 2, 3, 5, 4)
    mask = torch.rand(2, 1, 5, 5) < 0.6
    mask |= torch.eye(5, dtype=torch.bool)
    expected = F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    context, weights = attend(DotScore(scale)(query, key), value, mask)
    torch.testing.assert_close(context, expected)
    assert weights.masked_select(~mask).abs().max() == 0
    added = torch.where(mask, 0.0, float("-inf"))
    torch.testing.assert_close(attend(DotScore(scale)(query, key), value, added)[0], expected)
    torch.testing.assert_close(ScaledDotScore(4)(query, key), DotScore(0.5)(query, key))


def test_dropout_of_weights_happens_in_training_alone_and_keeps_the_mean():
    module, hidden = attention(attention_probs_dropout_prob=0.5), torch.randn(1, 6, 16)
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    with torch.no_grad():
        still = module(hidden, mask)[0]
        assert torch.equal(module(hidden, mask)[0], still)
        module.train()
        draws = torch.stack([module(hidden, mask)[0] for _ in range(1000)])
    assert draws.std(0).mean() > 0.1
    assert ((draws.mean(0) - still).abs() < 5 * draws.std(0) / 1000**0.5).all()


def test_weights_are_computed_in_float32_whatever_the_inputs_are():
    scores = torch.tensor([[8.0, 8.03125, -200.0]], dtype=torch.bfloat16)
    value = torch.eye(3, dtype=torch.bfloat16)
    context, weights = attend(scores, value)
    exact = scores.float().softmax(-1).bfloat16()
    assert torch.equal(weights, exact) and torch.equal(context, exact) and weights.dtype == torch.bfloat16
