"""The private names of other libraries that the tests use where no public one does: no other test may use one."""

import accelerate.commands.launch
import torch
import transformers.modeling_flash_attention_utils as flash
from torch.utils._python_dispatch import TorchDispatchMode  # sees each operation; documented for that, under this name
from transformers.models.t5.modeling_t5 import T5Attention

__all__ = [
    "TorchDispatchMode",
    "attend_by_flash",
    "beam_search",
    "flash_kernels",
    "launch_arguments",
    "relative_position_buckets",
]


def beam_search(model):
    """Return transformers' beam search itself: generate() takes another for a beam of one."""
    return type(model)._beam_search


def launch_arguments(options: list[str]):
    """Return what `accelerate launch` makes of its options: there is no other way but to start it."""
    parser = accelerate.commands.launch.launch_command_parser()
    return accelerate.commands.launch._validate_launch_command(parser.parse_args(options))[0]


def flash_kernels(monkeypatch, dense, of_texts) -> None:
    """Put functions of ours in the place of FlashAttention's kernels, which need a GPU."""
    found = dense, of_texts, None, flash._pad_input, flash._unpad_input
    monkeypatch.setattr(flash, "_lazy_imports", lambda *args, **kwargs: found)
    monkeypatch.setattr(flash, "_loaded_implementation", None)


def attend_by_flash(model) -> None:
    """Choose FlashAttention where it is not installed, which transformers refuses."""
    model.config._attn_implementation = "flash_attention_2"


def relative_position_buckets(distances: torch.Tensor, bidirectional: bool, buckets: int, farthest: int):
    """Return T5's buckets, which its layer computes from distances that it makes itself."""
    return T5Attention._relative_position_bucket(distances, bidirectional, buckets, farthest)
