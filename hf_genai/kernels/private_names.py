"""The private names of torch and accelerate that kernels use; `hf_genai/private_names.py` gives the reasons."""

from ..models.private_names import (
    forward_mode_is_active,
    functorch_is_active,
    hooks_of,
    hooks_on_all,
    linear_pointwise,
    onednn_takes_bfloat16,
    reorder_weight,
    softmax_backward,
    version_of,
)

__all__ = [
    "forward_mode_is_active",
    "functorch_is_active",
    "hooks_of",
    "hooks_on_all",
    "linear_pointwise",
    "onednn_takes_bfloat16",
    "reorder_weight",
    "softmax_backward",
    "version_of",
]
