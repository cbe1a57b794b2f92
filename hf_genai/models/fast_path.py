"""When a hand-written kernel may stand in for the plain loop beside it.

Every kernel of this library has a plain twin that computes the same with ordinary autograd. The kernels are
`torch.autograd.Function`s on buffers that they fill in place: right for eager training, useless to tracers, and
without a second derivative.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import torch
from torch import Tensor

from .private_names import forward_mode_is_active, functorch_is_active

_plain = 0  # uses of `plain_kernels` that are under way, in all threads together


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Run the plain loops only, in all threads: for second derivatives, or to compare a kernel with its plain twin."""
    global _plain
    _plain += 1
    try:
        yield
    finally:
        _plain -= 1


def turn_off_kernels() -> None:
    """Run the plain loops only, in all threads, for the rest of the process."""
    global _plain
    _plain += 1


class _Refuse(torch.autograd.Function):
    """Gradients as they are, which cannot be differentiated."""

    @staticmethod
    def forward(ctx, *grads):
        return grads

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(
            "this gradient was made by a kernel, which has no second derivative: run the forward pass within"
            f" `{__name__}.plain_kernels()`"
        )


def once_differentiable(backward: Callable) -> Callable:
    """As torch's, with an error that says what helps, and also at the end of a graph.

    There torch's own takes what comes in, the 1 that is the gradient of a loss, for all that the gradient depends on:
    it hands out constants, and a penalty on them would silently do nothing.
    """

    @wraps(backward)
    def refused_twice(ctx, *grads):
        with torch.no_grad():
            found = backward(ctx, *grads)
        if not torch.is_grad_enabled():
            return found
        found = found if isinstance(found, tuple) else (found,)
        return _Refuse.apply(*(None if grad is None else grad.detach().requires_grad_() for grad in found))

    return refused_twice


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for a gradient of any of these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def fast_path_allowed(*tensors: Tensor | None, any_dtype: bool = False) -> bool:
    """Whether a kernel is right for these inputs.

    No for compilers, tracers, functorch transforms, forward-mode derivatives and tensor subclasses (they want plain
    operations) and on the meta device. Kernels that do not see to precision themselves (any_dtype=False) also refuse
    half precision, as they keep sums over time in the input's dtype, and autocast, which they would hide from.
    """
    if _plain or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if functorch_is_active() or forward_mode_is_active():
        return False
    given = [t for t in tensors if t is not None]
    device, dtype = given[0].device, given[0].dtype
    if device.type == "meta" or any(type(t) not in (Tensor, torch.nn.Parameter) or t.device != device for t in given):
        return False
    if any_dtype:
        return True
    return (
        dtype in (torch.float32, torch.float64)
        and all(t.dtype in (dtype, torch.bool) for t in given)
        and not torch.is_autocast_enabled(device.type)
    )
