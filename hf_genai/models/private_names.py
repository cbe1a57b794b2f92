"""Private names that the kernels use, on their way to `hf_genai/kernels/`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place."""
    return tensor._version


def linear_pointwise() -> Callable:
    """Return oneDNN's product: (x, packed or plain weight, bias, activation, scalars, variant) -> activation(...).

    Raises:
        AttributeError: if this torch has none.
    """
    return torch.ops.mkldnn._linear_pointwise.default


def reorder_weight(weight: Tensor, rows: int) -> Tensor:
    """Return a weight laid out by oneDNN for that many rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def onednn_takes_bfloat16() -> bool:
    """Return whether oneDNN's products take bfloat16 on this CPU."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def softmax_backward(grad: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the gradient of the scores whose softmax over the last axis is `weights`."""
    return torch.ops.aten._softmax_backward_data(grad, weights, -1, dtype)


def functorch_is_active() -> bool:
    """Return whether a transform of torch.func is at work."""
    return torch._C._are_functorch_transforms_active()


def forward_mode_is_active() -> bool:
    """Return whether derivatives in forward mode are taken."""
    return forward_ad._current_level >= 0


def hooks_of(module: nn.Module) -> tuple[dict, ...]:
    """Return the module's hooks: before and after its forward and its backward."""
    return module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks


def hooks_on_all() -> bool:
    """Whether somebody watches every call of every module (`register_module_forward_hook`)."""
    return bool(nn.modules.module._has_any_global_hook())


def offload_of(module: nn.Module) -> Any:
    """Return what brings the weights that accelerate keeps elsewhere, or None."""
    return getattr(module, "_hf_hook", None)
