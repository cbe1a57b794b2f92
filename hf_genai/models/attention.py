"""Attention in two parts that every model here shares: a score compares queries with keys, `attend` weighs values by
it.

A score works on queries and keys that are projected already. Luong's "general" score is `DotScore` after a projection
of the keys. The Transformers' `MultiHeadAttention` goes through transformers' attention interface, and so through the
fused kernels, unless weights are asked for or the score is additive: then `eager_attention` does here what the
recurrent models do.

Shapes: B batch, T query and S key length, D hidden size, H heads, E head size.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention_kernel import train_attention
from .base import CACHE_NAME, attention_of, either_name
from .matmul import Linear, project
from .positions import rotate
from .varlen_attention import attend_by_text, flash_source


class DotScore(nn.Module):
    """Compare query and key by their inner product, times a scale.

    Reference: Luong, Pham and Manning (2015), arXiv:1508.04025, equation 8, with scale 1.
    """

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = scale

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Return raw scores (..., T, S); larger is a closer match.

        Args:
            query: (..., T, E).
            key: (..., S, E).
        """
        return (query * self.scale) @ key.transpose(-1, -2)


class ScaledDotScore(DotScore):
    """Compare query and key by their inner product, divided by the square root of their size.

    Reference: Vaswani et al. (2017), arXiv:1706.03762, equation 1.
    """

    def __init__(self, size: int):
        super().__init__(size**-0.5)


class AdditiveScore(nn.Module):
    """Compare query and key through one tanh layer.

    Reference: Bahdanau, Cho and Bengio (2015), arXiv:1409.0473, A.1.2.
    """

    def __init__(self, size: int):
        super().__init__()
        self.energy = nn.Linear(size, 1, bias=False)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Return raw scores (..., T, S); larger is a closer match.

        Args:
            query: (..., T, A).
            key: (..., S, A).
        """
        match = torch.tanh(query.unsqueeze(-2) + key.unsqueeze(-3))  # (..., T, S, A)
        return self.energy(match).squeeze(-1)


def attend(scores: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """Turn scores into weights, and sum the values by them.

    Args:
        scores: (..., T, S).
        value: (..., S, D).
        mask: broadcast to (..., T, S). Bool: True where a key may be seen; each query must see one key at least.
            Floating point: added to the scores.
        dropout: probability, 0-1, of leaving a key out.

    Returns:
        context (..., T, D), and weights (..., T, S), which sum to 1 over S before dropout; the softmax is in
        float32 at least.
    """
    if mask is not None:
        scores = (
            scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        )
    precise = scores.dtype if scores.dtype == torch.float64 else torch.float32
    weights = torch.softmax(scores, dim=-1, dtype=precise).to(value.dtype)
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights @ value, weights


def eager_attention(
    module: "MultiHeadAttention",
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Plain attention, as transformers' attention interface has it: (B, H, T, E) -> (B, T, H, E) and (B, H, T, S)."""
    key, value = (x.repeat_interleave(module.num_key_value_groups, dim=1) for x in (key, value))  # (B, H, S, E)
    scores = module.score_function(query, key)  # (B, H, T, S)
    if position_bias is not None:
        scores = scores + position_bias
    context, weights = attend(scores, value, attention_mask, dropout)
    return context.transpose(1, 2).contiguous(), weights


class MultiHeadAttention(nn.Module):
    """Attention of H heads, each with its own projection of queries, and of keys and values or a share in one.

    Reference: Vaswani et al. (2017), arXiv:1706.03762, section 3.2.2.
    """

    def __init__(self, config, layer_idx: int, is_causal: bool):
        super().__init__()
        self.config = config  # the attention implementation can be changed on a live model
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.dropout = config.attention_probs_dropout_prob
        self.scaling = 1.0 if config.attention_type == "dot" else self.head_dim**-0.5
        self.score_function = (
            AdditiveScore(self.head_dim) if config.attention_type == "additive" else DotScore(self.scaling)
        )
        size, bias = config.hidden_size, config.attention_bias
        self.q_proj = Linear(size, config.num_attention_heads * self.head_dim, bias=bias)
        self.k_proj = Linear(size, config.num_key_value_heads * self.head_dim, bias=bias)
        self.v_proj = Linear(size, config.num_key_value_heads * self.head_dim, bias=bias)
        self.o_proj = Linear(config.num_attention_heads * self.head_dim, size, bias=bias)

    def heads(self, projected: Tensor) -> Tensor:
        """(B, T, H * E) -> (B, H, T, E)."""
        return projected.view(*projected.shape[:-1], -1, self.head_dim).transpose(1, 2)

    def own_heads(self, bias: Tensor, heads: int) -> Tensor:
        """Return the part of a position bias (1 or B, H, T, S) that is for the heads which this process has.

        Under tensor parallelism these are some of them.
        """
        if bias.shape[1] in (1, heads):
            return bias
        weight: Any = self.q_proj.weight
        mesh = weight.device_mesh
        first = heads * mesh.get_local_rank("tp" if mesh.ndim > 1 else None)
        return bias[:, first : first + heads]

    def weigh(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs
    ) -> tuple[Tensor, Tensor | None]:
        """Return the context (B, T, H, E) and, of the eager implementation, the weights (B, H, T, S)."""
        attention, dropout = eager_attention, self.dropout if self.training else 0.0
        if (bias := kwargs.get("position_bias")) is not None:
            kwargs["position_bias"] = self.own_heads(bias, query.shape[1])
        if self.config.attention_type != "additive":
            attention = ALL_ATTENTION_FUNCTIONS.get_interface(attention_of(self.config), eager_attention)
        return attention(*(self, query, key, value, attention_mask), dropout=dropout, scaling=self.scaling, **kwargs)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        text_lengths: tuple[list[int], list[int]] | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        """Return (B, T, D) and, of the eager implementation, the weights (B, H, T, S).

        Args:
            text_lengths: B is 1, and query and key are texts of these lengths, end to end; the mask is for the
                longest ones.
        """
        if isinstance(attention_mask, Tensor) and attention_mask.ndim == 4:  # a position bias may be in it
            attention_mask = self.own_heads(attention_mask, query.shape[1])
        context = weights = None
        if attention_of(self.config) == "sdpa" and kwargs.get("position_bias") is None:
            causal, dropout = kwargs.get("is_causal", self.is_causal), self.dropout if self.training else 0.0
            context = train_attention(
                *(query, key, value, attention_mask, causal, self.scaling, dropout), text_lengths=text_lengths
            )
        if context is None and text_lengths is None:
            context, weights = self.weigh(query, key, value, attention_mask, **kwargs)
        elif context is None:

            def within(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
                mask = None if attention_mask is None else attention_mask[..., : query.shape[2], : key.shape[2]]
                return self.weigh(query, key, value, mask, **kwargs)[0]

            context = attend_by_text(within, query, key, value, *text_lengths)
        # vLLM and SGLang return contexts of all rows as one, with their heads side by side
        return self.o_proj(context.reshape(query.shape[0], query.shape[2], -1)), weights


class SelfAttention(MultiHeadAttention):
    """Each token looks at the tokens of its own text: all of them or, causal, itself and those before it."""

    @either_name
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        cache: Cache | None = None,
        texts: tuple[list[int], list[int]] | None = None,
        wanted: Tensor | None = None,
        pages: Any = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        """Return (B, T, D), and the weights (B, H, T, S) where the implementation has them.

        Args:
            hidden_states: (B, T, D).
            attention_mask: as the implementation wants it, made by transformers' masking_utils.
            position_embeddings: cosines and sines (B, T, E), to turn queries and keys by.
            cache: keys and values of earlier tokens; takes up the new ones.
            texts: B is 1, and the row is texts of these lengths, end to end; second, those of their sources or, with
                `wanted`, how many are wanted of each.
            wanted: (W,), the only places of the row whose tokens are to look at the others.
        """
        if wanted is None:
            projected = project(hidden_states, self.q_proj, self.k_proj, self.v_proj)
        else:
            asking = self.q_proj(hidden_states.index_select(1, wanted))
            projected = [asking, *project(hidden_states, self.k_proj, self.v_proj)]
        query, key, value = (self.heads(x) for x in projected)  # (B, H, T, E)
        if position_embeddings is not None:
            key = rotate(key, *position_embeddings)
            if wanted is not None:
                position_embeddings = tuple(angles.index_select(1, wanted) for angles in position_embeddings)
            query = rotate(query, *position_embeddings)
        if pages is not None:
            if CACHE_NAME == "cache":
                key, value = pages.update(key, value, self.layer_idx, kwargs=kwargs)
            else:  # the attention function does that
                kwargs["cache"] = pages
        if cache is not None:
            own = getattr(cache, "self_attention_cache", cache)
            key, value = own.update(key, value, self.layer_idx)  # (B, H, S, E)
        lengths = None if texts is None else (texts[0 if wanted is None else 1], texts[0])
        return self.attend(query, key, value, attention_mask, lengths, **kwargs)


class CrossAttention(MultiHeadAttention):
    """Each token looks at all that an encoder made of another text, or of anything else."""

    @either_name
    def forward(
        self,
        hidden_states: Tensor,
        source: Tensor,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        texts: tuple[list[int], list[int]] | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        """As `SelfAttention`, with keys and values from source (B, S, D): with a cache, projected only once."""
        query = self.heads(self.q_proj(hidden_states))
        caches = isinstance(cache, EncoderDecoderCache)
        if caches and cache.is_updated.get(self.layer_idx):
            layer = cache.cross_attention_cache.layers[self.layer_idx]
            key, value = layer.keys, layer.values
        else:
            key, value = (self.heads(x) for x in project(source, self.k_proj, self.v_proj))
            if caches:
                key, value = cache.cross_attention_cache.update(key, value, self.layer_idx)
                cache.is_updated[self.layer_idx] = True
        if "flash" in attention_of(self.config) and attention_mask is not None:
            rows = query.shape[0], query.shape[2]
            key, value, lengths = flash_source(rows, attention_mask, key, value)
            attention_mask, kwargs = None, {**kwargs, **lengths}
        return self.attend(query, key, value, attention_mask, texts, **kwargs)
