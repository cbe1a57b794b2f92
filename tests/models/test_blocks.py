"""Norm, feed-forward and the whole layer against torch's own."""

import pytest
import tiny_transformer as tiny
import torch
from torch import nn
from torch.nn import functional as F

import hf_genai
from hf_genai.models.blocks import FeedForward, TransformerLayer, make_norm

CLASSIC = {
    **{"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True, "gated_mlp": False},
    **{"norm_type": "layer_norm", "layer_norm_eps": 1e-5},
}


def config(**choices):
    implementation = choices.pop("implementation", "eager")
    return hf_genai.GenaiGPTConfig(**{**tiny.SIZES, **choices}, attn_implementation=implementation)


def loud(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def test_root_mean_square_norm_divides_by_just_that():
    norm = loud(make_norm(config(norm_type="rms_norm", layer_norm_eps=0.1)))
    x = torch.randn(2, 3, 16)
    expected = x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("act", ["relu", "gelu", "gelu_pytorch_tanh", "silu"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_feed_forward_is_its_equation_gradients_included(act, gated, bias):
    layer = loud(FeedForward(config(hidden_act=act, gated_mlp=gated, mlp_bias=bias)))
    x = torch.randn(2, 3, 16, requires_grad=True)
    activation = {
        **{"relu": F.relu, "gelu": F.gelu, "silu": F.silu},
        "gelu_pytorch_tanh": lambda t: F.gelu(t, approximate="tanh"),
    }[act]

    def plain(x):
        inner = F.linear(x, layer.up_proj.weight, layer.up_proj.bias)
        if gated:
            inner = activation(F.linear(x, layer.gate_proj.weight, layer.gate_proj.bias)) * inner
        else:
            inner = activation(inner)
        return F.linear(inner, layer.down_proj.weight, layer.down_proj.bias)

    torch.testing.assert_close(layer(x), plain(x), atol=1e-5, rtol=1e-4)
    inputs = [x, *layer.parameters()]
    found, expected = (torch.autograd.grad(f(x).square().sum(), inputs) for f in (layer, plain))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("act", ["relu", "gelu"])
def test_a_layer_is_torchs_encoder_layer_gradients_included(norm_position, act, implementation):
    choices = config(**CLASSIC, norm_position=norm_position, hidden_act=act, implementation=implementation)
    ours = loud(TransformerLayer(choices, 0, is_causal=False, cross_attention=False))
    theirs = nn.TransformerEncoderLayer(16, 4, 24, 0.0, act, batch_first=True, norm_first=norm_position == "pre")
    pairs = {
        **{"self_attn.out_proj": "self_attn.o_proj", "linear1": "mlp.up_proj", "linear2": "mlp.down_proj"},
        **{"norm1": "self_attn_norm", "norm2": "mlp_norm"},
    }
    with torch.no_grad():
        for name in ("weight", "bias"):
            parts = [ours.get_parameter(f"self_attn.{x}_proj.{name}") for x in "qkv"]
            theirs.get_parameter(f"self_attn.in_proj_{name}").copy_(torch.cat(parts))
            for their_name, our_name in pairs.items():
                theirs.get_parameter(f"{their_name}.{name}").copy_(ours.get_parameter(f"{our_name}.{name}"))
    x = torch.randn(2, 5, 16, requires_grad=True)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-4)
    found, expected = (torch.autograd.grad(layer(x).square().sum(), x)[0] for layer in (ours, theirs))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_a_layer_with_a_source_is_torchs_decoder_layer(norm_position):
    ours = loud(
        TransformerLayer(
            config(**CLASSIC, norm_position=norm_position, hidden_act="relu"), 0, is_causal=True, cross_attention=True
        )
    )
    theirs = nn.TransformerDecoderLayer(16, 4, 24, 0.0, "relu", batch_first=True, norm_first=norm_position == "pre")
    pairs = {
        **{"self_attn.out_proj": "self_attn.o_proj", "multihead_attn.out_proj": "cross_attn.o_proj"},
        **{"linear1": "mlp.up_proj", "linear2": "mlp.down_proj", "norm1": "self_attn_norm"},
        **{"norm2": "cross_attn_norm", "norm3": "mlp_norm"},
    }
    with torch.no_grad():
        for name in ("weight", "bias"):
            for theirs_attention, our_attention in (("self_attn", "self_attn"), ("multihead_attn", "cross_attn")):
                parts = [ours.get_parameter(f"{our_attention}.{x}_proj.{name}") for x in "qkv"]
                theirs.get_parameter(f"{theirs_attention}.in_proj_{name}").copy_(torch.cat(parts))
            for their_name, our_name in pairs.items():
                theirs.get_parameter(f"{their_name}.{name}").copy_(ours.get_parameter(f"{our_name}.{name}"))
    x, source = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    found = ours(x, mask[None, None], None, source)
    torch.testing.assert_close(found, theirs(x, source, tgt_mask=~mask), atol=1e-4, rtol=1e-4)
