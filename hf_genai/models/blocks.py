"""What stands around the attention: norm, feed-forward, residual, and the layer made of them.

Shapes: B batch, T target and S source length, D hidden size.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import CrossAttention, SelfAttention
from .base import either_name
from .matmul import Linear, together
from .packed_linear import PLAIN
from .transformer_kernels import Dropout, RMSNorm, dropped_relu, gated, gelu_tanh

ACTIVATIONS = {**PLAIN, "gelu_pytorch_tanh": gelu_tanh}


def make_norm(config) -> nn.Module:
    """Return the norm of vectors of `hidden_size` that a configuration asks for."""
    norm = RMSNorm if config.norm_type == "rms_norm" else nn.LayerNorm
    return norm(config.hidden_size, eps=config.layer_norm_eps)


class FeedForward(nn.Module):
    """Two projections with an activation between them or, gated, three.

    Reference: Vaswani et al. (2017), arXiv:1706.03762, equation 2; gated: Shazeer (2020), arXiv:2002.05202,
    equation 6.
    """

    def __init__(self, config):
        super().__init__()
        size, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(size, inner, bias=bias) if config.gated_mlp else None
        self.up_proj = Linear(size, inner, bias=bias)
        self.down_proj = Linear(inner, size, bias=bias)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dropout = Dropout(config.activation_dropout_prob)

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.gate_proj is None:
            inner = self.up_proj(hidden_states)  # (B, T, intermediate_size)
            if self.activation is F.relu:
                return self.down_proj(dropped_relu(inner, self.dropout))
            inner = self.activation(inner)
        else:
            both = together(hidden_states, self.gate_proj, self.up_proj)
            if both is None:
                inner = self.activation(self.gate_proj(hidden_states)) * self.up_proj(hidden_states)
            else:
                inner = gated(both, self.activation)
        return self.down_proj(self.dropout(inner))


class TransformerLayer(GradientCheckpointingLayer):
    """Self-attention, cross-attention where there is a source, and feed-forward, each with norm and residual."""

    def __init__(self, config, layer_idx: int, is_causal: bool, cross_attention: bool):
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        self.self_attn_norm = make_norm(config)
        self.self_attn = SelfAttention(config, layer_idx, is_causal)
        if cross_attention:
            self.cross_attn_norm = make_norm(config)
            self.cross_attn = CrossAttention(config, layer_idx, is_causal=False)
        self.mlp_norm = make_norm(config)
        self.mlp = FeedForward(config)
        self.dropout = Dropout(config.hidden_dropout_prob)

    @either_name
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        cache: Cache | None = None,
        wanted: Tensor | None = None,
        **kwargs,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D) or, with `wanted`, (B, W, D): what becomes of W of the T tokens.

        What may need a gradient comes first, as checkpoints follow positional tensors only: the mask, too, since a
        position bias may be in it.
        """
        more: dict[str, Any] = {"cache": cache, **kwargs}
        hidden_states = self.add(
            hidden_states,
            self.self_attn_norm,
            lambda x: self.self_attn(
                x,
                attention_mask,
                position_embeddings=position_embeddings,
                position_bias=position_bias,
                wanted=wanted,
                **more,
            )[0],
            wanted,
        )
        if encoder_hidden_states is not None:
            hidden_states = self.add(
                hidden_states,
                self.cross_attn_norm,
                lambda x: self.cross_attn(x, encoder_hidden_states, encoder_attention_mask, **more)[0],
            )
        return self.add(hidden_states, self.mlp_norm, self.mlp)

    def add(self, hidden_states: Tensor, norm: nn.Module, sublayer, wanted: Tensor | None = None) -> Tensor:
        """Add what a sub-layer makes of hidden_states (B, T, D) to them, or to those at the places `wanted`."""
        residual = hidden_states if wanted is None else hidden_states.index_select(1, wanted)
        if self.pre_norm:
            return self.dropout(sublayer(norm(hidden_states)), residual)
        return norm(self.dropout(sublayer(hidden_states), residual))
