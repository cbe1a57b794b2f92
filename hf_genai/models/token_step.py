"""One more token a row: the layers of a stack without what only training and longer inputs need.

A decoding step is many small operations on few rows, where the way through modules, masks and caches takes as long as
the arithmetic. `StepLayers` computes what the layers of a `TransformerStack` compute for one token a row, in two
dimensions, with query, key and value projected by one matrix, and with weights packed for few rows. Two loops use it:
transformers' `generate()`, through `CachedStep` and the cache that it hands to the model, and our own in
`hf_genai.fast_generate`.

Shapes: N rows, S keys, D hidden size, H query heads, K key/value heads, G = H / K, E head size.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache

from .attention import CrossAttention, DotScore, SelfAttention
from .base import attention_of
from .blocks import FeedForward, TransformerLayer
from .fast_path import fast_path_allowed
from .matmul import Linear, batched_product, is_hooked
from .packed_linear import PackedLinear
from .positions import rotate
from .private_names import version_of

# A layer made of anything else (an adapter, a quantised weight) goes its own way.
KNOWN = (TransformerLayer, SelfAttention, CrossAttention, FeedForward, DotScore, Linear, nn.Linear)
# Norms are called as they are, and dropout does nothing here, whatever computes them in training.
NORMS_AND_DROPOUT = (nn.LayerNorm, nn.RMSNorm, nn.Dropout)
# Packing costs some steps' time: a generation shorter than this goes without.
WARM_UP_STEPS = 4

Rows = Callable[[Tensor], Tensor]
Pack = Callable[[Tensor, Tensor | None, str | None], Rows]


def pack_together(pack: Pack, *linears: nn.Linear, activation: str | None = None) -> Rows:
    """Pack linear maps of the same input into one, their outputs side by side."""
    if len(linears) == 1:
        return pack(linears[0].weight, linears[0].bias, activation)
    weight = torch.cat([linear.weight.detach() for linear in linears])
    bias = None if linears[0].bias is None else torch.cat([linear.bias.detach() for linear in linears])
    return pack(weight, bias, activation)


class StepLayer:
    """A `TransformerLayer` for one token a row."""

    def __init__(self, layer: TransformerLayer, pack: Pack, activation: str):
        attention, mlp = layer.self_attn, layer.mlp
        self.pre_norm, self.head_dim = layer.pre_norm, attention.head_dim
        self.norm, self.mlp_norm = layer.self_attn_norm.forward, layer.mlp_norm.forward
        self.qkv = pack_together(pack, attention.q_proj, attention.k_proj, attention.v_proj)
        self.o = pack_together(pack, attention.o_proj)
        self.cross_q: Rows | None = None
        if hasattr(layer, "cross_attn"):
            self.cross_norm = layer.cross_attn_norm.forward
            self.cross_q = pack_together(pack, layer.cross_attn.q_proj)
            self.cross_o = pack_together(pack, layer.cross_attn.o_proj)
        gated = mlp.gate_proj is not None
        self.gate = pack_together(pack, mlp.gate_proj, activation=activation) if gated else None
        self.up = pack_together(pack, mlp.up_proj, activation=None if gated else activation)
        self.down = pack_together(pack, mlp.down_proj)

    def add(self, hidden: Tensor, norm: Rows, sublayer: Rows) -> Tensor:
        """As `TransformerLayer.add`; what a sub-layer returns is its own, so the sum may take its place."""
        if self.pre_norm:
            return sublayer(norm(hidden)).add_(hidden)
        return norm(sublayer(hidden).add_(hidden))

    def feed_forward(self, x: Tensor) -> Tensor:
        inner = self.up(x)
        return self.down(inner if self.gate is None else inner.mul_(self.gate(x)))


class StepLayers:
    """The layers of a stack for one token a row; see `run`.

    Args:
        layers: `TransformerLayer`s that `steppable` accepts.
        pack: makes of (weight (M, K), bias, activation) a function of rows (N, K) -> (N, M).
    """

    def __init__(self, layers: nn.ModuleList, config, pack: Pack = PackedLinear):
        self.layers = [StepLayer(layer, pack, config.hidden_act) for layer in layers]
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim

    def run(
        self,
        hidden: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        attend: Callable[[int, Tensor, Tensor], Tensor],
        look: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """(N, D) -> (N, D), before the stack's last norm.

        Args:
            angles: cosines and sines (N or 1, E) of rotary positions, or None.
            attend: layer index, query (N, H, E), new keys and after them values (N, 2 K, E) -> context (N, H * E).
            look: layer index, query (N, H, E) -> what is seen of the source (N, H * E).
        """
        heads = self.heads
        turned = self.heads + self.key_heads
        for index, layer in enumerate(self.layers):

            def own(x, index=index, layer=layer):
                x = layer.qkv(x).view(x.shape[0], -1, self.head_dim)  # (N, H + 2 K, E)
                if angles is not None:
                    x = torch.cat([rotate(x[:, :turned], *angles), x[:, turned:]], 1)
                return layer.o(attend(index, x[:, :heads], x[:, heads:]))

            def source(x, index=index, layer=layer):
                return layer.cross_o(look(index, layer.cross_q(x).view(x.shape[0], -1, self.head_dim)))

            hidden = layer.add(hidden, layer.norm, own)
            if look is not None:
                hidden = layer.add(hidden, layer.cross_norm, source)
            hidden = layer.add(hidden, layer.mlp_norm, layer.feed_forward)
        return hidden


def attend_rows(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the context (N, K, R, E) of R scaled queries to each key head, in two products.

    Torch's fused attention is made for many queries; with one or a few it takes longer.

    Args:
        query: (N, K, R, E): the heads that share a key head, and whatever else looks at the same keys.
        keys: (N * K, S, E), as values.
        mask: added to the scores, broadcast to (N, K, R, S), or None.
    """
    rows = query.flatten(0, 1)
    if rows.shape[1] == 1:
        scores = batched_product(rows, keys.transpose(1, 2))
    else:  # keys are read faster on the left
        scores = batched_product(keys, rows.transpose(1, 2)).transpose(1, 2).contiguous()
    if mask is not None:
        scores = scores.view(*query.shape[:3], -1).add_(mask).view_as(scores)
    return batched_product(torch.softmax(scores, -1), values).view(query.shape)


def additive_mask(seen: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return what is added to scores where bool says what may be seen."""
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


def additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a mask to be added to scores; a bool one is True where a key may be seen."""
    return mask if mask is None or mask.dtype != torch.bool else additive_mask(mask, dtype)


def steppable(layers: nn.ModuleList) -> bool:
    """Whether `StepLayers` computes what these layers do: known parts, none hooked."""
    parts = [module for layer in layers for module in layer.modules()]
    return all((type(part) in KNOWN or isinstance(part, NORMS_AND_DROPOUT)) and not is_hooked(part) for part in parts)


class CachedStep:
    """`StepLayers` over the keys and values of a `DynamicCache`, for as long as that cache lives."""

    def __init__(self, layers: nn.ModuleList, config):
        self.steps = StepLayers(layers, config)
        self.modules = list(layers.modules())
        self.parameters = list(layers.parameters())
        self.versions = self.current_versions()
        self.scale = layers[0].self_attn.scaling
        self.head: tuple[Tensor, int, PackedLinear] | None = None
        self.room: list[tuple[Tensor, ...]] = [()] * len(layers)

    def current_versions(self) -> list[tuple[int, int]]:
        return [(parameter.data_ptr(), version_of(parameter)) for parameter in self.parameters]

    def usable(self) -> bool:
        """Whether the weights are still those that were packed, and nobody listens to the layers."""
        return self.versions == self.current_versions() and not any(map(is_hooked, self.modules))

    def append(self, index: int, layer: DynamicLayer, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the newest key and value (N, K, E), as layer.update does, mostly without copying the others.

        Where the layer still holds what this left there, its tensors are views of larger ones with room for more.
        Where something else took their place (beams were reordered), they are concatenated.
        """
        room, length = self.room[index], layer.keys.shape[2]
        if not room or layer.keys is not room[0] or layer.values is not room[1]:
            layer.update(key.unsqueeze(2), value.unsqueeze(2))
            self.room[index] = (layer.keys, layer.values)
            return self.room[index]
        if len(room) == 2 or length == room[2].shape[2]:
            larger = (*layer.keys.shape[:2], length + max(64, length // 2), layer.keys.shape[3])
            buffers = (layer.keys.new_empty(larger), layer.values.new_empty(larger))
            for buffer, old in zip(buffers, room[:2], strict=True):
                buffer[:, :, :length] = old
        else:
            buffers = room[2:]
        for buffer, new in zip(buffers, (key, value), strict=True):
            buffer[:, :, length] = new
        layer.keys, layer.values = (buffer[:, :, : length + 1] for buffer in buffers)
        self.room[index] = (layer.keys, layer.values, *buffers)
        return layer.keys, layer.values

    def run(
        self,
        hidden: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        cache: Any,
        mask: Tensor | None,
        source_mask: Tensor | None,
        with_source: bool,
    ) -> Tensor:
        """(N, D) -> (N, D): what `TransformerStack.run` does for one token a row, but for the last norm."""
        own = getattr(cache, "self_attention_cache", cache)
        mask, source_mask = additive(mask, hidden.dtype), additive(source_mask, hidden.dtype)
        rows, grouped = hidden.shape[0], (hidden.shape[0], self.steps.key_heads, -1, self.steps.head_dim)
        if mask is not None and mask.shape[1] > 1:
            mask = mask.reshape(len(mask), self.steps.key_heads, -1, mask.shape[3])  # (N or 1, K, G, S)

        def attend(index: int, query: Tensor, new: Tensor) -> Tensor:
            return rows_attend(query, self.append(index, own.layers[index], *new.chunk(2, 1)), mask)

        def rows_attend(query: Tensor, seen: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
            keys, values = (part.flatten(0, 1) for part in seen)
            return attend_rows((query * self.scale).view(grouped), keys, values, mask).view(rows, -1)

        def look(index: int, query: Tensor) -> Tensor:
            source = cache.cross_attention_cache.layers[index]
            return rows_attend(query, (source.keys, source.values), source_mask)

        return self.steps.run(hidden, angles, attend, look if with_source else None)

    def score(self, hidden: Tensor, head: nn.Linear) -> Tensor:
        """Return the logits (N, V) of (N, D)."""
        if self.head is None or self.head[0] is not head.weight or self.head[1] != version_of(head.weight):
            self.head = (head.weight, version_of(head.weight), PackedLinear(head.weight, head.bias))
        return self.head[2](hidden)


# A step belongs to a cache, and goes with it; beside it, so that caches can still be copied and pickled.
_steps: WeakKeyDictionary[Cache, CachedStep | int] = WeakKeyDictionary()


def cached_step(
    layers: nn.ModuleList, config, hidden: Tensor, cache: Cache | None, with_source: bool
) -> CachedStep | None:
    """Return the step for a cache that has been used for some, or None where the layers themselves have to run."""
    if hidden.shape[1] != 1 or cache is None or torch.is_grad_enabled() or layers.training:
        return None
    if hidden.dtype != torch.float32 or hidden.device.type != "cpu" or attention_of(config) != "sdpa":
        return None
    own = getattr(cache, "self_attention_cache", cache)
    if type(own) is not DynamicCache or own.offloading or not fast_path_allowed(hidden, layers[0].mlp.up_proj.weight):
        return None
    if with_source and not (isinstance(cache, EncoderDecoderCache) and all(cache.is_updated.values())):
        return None
    if any(type(layer) is not DynamicLayer or not layer.is_initialized for layer in own.layers):
        return None
    step = _steps.get(cache, 0)
    if isinstance(step, int):
        _steps[cache] = step + 1
        if step < WARM_UP_STEPS or not steppable(layers):
            return None
        step = _steps[cache] = CachedStep(layers, config)
    return step if len(step.steps.layers) == len(own.layers) and step.usable() else None


def step_of(cache: Cache | None) -> CachedStep | None:
    """Return the step that a cache has now, if any."""
    step = None if cache is None else _steps.get(cache)
    return step if isinstance(step, CachedStep) else None
