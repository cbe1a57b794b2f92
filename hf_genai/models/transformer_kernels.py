"""Kernels of the Transformers: the small things around the matrix products, with a hand-written backward.

On a CPU they take a fifth of a training step, mostly in passes over memory that torch's own operators repeat. Each
function here computes what the plain one that its docstring names does, and calls that one wherever a kernel would be
wrong (see fast_path.py).

Shapes: B batch, T length, D hidden size, H heads, E head size.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random.bit_generator import ISeedSequence
from torch import Tensor, nn

from .fast_path import fast_path_allowed, needs_gradient, once_differentiable

# Floats that stay in a core's own cache while a few operations pass over them one after the other.
BLOCK = 2**16


def on_cpu(*tensors: Tensor, any_dtype: bool = False) -> bool:
    """Whether a kernel is right, and the tensors are on a CPU, where passes cost most."""
    return tensors[0].device.type == "cpu" and fast_path_allowed(*tensors, any_dtype=any_dtype)


def worthwhile(*tensors: Tensor) -> bool:
    """Whether a kernel is right, and the tensors are to be differentiated on a CPU."""
    return needs_gradient(*tensors) and on_cpu(*tensors)


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the rows of matrices of one shape, block by block."""
    rows = max(1, BLOCK // tensors[0].shape[1])
    for start in range(0, len(tensors[0]), rows):
        yield tuple(tensor[start : start + rows] for tensor in tensors)


def _flat(x: Tensor) -> Tensor:
    """Return x as one column, for what does not care about its shape."""
    return x.reshape(-1, 1)


# Dropout -------------------------------------------------------------------------------------------------------------


class _SeedFromTorch(ISeedSequence):
    def generate_state(self, n_words, dtype=np.uint32):
        return torch.empty(n_words, dtype=torch.int64).random_(-(2**63), None).numpy().view(dtype)[:n_words]


class Coins:
    """Decides for many numbers which are dropped, by 16 random bits each.

    numpy makes those in half of torch's time, from a seed that torch's generator draws. The probability is rounded to
    1 / 65536, and `factor`, which keeps the mean of what stays, is exact for the rounded one.
    """

    def __init__(self, probability: float):
        self.dropped = min(round(probability * 65536), 65535)
        self.factor = 65536 / (65536 - self.dropped)
        self.generator = np.random.SFC64(_SeedFromTorch())

    def draw(self, shape: torch.Size) -> np.ndarray:
        words = self.generator.random_raw(-(-shape.numel() // 4)).view(np.uint16)
        return words[: shape.numel()].reshape(shape)

    def keep(self, out: Tensor) -> Tensor:
        """Write into a tensor of bools which numbers stay."""
        np.greater_equal(self.draw(out.shape), self.dropped, out=out.numpy())
        return out

    def margins(self, shape: torch.Size) -> Tensor:
        """Return numbers (float32), those below 0 for what is dropped."""
        return torch.from_numpy(np.subtract(self.draw(shape), self.dropped, dtype=np.float32))


def masked(x: Tensor, keep: Tensor, out: Tensor) -> Tensor:
    """x * keep (bool) in `out`, outside autograd."""
    return torch.mul(x, keep.view(torch.uint8).to(x.dtype), out=out)  # torch turns bools into numbers slowly


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, residual, probability):
        coins, flat = Coins(probability), _flat(x)
        ctx.residual, ctx.factor = residual is not None, coins.factor
        result, mask = torch.empty_like(flat), torch.empty(flat.shape, dtype=torch.bool)
        for row, other, kept, out in _blocks(flat, _flat(residual) if ctx.residual else flat, mask, result):
            masked(row, coins.keep(kept), out)
            if ctx.residual:
                torch.add(other, out, alpha=ctx.factor, out=out)
            else:
                out.mul_(ctx.factor)
        ctx.save_for_backward(mask)
        return result.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (mask,) = ctx.saved_tensors
        flat = _flat(grad)
        result = torch.empty_like(flat)
        for given, kept, out in _blocks(flat, mask, result):
            masked(given, kept, out).mul_(ctx.factor)
        return result.view(grad.shape), grad if ctx.residual else None, None


class Dropout(nn.Dropout):
    """torch.nn.Dropout with random bits that cost a third, and a sum with a residual of the input's shape.

    It drops the same with and without gradients: the second run of a checkpoint has to drop what the first one did.
    """

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        alike = residual is None or (residual.dtype == input.dtype and residual.shape == input.shape)
        tensors = (input,) if residual is None else (input, residual)
        drops = self.training and 0 < self.p < 1 and not self.inplace
        if drops and alike and on_cpu(*tensors, any_dtype=True):
            return _Dropout.apply(input, residual, self.p)
        dropped = super().forward(input)
        return dropped if residual is None else residual + dropped


class _DroppedRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, probability):
        coins, flat = Coins(probability), _flat(x)
        ctx.factor = coins.factor
        result = torch.empty_like(flat)
        for row, out in _blocks(flat, result):
            kept = torch.empty(row.shape, dtype=torch.bool)
            masked(row, coins.keep(kept), out).clamp_min_(0).mul_(ctx.factor)
        ctx.save_for_backward(result)
        return result.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        # what was dropped is 0, as what was negative: no mask is needed
        (result,) = ctx.saved_tensors
        flat = _flat(grad)
        found = torch.empty_like(flat)
        for given, row, out in _blocks(flat, result, found):
            torch.ops.aten.threshold_backward.grad_input(given, row, 0, grad_input=out).mul_(ctx.factor)
        return found.view(grad.shape), None


def dropped_relu(x: Tensor, dropout: nn.Dropout) -> Tensor:
    """dropout(relu(x)), which keeps no mask."""
    drops = type(dropout) is Dropout and dropout.training and 0 < dropout.p < 1
    return _DroppedRelu.apply(x, dropout.p) if drops and on_cpu(x) else dropout(F.relu(x))


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
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        if torch.jit.is_tracing() and self.weight is not None and len(self.normalized_shape) == 1:
            # TorchScript's ONNX exporter knows no operator of that name
            scale = x.float().square().mean(-1, keepdim=True).add(eps).rsqrt()
            return (x * scale).to(x.dtype) * self.weight
        if self.weight is None or len(self.normalized_shape) != 1 or not worthwhile(x, self.weight):
            return super().forward(x)
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
    if not worthwhile(x):
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
    if worthwhile(both) and activation in _BACKWARD:
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
    if cos.requires_grad or sin.requires_grad or not worthwhile(vectors, cos, sin):
        return None
    return _Rotate.apply(vectors, cos, sin)
