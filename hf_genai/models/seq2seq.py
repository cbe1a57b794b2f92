"""What encoder-decoders share, and what all models ask of a layer or check in their input."""

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import Seq2SeqModelOutput
from transformers.utils import is_tracing

from .matmul import Linear, is_hooked
from .private_names import functorch_is_active, offload_of


def shift_tokens_right(labels: Tensor, pad_token_id: int, decoder_start_token_id: int) -> Tensor:
    """Return the decoder's input for given labels: the start token, then each label but the last.

    Args:
        labels: (B, T); -100 (ignored) becomes `pad_token_id`.

    Raises:
        ValueError: if one of the two token ids is None.
    """
    if pad_token_id is None or decoder_start_token_id is None:
        raise ValueError(
            "labels can only be shifted when the config has pad_token_id and decoder_start_token_id, not"
            f" {pad_token_id} and {decoder_start_token_id}"
        )
    shifted = labels.roll(1, dims=-1)
    shifted[..., 0] = decoder_start_token_id
    return shifted.masked_fill(shifted == -100, pad_token_id)


def seq2seq_outputs(outputs: Seq2SeqModelOutput) -> dict:
    """Return what a head hands on of the base model's outputs."""
    return {name: value for name, value in outputs.items() if name != "last_hidden_state"}


def weight_and_bias(linear: nn.Module, in_features: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Return the matrix (out, in) and the vector (out,) that a linear map applies.

    A plain `nn.Linear` hands out its parameters. Anything that took its place (a LoRA adapter, a quantised weight, one
    that accelerate keeps elsewhere and brings when it is called) or hooks into it (pruning and weight norm make the
    weight anew before each call) is asked what it does to the unit vectors, so that code which needs the matrix itself
    works with it too, gradients included.

    Args:
        in_features: how many numbers the map takes, where the caller knows. None: what the module says of itself; what
            PEFT trains in place of a head that shares the embeddings' matrix says its two sizes the wrong way round.
    """
    parameter = next(linear.parameters(), torch.empty(0))  # torch's quantised layers have none
    device, offload = parameter.device, offload_of(linear)
    if device.type == "meta" and offload is not None:
        device = offload.execution_device
    elif (
        type(linear) in (nn.Linear, Linear) and type(linear.weight) in (Tensor, nn.Parameter) and not is_hooked(linear)
    ):
        return linear.weight, linear.bias
    dtype = parameter.dtype if parameter.is_floating_point() else torch.get_default_dtype()
    size = size_of(linear, "in_features") if in_features is None else in_features
    unit = torch.eye(size, dtype=dtype, device=device)
    bias = linear(torch.zeros_like(unit[:1])).squeeze(0)
    return (linear(unit) - bias).T, bias


def size_of(module: nn.Module, name: str) -> int:
    """Return a size that a layer has as an attribute; an adapter (PEFT) has the layer somewhere inside."""
    if isinstance(module, (nn.Linear, nn.Embedding)):  # torch 2.9 cannot compile a union
        return getattr(module, name)
    return next(getattr(part, name) for part in module.modules() if hasattr(part, name))


def readable(x: Tensor) -> bool:
    """Whether the numbers of a tensor may be looked at.

    Not while a graph is recorded, nor where there are none, nor where `torch.vmap` shows one row for all.
    """
    return x.device.type != "meta" and not is_tracing(x) and not functorch_is_active()


def check_ids(name: str, ids: Tensor, vocab_size: int, numbers: bool = True) -> None:
    """Refuse token ids that the embedding table has no row for.

    Args:
        numbers: look at the ids, too; their shape is always looked at.

    Raises:
        ValueError: if `ids` is empty, no integer tensor, or holds an id outside 0 to vocab_size - 1.
    """
    if is_tracing(ids):
        return  # the sizes of a graph may be open
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} must be an integer tensor (torch.long), not {ids.dtype}")
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(f"{name} must be (batch, length) with at least one row and one token, not {tuple(ids.shape)}")
    if not numbers or not readable(ids):
        return
    low, high = (int(bound) for bound in ids.aminmax())
    if low < 0 or high >= vocab_size:
        raise ValueError(f"{name} must be from 0 to {vocab_size - 1} (the vocabulary), but came as {low} to {high}")


def check_shape(name: str, x: Tensor | None, *shapes: tuple[int, ...]) -> None:
    """Refuse a tensor that has none of the shapes.

    Raises:
        ValueError: with both.
    """
    if x is None or is_tracing(x):
        return  # the sizes of a graph may be open
    if tuple(x.shape) not in shapes:
        axes = "(batch, length) = " if name.endswith(("ids", "mask")) else ""
        allowed = " or ".join(map(str, dict.fromkeys(tuple(shape) for shape in shapes)))
        raise ValueError(f"{name} must be {axes}{allowed}, not {tuple(x.shape)}")


def check_mask(name: str, mask: Tensor | None, batch_size: int, length: int, whole: bool = True) -> Tensor | None:
    """Return the mask as bool (B, S), or None where none is given.

    Args:
        whole: of a whole text; a part of one may be padding alone.

    Raises:
        ValueError: if its shape does not fit, or a row is all padding (there would be nothing to read).
    """
    if mask is None:
        return None
    if mask.shape != (batch_size, length):
        raise ValueError(f"{name} must be (batch, length) = {(batch_size, length)}, not {tuple(mask.shape)}")
    mask = mask.bool()
    if whole and readable(mask) and not mask.any(dim=1).all():
        rows = (~mask.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"{name} is all padding in row {', '.join(map(str, rows[:5]))}: each row needs a real token")
    return mask
