"""The private names of torch, transformers and accelerate that the models use, each with its reason.

A release may move any of them without notice: no other file of this folder uses one. What transformers asks a model
class to declare (`DECLARED`) starts with an underscore too, but is documented.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

# where it is found -> why, and what to do when it is gone
NAMES = {
    "torch.Tensor._version": (
        "tells whether a weight changed in place since it was packed. Gone: compare sums of the weights"
    ),
    **dict.fromkeys(
        (
            "torch.ops.mkldnn._linear_pointwise",
            "torch.ops.mkldnn._reorder_linear_weight",
            "torch.ops.mkldnn._is_mkldnn_bf16_supported",
        ),
        "oneDNN's product with an activation drawn in, its layout of weights, and whether it takes bfloat16. Gone: "
        "nothing to do, `packing_works` and `matmul` ask first and fall back on torch's own product",
    ),
    "torch.ops.aten._softmax_backward_data": (
        "the gradient of softmax in one pass. Gone: (grad - (grad * weights).sum(-1, keepdim=True)) * weights"
    ),
    "torch._C._are_functorch_transforms_active": (
        "under vmap and grad of torch.func numbers cannot be looked at. Gone: test for their tensors, which print so"
    ),
    "torch.autograd.forward_ad._current_level": (
        "kernels have no derivative in forward mode. Gone: `forward_ad.unpack_dual` of each input"
    ),
    **dict.fromkeys(
        (
            "torch.nn.Module.register_forward_hook:_forward_hooks",
            "torch.nn.Module.register_forward_pre_hook:_forward_pre_hooks",
            "torch.nn.Module.register_full_backward_hook:_backward_hooks",
            "torch.nn.Module.register_full_backward_pre_hook:_backward_pre_hooks",
            "torch.nn.modules.module._has_any_global_hook",
        ),
        "a kernel may not stand in for a module that somebody watches. Gone: see what Module.__call__ asks",
    ),
    "transformers.PreTrainedConfig._attn_implementation": (
        "which attention a model runs; it can be set in public, but not read. Gone: find what "
        "`set_attn_implementation` writes"
    ),
    "transformers.PreTrainedModel._check_and_adjust_attn_implementation": (
        "the one place that every choice of attention passes. Gone: check in __init__ and set_attn_implementation"
    ),
    **dict.fromkeys(
        ("transformers.PreTrainedModel._get_resized_embeddings", "transformers.PreTrainedModel._get_resized_lm_head"),
        "resize one of two embedding tables, and its head; the public method knows one table. Gone: copy rows by hand",
    ),
    "transformers.generation.GenerationMixin._prefill": (
        "reads prompts in parts. Gone: see how generate() uses prefill_chunk_size"
    ),
    "transformers.generation.GenerationMixin._prepare_position_ids_for_generation": (
        "counts positions from 0, where RoBERTa's begin later. Gone: do it in prepare_inputs_for_generation"
    ),
    "transformers.modeling_utils.PreTrainedModel._initialize_weights:_is_hf_initialized": (
        "the mark of parameters that a checkpoint filled, which views of them lack. Gone: see what "
        "transformers.initialization asks"
    ),
    "accelerate.hooks.add_hook_to_module:_hf_hook": (
        "tells where accelerate runs a module whose weights are elsewhere. Gone: see accelerate.hooks"
    ),
}

# class -> what its documentation asks subclasses to declare
DECLARED = {
    "transformers.PreTrainedModel": (
        *("_no_split_modules", "_skip_keys_device_placement", "_tied_weights_keys", "_can_record_outputs"),
        *("_supports_sdpa", "_supports_flash_attn", "_supports_flex_attn", "_supports_attention_backend"),
        *("_can_compile_fullgraph", "_supports_context_parallel", "_init_weights"),
        *("_tp_plan", "_pp_plan", "_fsdp_plan"),
    ),
    "transformers.PreTrainedConfig": ("_auto_class",),
    "transformers.CacheLayerMixin": ("_layer_type",),
}


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


def is_filled(parameter: Tensor) -> bool:
    """Return whether a checkpoint has filled the parameter."""
    return getattr(parameter, "_is_hf_initialized", False)


def attention_of(config: Any) -> str | None:
    """Return the name of the attention that a model with this configuration runs."""
    return config._attn_implementation


def resized_embeddings(model: Any, *args: Any) -> nn.Embedding:
    """Return embeddings of another size; args: old ones, size, multiple of, whether new rows are near the mean."""
    return model._get_resized_embeddings(*args)


def resized_head(model: Any, head: nn.Linear, size: int) -> nn.Linear:
    """Return a head for another vocabulary."""
    return model._get_resized_lm_head(head, size)


class AttentionHook:
    """Stands before PreTrainedModel in a class's bases, and gives what it overrides a public name."""

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        chosen = self.choose_attention(attn_implementation)
        return super()._check_and_adjust_attn_implementation(chosen, *args, **kwargs)  # type: ignore[misc]

    def choose_attention(self, attn_implementation: str | None) -> str | None:
        """Return the attention to run in the place of the one asked for; raise ValueError for what cannot be."""
        return attn_implementation


class GenerationHooks:
    """Stands before GenerationMixin in a class's bases, and gives what it overrides public names."""

    first_position = 0  # of a text

    def _prefill(self, input_ids: Tensor, generation_config: Any, model_kwargs: dict[str, Any], **kwargs: Any) -> Any:
        self.before_prefill(generation_config, model_kwargs)
        return super()._prefill(input_ids, generation_config, model_kwargs, **kwargs)  # type: ignore[misc]

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        positions = super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)  # type: ignore[misc]
        return positions + self.first_position if self.first_position else positions

    def before_prefill(self, generation_config: Any, model_kwargs: dict[str, Any]) -> None:
        """See what generate() was given, before it reads the prompt."""
