"""Kernels of the Transformers: the small things around the matrix products, with a hand-written backward.

On a CPU they take a fifth of a training step, mostly in passes over memory that torch's own operators repeat. Each
function here computes what the plain one that its docstring names does, and calls that one wherever a kernel would be
wrong (see fast_path.py).

Shapes: B batch, T query and S key length, D hidden size, H heads, E head size.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .fast_path import fast_path_allowed, needs_gradient

# Floats that stay in a core's own cache while a few operations pass over them one after the other.
BLOCK = 2**16


def _worthwhile(*tensors: Tensor, any_dtype: bool = False) -> bool:
    """Whether a kernel is right, and the tensors are to be differentiated and on a CPU, where passes cost most."""
    first = tensors[0]
    if first.device.type != "cpu" or not needs_gradient(*tensors):
        return False
    return fast_path_allowed(*tensors, any_dtype=any_dtype)


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the rows of matrices of one shape, block by block."""
    rows = max(1, BLOCK // tensors[0].shape[1])
    for start in range(0, len(tensors[0]), rows):
        yield tuple(tensor[start : start + rows] for tensor in tensors)


# Dropout -------------------------------------------------------------------------------------------------------------


def keep_mask(x: Tensor, probability: float) -> tuple[Tensor, float]:
    """Return which of x's numbers stay (1, else 0), and the factor that keeps their mean.

    16 random bits a number decide, a quarter of what torch's generator makes at a time, where torch's own dropout
    draws a double for each. The probability is rounded to 1 / 65536; the factor is exact for the rounded one.
    The mask is uint8, since a product with bools takes twice as long.
    """
    dropped = min(round(probability * 65536), 65535)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    return (words[: x.numel()] >= dropped - 32768).view(torch.uint8).view(x.shape), 65536 / (65536 - dropped)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, residual, probability):
        mask, ctx.factor = keep_mask(x, probability)
        ctx.save_for_backward(mask)
        kept = x * mask
        return kept.mul_(ctx.factor) if residual is None else torch.add(residual, kept, alpha=ctx.factor, out=kept)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (mask,) = ctx.saved_tensors
        return (grad * mask).mul_(ctx.factor), grad if ctx.needs_input_grad[1] else None, None


class Dropout(nn.Dropout):
    """torch.nn.Dropout with random bits that cost a third, and a sum with a residual of the input's shape."""

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        alike = residual is None or (residual.dtype == input.dtype and residual.shape == input.shape)
        tensors = (input,) if residual is None else (input, residual)
        drops = self.training and 0 < self.p < 1 and not self.inplace
        if drops and alike and _worthwhile(*tensors, any_dtype=True):
            return _Dropout.apply(input, residual, self.p)
        dropped = super().forward(input)
        return dropped if residual is None else residual + dropped


class _DroppedRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, probability):
        mask, ctx.factor = keep_mask(x, probability)
        result = (x * mask).clamp_min_(0).mul_(ctx.factor)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        # what was dropped is 0, as what was negative: no mask is needed
        (result,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, result, 0).mul_(ctx.factor), None


def dropped_relu(x: Tensor, dropout: nn.Dropout) -> Tensor:
    """dropout(relu(x)), which keeps no mask."""
    drops = type(dropout) is Dropout and dropout.training and 0 < dropout.p < 1
    return _DroppedRelu.apply(x, dropout.p) if drops and _worthwhile(x) else dropout(F.relu(x))


# Norm ----------------------------------------------------------------------------------------------------------------


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (N, 1)
        scale = scale.square_().div_(x.shape[1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        normed = x * scale
        product = grad * normed
        weight_grad = torch.mv(product.t(), product.new_ones(len(product)))
        mean = torch.mv(product, weight).div_(-x.shape[1]).unsqueeze(1)  # (N, 1)
        return torch.mul(grad, weight, out=product).addcmul_(normed, mean).mul_(scale), weight_grad, None


class RMSNorm(nn.RMSNorm):
    """torch.nn.RMSNorm, which is a chain of small operations on a CPU, in one."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None or len(self.normalized_shape) != 1 or not _worthwhile(x, self.weight):
            return super().forward(x)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        return _RMSNorm.apply(x.reshape(-1, x.shape[-1]), self.weight, eps).view(x.shape)


# Activations ---------------------------------------------------------------------------------------------------------

# tanh-GELU is x sigmoid(z) with z = x (A + B x^2), as tanh(u) = 2 sigmoid(2u) - 1 (Hendrycks and Gimpel 2016,
# arXiv:1606.08415, section 2)
_A = 2 * math.sqrt(2 / math.pi)
_B = _A * 0.044715


class _GeluTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        result = torch.empty_like(x)
        for row, out in _blocks(x, result):
            torch.mul(row, row, out=out).mul_(_B).add_(_A).mul_(row).sigmoid_().mul_(row)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        result = torch.empty_like(x)
        # d/dx = s + x s (1 - s) dz/dx, and x dz/dx = x (A + 3 B x^2)
        for row, given, out in _blocks(x, grad.contiguous(), result):
            square = row * row
            gate = (square * _B).add_(_A).mul_(row).sigmoid_()
            square.mul_(3 * _B).add_(_A).mul_(row)
            torch.addcmul(gate, gate, gate, value=-1, out=out)
            out.mul_(square).add_(gate).mul_(given)
        return result


def gelu_tanh(x: Tensor) -> Tensor:
    """torch.nn.functional.gelu(x, approximate="tanh"), through sigmoid, which torch computes faster than tanh."""
    if not _worthwhile(x):
        return F.gelu(x, approximate="tanh")
    return _GeluTanh.apply(x.reshape(-1, x.shape[-1])).view(x.shape)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, both, activation, backward):
        gate, up = both.chunk(2, dim=1)
        ctx.save_for_backward(both)
        ctx.activation, ctx.backward_of = activation, backward
        return activation(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (both,) = ctx.saved_tensors
        result = torch.empty_like(both)
        parts = (*both.chunk(2, dim=1), *result.chunk(2, dim=1))
        for given, gate, up, gate_grad, up_grad in _blocks(grad.contiguous(), *parts):
            torch.mul(ctx.activation(gate), given, out=up_grad)
            gate_grad.copy_(ctx.backward_of(given * up, gate))
        return result, None, None


_BACKWARD = {
    F.silu: torch.ops.aten.silu_backward,
    F.gelu: torch.ops.aten.gelu_backward,
    gelu_tanh: partial(torch.ops.aten.gelu_backward, approximate="tanh"),
    F.relu: partial(torch.ops.aten.threshold_backward, threshold=0),
}


def gated(both: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """activation(first half) * second half of the last axis; one of the feed-forward layers' activations."""
    if _worthwhile(both) and activation in _BACKWARD:
        flat = both.reshape(-1, both.shape[-1])
        return _Gated.apply(flat, activation, _BACKWARD[activation]).view(*both.shape[:-1], -1)
    gate, up = both.chunk(2, dim=-1)
    return activation(gate) * up


# Rotary positions ----------------------------------------------------------------------------------------------------


def _turn(vectors: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    half = vectors.shape[-1] // 2
    result = vectors * cos
    result[..., :half].addcmul_(vectors[..., half:], sin[..., :half], value=-sign)
    result[..., half:].addcmul_(vectors[..., :half], sin[..., half:], value=sign)
    return result


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vectors, cos, sin):
        ctx.save_for_backward(cos, sin)
        return _turn(vectors, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return _turn(grad, *ctx.saved_tensors, -1), None, None


def turn(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor | None:
    """`positions.rotate`, or None where the plain one is right. cos and sin are (B, 1, T, E)."""
    if cos.requires_grad or sin.requires_grad or not _worthwhile(vectors, cos, sin):
        return None
    return _Rotate.apply(vectors, cos, sin)


# Attention -----------------------------------------------------------------------------------------------------------


class _Attention(torch.autograd.Function):
    """softmax(scaling query key^T + bias) value, with dropout of the weights, a few texts at a time.

    So scores stay in the cache, and one text's heads need no copy to lie side by side. query is (B, H, T, E), key and
    value (B, H, S, E), bias broadcasts to (B, H, T, S); the result is (B, T, H, E).
    """

    @staticmethod
    def forward(ctx, query, key, value, bias, scaling, dropout):
        batch, heads, length = query.shape[:3]
        weights = torch.empty(batch, heads, length, key.shape[2], dtype=query.dtype)
        mask = torch.empty(weights.shape, dtype=torch.uint8) if dropout else None
        context = torch.empty(batch, length, heads, value.shape[3], dtype=query.dtype)
        factor = 1.0
        for rows in _texts(weights):
            scores = weights[rows].copy_(_of(bias, rows)).flatten(0, 1)  # (N, T, S)
            scores.baddbmm_(_flat(query, rows), _flat(key, rows).transpose(1, 2), alpha=scaling)
            kept = torch.softmax(scores, -1, out=scores)
            if dropout:
                keep, factor = keep_mask(weights[rows], dropout)
                mask[rows] = keep
                kept = kept * keep.flatten(0, 1)
            found = torch.bmm(kept, _flat(value, rows)).view(-1, heads, length, value.shape[3]).transpose(1, 2)
            torch.mul(found, factor, out=context[rows])
        ctx.save_for_backward(query, key, value, weights, mask)
        ctx.factor, ctx.scaling, ctx.bias_shape = factor, scaling, bias.shape
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        query, key, value, weights, mask = ctx.saved_tensors
        heads = grad.transpose(1, 2)
        # as projections lay them out: the way back to those needs no copy
        grads = [torch.empty(x.transpose(1, 2).shape, dtype=x.dtype).transpose(1, 2) for x in (query, key, value)]
        bias_grad = torch.zeros(ctx.bias_shape, dtype=grad.dtype) if ctx.needs_input_grad[3] else None
        for rows in _texts(weights):
            given, kept = _flat(heads, rows) * ctx.factor, weights[rows].flatten(0, 1)
            weights_grad = torch.bmm(given, _flat(value, rows).transpose(1, 2))
            scores = kept
            if mask is not None:
                keep = mask[rows].flatten(0, 1).to(grad.dtype)
                kept = kept * keep
                weights_grad *= keep
            scores_grad = torch._softmax_backward_data(weights_grad, scores, -1, grad.dtype)
            if bias_grad is not None:
                part = _of(bias_grad, rows)
                part += scores_grad.view(-1, *weights.shape[1:]).sum_to_size(part.shape)
            if ctx.scaling != 1:
                scores_grad *= ctx.scaling
            found = (
                torch.bmm(scores_grad, _flat(key, rows)),
                torch.bmm(scores_grad.transpose(1, 2), _flat(query, rows)),
                torch.bmm(kept.transpose(1, 2), given),
            )
            for result, x in zip(grads, found, strict=True):
                result[rows].copy_(x.view_as(result[rows]))
        return *grads, bias_grad, None, None


def _texts(weights: Tensor) -> Iterator[slice]:
    """Yield the texts of (B, H, T, S) whose weights fit the cache, one at least."""
    step = max(1, BLOCK // weights[0].numel())
    for start in range(0, len(weights), step):
        yield slice(start, start + step)


def _flat(x: Tensor, rows: slice) -> Tensor:
    return x[rows].reshape(-1, *x.shape[2:])


def _of(bias: Tensor, rows: slice) -> Tensor:
    return bias if len(bias) == 1 else bias[rows]


def train_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scaling: float,
    dropout: float,
) -> Tensor | None:
    """scaled_dot_product_attention with what torch's fused CPU kernel cannot do, or None where that one is better.

    That is dropout of the weights, and a mask that is learned (T5's relative positions).

    Args:
        query: (B, H, T, E).
        key: (B, H, S, E), as value.
        mask: broadcast to (B, H, T, S). Bool: True where a key may be seen. Floating point: added to the scores.

    Returns:
        (B, T, H, E), as transformers' attention interface has it.
    """
    learned = mask is not None and mask.requires_grad
    tensors = [query, key, value] if mask is None else [query, key, value, mask]
    if not (dropout or learned) or query.shape[1] != key.shape[1] or not _worthwhile(*tensors):
        return None
    if mask is None:
        mask = torch.zeros(1, 1, *query.shape[2:3], key.shape[2], dtype=query.dtype)
        if is_causal and query.shape[2] > 1:
            mask += torch.full_like(mask, -math.inf).triu_(1)
    elif mask.ndim != 4:
        return None
    elif mask.dtype == torch.bool:
        if not mask.any(-1).all():  # torch gives such a query a context of 0
            return None
        mask = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, -math.inf)
    return _Attention.apply(query, key, value, mask, scaling, dropout)
