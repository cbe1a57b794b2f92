"""Matrix products, by oneDNN or numpy where torch's default is slower.

In float32 on an AMD processor torch multiplies through MKL, which is 15 to 30 % slower there than oneDNN, and two to
three times slower than numpy's OpenBLAS where matrices are many and small. Torch's entry to oneDNN is private: it is
used only where it exists and has once given the right product, else torch.mm does the work.
"""

import functools
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fast_path import fast_path_allowed, needs_gradient, once_differentiable
from .private_names import hooks_of, hooks_on_all, linear_pointwise

# Below these rows and multiplications the call costs more than the better product brings.
SMALLEST_ROWS, SMALLEST_PRODUCT = 24, 2**22
# Up to these multiplications, fewer of a row or a column, a product is small: numpy's OpenBLAS is quicker than torch's
# MKL then, and stays in one thread. Of few numbers in all, calling it costs more than it brings.
LARGEST_SMALL, LARGEST_VECTOR, SMALLEST_BATCH = 2**18, 9 * 2**10, 2**16


@functools.cache
def _is_amd() -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            return "AuthenticAMD" in file.read()
    except OSError:
        return False


@functools.cache
def _onednn() -> Callable | None:
    """Torch's product through oneDNN, or None where it is missing, wrong or no better."""
    if not _is_amd():
        return None
    try:
        product = linear_pointwise()
        x, weight = torch.linspace(-1, 1, 96).view(4, 24), torch.linspace(-2, 1, 1536).view(24, 64)
        found = product(x, weight.t(), None, "none", [], "")
        return product if torch.allclose(found, x @ weight, atol=1e-5) else None
    except (AttributeError, RuntimeError, TypeError):
        return None


def _product(rows: int, y: Tensor) -> Callable | None:
    """oneDNN's product for `rows` rows times y, or None where torch.mm is as good."""
    if y.dtype != torch.float32 or y.device.type != "cpu" or not torch.backends.mkldnn.enabled:
        return None
    return _onednn() if rows >= SMALLEST_ROWS and rows * y.numel() >= SMALLEST_PRODUCT else None


def _multiply(product: Callable, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    # a slice of a larger matrix would send oneDNN to its reference kernel, a thousand times slower
    if not (y.is_contiguous() or y.t().is_contiguous()):
        y = y.contiguous()
    return product(x.contiguous(), y.t(), bias, "none", [], "")


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """x (N, K) @ y (K, M), outside autograd; both of one dtype."""
    product = _product(len(x), y)
    return torch.mm(x, y) if product is None else _multiply(product, x, y)


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad (N, M)^T @ x (N, K)."""
    # oneDNN is the faster one here only where what must be turned round for it is small
    turned = x.shape[1] >= 4 * grad.shape[1]
    return matmul(grad.t().contiguous(), x) if turned else torch.mm(grad.t(), x)


def adder(rows: int, y: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return f(total (rows, M), x (rows, K)) that adds x @ y to total, in place: for loops over the same y (K, M)."""
    product = _product(rows, y)
    if product is None:
        return lambda total, x: total.addmm_(x, y)
    transposed = y.contiguous().t()
    return lambda total, x: total.add_(product(x.contiguous(), transposed, None, "none", [], ""))


@functools.cache
def numpy_is_faster() -> bool:
    """Whether this is an AMD processor, and numpy multiplies by OpenBLAS."""
    built = np.show_config(mode="dicts") or {}
    return _is_amd() and "openblas" in str(built.get("Build Dependencies", {}).get("blas", {}).get("name"))


@functools.cache
def _numpy_has_one_thread() -> bool:
    return os.environ.get("OPENBLAS_NUM_THREADS", os.environ.get("OMP_NUM_THREADS")) == "1"


def _numpy_pays(x: Tensor, y: Tensor) -> bool:
    """Whether numpy is quicker than torch with many products x (..., N, K) @ y (..., K, M).

    It takes one after the other: with several threads torch is the better one.
    """
    if x.dtype != torch.float32 or y.dtype != x.dtype or x.device.type != "cpu" or torch.get_num_threads() > 1:
        return False
    rows, columns = x.shape[-2], y.shape[-1]
    largest = LARGEST_SMALL if min(rows, columns) > 1 or _numpy_has_one_thread() else LARGEST_VECTOR
    small = rows * y.shape[-2] * columns <= largest and max(x.numel(), y.numel()) >= SMALLEST_BATCH
    return small and numpy_is_faster()


def numpy_product(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """x (..., N, K) @ y (..., K, M) in `out`; as silent about NaN as torch."""
    with np.errstate(all="ignore"):
        np.matmul(x, y, out=out)


def batched_product(x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    """x (..., N, K) @ y (..., K, M), outside autograd, in `out` if that is given."""
    if _numpy_pays(x, y):
        if out is None:
            out = x.new_empty(*x.shape[:-1], y.shape[-1])
        numpy_product(x.detach().numpy(), y.detach().numpy(), out.numpy())
        return out
    if out is None:
        return x @ y
    if out.is_contiguous():
        torch.bmm(*(matrices.flatten(0, -3) for matrices in (x, y)), out=out.flatten(0, -3))
        return out
    return out.copy_(x @ y)


class _Split(torch.autograd.Function):
    """torch.split of the last axis. Gradients that lie side by side already, as those of attention, are not copied."""

    @staticmethod
    def forward(ctx, x, sizes):
        ctx.sizes, ctx.shape = sizes, x.shape
        return x.split(sizes, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        first, strides = grads[0], torch.empty(ctx.shape, device="meta").stride()
        place = first.storage_offset()
        for grad, size in zip(grads, ctx.sizes, strict=True):
            here = grad.storage_offset() == place and grad.stride() == strides
            if not here or grad.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
                return torch.cat(grads, -1), None
            place += size
        return first.as_strided(ctx.shape, strides), None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _multiply(_onednn(), x, weight.t(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            matmul(grad, weight) if needs_x else None,
            _weight_gradient(grad, x) if needs_weight else None,
            torch.mv(grad.t(), grad.new_ones(len(grad))) if needs_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch.nn.functional.linear, faster where `matmul` is.

    Args:
        x: (..., K).
        weight: (M, K).
        bias: (M,) or None.
    """
    rows = x.numel() // x.shape[-1]
    if x.device.type != "cpu" or not fast_path_allowed(x, weight, bias):
        return F.linear(x, weight, bias)
    # torch takes three dimensions for a batched product, five times slower for one row, so rows are rows here
    flat, shape = x.reshape(rows, x.shape[-1]), (*x.shape[:-1], len(weight))
    large = max(rows, 2) * weight.numel() >= SMALLEST_PRODUCT and weight.dtype == torch.float32
    if not large or (product := _onednn()) is None:
        return F.linear(flat, weight, bias).view(shape)
    if needs_gradient(x, weight, bias):
        return _Linear.apply(flat, weight, bias).view(shape)
    return _multiply(product, flat, weight.t(), bias).view(shape)


class Linear(nn.Linear):
    """torch.nn.Linear through `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def together(x: Tensor, *maps: nn.Module) -> Tensor | None:
    """What linear maps of one input (..., K) give, side by side, by one product: in training on a CPU it is faster.

    None where that does not pay, or where anything but the maps' own parameters might have a say (adapters, quantised
    layers, hooks).
    """
    if x.device.type != "cpu" or not all(type(m) is Linear and not is_hooked(m) for m in maps):
        return None
    weights, biases = [m.weight for m in maps], [m.bias for m in maps if m.bias is not None]
    if len(biases) not in (0, len(maps)) or not needs_gradient(x, *weights) or not fast_path_allowed(x, *weights):
        return None
    return linear(x, torch.cat(weights), torch.cat(biases) if biases else None)


def project(x: Tensor, *maps: nn.Module) -> Sequence[Tensor]:
    """What each of several linear maps makes of one input (..., K)."""
    joined = together(x, *maps)
    if joined is None:
        return [m(x) for m in maps]
    return _Split.apply(joined, [len(m.weight) for m in maps])


def is_hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its own forward: a hook, or another forward in its place."""
    return any(hooks_of(module)) or "forward" in vars(module) or hooks_on_all()
