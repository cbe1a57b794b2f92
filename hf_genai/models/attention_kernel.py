"""Attention in training on a CPU, in one function: what torch's fused kernel cannot do there.

A few texts at a time, so that their scores stay in the cache, with products that read the heads where the projections
left them. Texts of different lengths that lie end to end go through it at once.

Shapes: B batch, T query and S key length, N tokens of all texts, H heads, E head size.
"""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .fast_path import needs_gradient, once_differentiable
from .matmul import batched_product
from .private_names import softmax_backward
from .transformer_kernels import BLOCK, Coins, on_cpu
from .varlen_attention import by_group, grouped


class _Attention(torch.autograd.Function):
    """softmax(scaling query key^T + bias) value, with dropout of the weights.

    query is (B, H, T, E), key and value (B, H, S, E), the bias broadcasts to (B, H, T, S); the result is (B, T, H, E).
    With groups, B is 1, and each group takes the corner of the bias that its lengths need.
    """

    @staticmethod
    def forward(ctx, query, key, value, bias, scaling, dropout, groups):
        ctx.scaling, ctx.groups, ctx.bias_shape = scaling, groups, bias.shape
        coins = Coins(dropout) if dropout else None
        ctx.factor = None if coins is None else coins.factor
        context = query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])
        parts = by_group(groups, query, key, value), by_group(groups, context.transpose(1, 2), sides=(0,))
        saved: list[Tensor] = []
        for (q, k, v), (out,) in zip(*parts, strict=True):
            if not q.numel() or not k.numel():
                out.zero_()
                continue
            weights = q.new_empty(*q.shape[:3], k.shape[2])
            corner = bias if groups is None else bias[..., : q.shape[2], : k.shape[2]]
            for rows in _texts(weights):
                kept = weights[rows]
                batched_product(q[rows], k[rows].transpose(2, 3), kept)
                torch.add(_of(corner, rows), kept, alpha=scaling, out=kept)
                torch.softmax(kept, -1, out=kept)
                if coins is not None:
                    # weights are positive: those that are dropped get a sign, and no mask is needed
                    drawn = coins.margins(kept.shape)
                    kept = torch.copysign(kept, drawn, out=kept).clamp_min(0).mul_(ctx.factor)
                batched_product(kept, v[rows], out[rows])
            saved.append(weights)
        ctx.save_for_backward(query, key, value, *saved)
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        query, key, value, *saved = ctx.saved_tensors
        grads = _room(query, key, value)
        bias_grad = grad.new_zeros(ctx.bias_shape) if ctx.needs_input_grad[3] else None
        inputs, results = by_group(ctx.groups, query, key, value), by_group(ctx.groups, *grads)
        given_parts, left = by_group(ctx.groups, grad.transpose(1, 2), sides=(0,)), iter(saved)
        for (q, k, v), (q_grad, k_grad, v_grad), (given,) in zip(inputs, results, given_parts, strict=True):
            if not q.numel() or not k.numel():
                for unseen in (q_grad, k_grad, v_grad):
                    unseen.zero_()
                continue
            weights = next(left)
            for rows in _texts(weights):
                kept, seen, up = weights[rows], weights[rows], given[rows]
                change = torch.empty_like(kept)
                if ctx.factor is not None:
                    kept, seen, up = kept.clamp_min(0), kept.abs(), up * ctx.factor
                batched_product(up, v[rows].transpose(2, 3), change)
                batched_product(kept.transpose(2, 3), up, v_grad[rows])
                if ctx.factor is not None:
                    change = torch.ops.aten.threshold_backward(change, kept, 0)
                change = softmax_backward(change, seen, grad.dtype)
                if bias_grad is not None:
                    corner = _of(bias_grad, rows)
                    if ctx.groups is not None:
                        corner = corner[..., : change.shape[2], : change.shape[3]]
                    corner += change.sum_to_size(corner.shape)
                if ctx.scaling != 1:
                    change *= ctx.scaling
                batched_product(change, k[rows], q_grad[rows])
                batched_product(change.transpose(2, 3), q[rows], k_grad[rows])
        return *grads, bias_grad, None, None, None


def _room(*inputs: Tensor) -> list[Tensor]:
    """Return room for the gradients of inputs (B, H, T, E), laid out as their projections are.

    Gradients of what one product has projected lie side by side, as `matmul.project` would have to lay them else.
    """
    found: list[Tensor] = []
    for _, alike in itertools.groupby(inputs, lambda x: (x.untyped_storage().data_ptr(), x.shape)):
        batch, heads, length, size = (same := list(alike))[0].shape
        found += same[0].new_empty(batch, length, len(same), heads, size).permute(2, 0, 3, 1, 4)
    return found


def _texts(weights: Tensor) -> Iterator[slice]:
    """Yield the texts of (B, H, T, S) whose weights fit the cache, one at least."""
    step = max(1, BLOCK // weights[0].numel())
    for start in range(0, len(weights), step):
        yield slice(start, start + step)


def _of(bias: Tensor, rows: slice) -> Tensor:
    """Return the bias of some texts, where each has its own."""
    return bias if len(bias) == 1 else bias[rows]


def train_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scaling: float,
    dropout: float,
    text_lengths: tuple[list[int], list[int]] | None = None,
) -> Tensor | None:
    """scaled_dot_product_attention with what torch's fused CPU kernel cannot do, or None where that one is better.

    That is dropout of the weights, and a mask that is learned (T5's relative positions); each key head has one query
    head. Whether weights are dropped does not depend on gradients being asked for, so that a checkpoint's second run
    drops those that its first one dropped.

    Args:
        query: (B, H, T, E).
        key: (B, H, S, E), as value.
        mask: broadcast to (B, H, T, S). Bool: True where a key may be seen. Floating point: added to the scores.
        text_lengths: B is 1, and query and key are texts of these lengths, end to end; the mask, if any, is (1, 1 or
            H, T, S) for the longest ones.

    Returns:
        (B, T, H, E), as transformers' attention interface has it.
    """
    learned = mask is not None and needs_gradient(mask)
    tensors = [query, key, value] if mask is None else [query, key, value, mask]
    if not (0 < dropout < 1 or learned) or query.shape[1] != key.shape[1] or not on_cpu(*tensors):
        return None
    length, keys = query.shape[2], key.shape[2]
    if text_lengths is not None:
        length, keys = (max(lengths) for lengths in text_lengths)
    if mask is None:
        mask = query.new_zeros(1, 1, length, keys)
        if is_causal and length > 1:
            mask = torch.full_like(mask, -math.inf).triu_(1)
    elif mask.ndim != 4:
        return None
    elif not learned:
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, -math.inf)
        if (mask == -math.inf).all(-1).any():  # torch gives a query that sees nothing a context of 0
            return None
    mask.expand(query.shape[0], query.shape[1], length, keys)  # refuses what does not fit
    groups = None if text_lengths is None else grouped(*text_lengths)
    return _Attention.apply(query, key, value, mask, scaling, dropout, groups)
