"""What every model here shares: how `forward` is called, checks of its input, and the base class that saves code.

transformers 5.24 calls `cache` what was `past_key_values` before. The models here say `cache`, take both, give both.
A keyword that nobody reads is an error, so that the next renaming is loud.
"""

import difflib
import os
from collections.abc import Callable, Iterable
from functools import wraps
from inspect import Parameter, signature
from typing import Any, NoReturn, TypeVar, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, modeling_outputs
from transformers.cache_utils import Cache
from transformers.dynamic_module_utils import custom_object_save
from transformers.masking_utils import create_causal_mask
from transformers.modeling_flash_attention_utils import FlashAttentionKwargs
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import TransformersKwargs, is_tracing

from .matmul import Linear, is_hooked
from .private_names import functorch_is_active, offload_of

OLD_NAME = "past_key_values"
# what the installed transformers calls it
CACHE_NAME = "cache" if "cache" in signature(create_causal_mask).parameters else OLD_NAME

# what transformers, Trainer, PEFT and Accelerate may hand to any model
KNOWN = {*TransformersKwargs.__annotations__, *FlashAttentionKwargs.__annotations__, "return_dict", "use_cache"}
KNOWN |= {"debug_io", "debug_io_dir", "prune_layers"}  # transformers' debugger
KNOWN |= {"read_index", "write_index", "block_table", "logits_indices", "logits_processor_args"}  # its paged attention
KNOWN |= {"tokenizer", "assistant_tokenizer"}  # generate(), given them for stop strings, leaves them in each step
# what every attention function is given, before its own arguments
GIVEN = {"module", "query", "key", "value", "attention_mask", "dropout", "scaling", "kwargs"}

# what the tensors among the arguments hold
WHOLE = ("input_ids", "decoder_input_ids", "token_type_ids", "position_ids", "decoder_position_ids", "shift_labels")
WHOLE += ("start_positions", "end_positions", "next_sentence_label")
VECTORS = ("inputs_embeds", "decoder_inputs_embeds", "encoder_hidden_states")
MASKS = ("attention_mask", "decoder_attention_mask", "encoder_attention_mask")
TENSORS = {*WHOLE, *VECTORS, *MASKS, "labels"}
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

Forward = TypeVar("Forward", bound=Callable)


class StackKwargs(TransformersKwargs, total=False):
    """What a stack of Transformer layers takes beside the arguments of its `forward`.

    Args:
        unpad: leave padding out, or do not. None: where nobody can tell and it pays.
        wanted: bool (B, T), the places that are read off; what the others give may be 0.
        skip_logits: read by heads alone, which pipeline parallelism goes round.
    """

    skip_logits: bool | None
    unpad: bool | None
    wanted: Tensor | None


class EncoderKwargs(StackKwargs, total=False):
    """What an encoder takes: generate() hands it what is for the decoder, too, and Trainer generate() the labels."""

    cache: Cache | None
    past_key_values: Cache | None
    labels: Tensor | None
    logits_to_keep: int | Tensor


def cache_field(cache: Cache | None) -> dict[str, Any]:
    """Return a cache as a keyword argument for anything of transformers."""
    return {CACHE_NAME: cache}


def cache_of(given: Any) -> Any:
    """Return the cache among a model's outputs or among arguments that transformers made; None without one."""
    return given.get(CACHE_NAME)


def renamed(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return keyword arguments in which the cache, given under either name, is under this one.

    Raises:
        ValueError: if there are two.
    """
    other = OLD_NAME if name == "cache" else "cache"
    if other not in kwargs:
        return kwargs
    kwargs = dict(kwargs)
    cache = kwargs.pop(other)
    if cache is not None and kwargs.get(name) is not None:
        raise ValueError("cache and past_key_values are two names of one argument: give one of them")
    if cache is not None or name not in kwargs:
        kwargs[name] = cache
    return kwargs


def either_name(forward: Forward) -> Forward:
    """Let a layer's `forward(..., cache)` take the cache as past_key_values, too."""

    @wraps(forward)
    def with_cache(self, *args, **kwargs):
        return forward(self, *args, **renamed("cache", kwargs))

    return with_cache  # type: ignore[return-value]


def as_read(name: str, value: Any) -> Any:
    """Return an argument of a `forward` as models read it: whole numbers in int64, all else as it came.

    Raises:
        ValueError: if it is no tensor, or one of numbers that mean nothing there.
    """
    if value is None or name not in TENSORS:
        return value
    if not isinstance(value, Tensor):
        if type(value).__module__.startswith("torch."):  # a mask of flex attention; what stands for tensors in a graph
            return value
        raise ValueError(f"{name} must be a tensor, not {str(value):.60}")
    if value.dtype in INTEGERS and name not in VECTORS:
        return value if value.dtype == torch.int64 or name in MASKS else value.long()
    if name in WHOLE:
        raise ValueError(f"{name} must be an integer tensor (torch.long), not {value.dtype}")
    if not (value.is_floating_point() or (name in MASKS and value.dtype == torch.bool)):
        wanted = "true or false" if name in MASKS else "whole numbers" if name == "labels" else "vectors"
        raise ValueError(f"{name} must hold {wanted} or floating point numbers, not {value.dtype}")
    return value


def known_keywords(forward: Forward, hands_on: bool = False) -> Forward:
    """Let a model's `forward` take the cache under either name, and refuse keywords that nobody reads.

    Known are its own arguments and those that the type of its kwargs names, and what an attention function that the
    user registered has among its arguments.

    Args:
        hands_on: of a head that hands its kwargs on to a base model (`self.model`), whose keywords are known, too.

    Raises:
        TypeError: at a call with another keyword; it names the nearest known one.
    """
    arguments = signature(forward).parameters
    known = {*KNOWN, *arguments}
    for argument in arguments.values():
        if argument.kind is argument.VAR_KEYWORD:
            known.remove(argument.name)
            known.update(*(kind.__annotations__ for kind in get_args(argument.annotation)))
    takes_cache = "cache" in arguments
    places = tuple(arguments)[1:]  # behind self

    def besides(model: Any) -> set[str]:
        base = getattr(type(model.model).forward, "keywords", ()) if hands_on else ()
        attention = ALL_ATTENTION_FUNCTIONS.get(attention_of(model.config))
        if attention is None or attention.__module__.startswith("transformers."):
            return {*known, *base}
        return {*known, *base, *signature(attention).parameters} - (GIVEN - known)

    @wraps(forward)
    def checked(self, *args, **kwargs):
        if isinstance(kwargs.get("kwargs"), dict):  # transformers' pipeline parallelism hands them on by that name
            kwargs |= kwargs.pop("kwargs")
        if takes_cache:
            kwargs = renamed("cache", kwargs)
        for name in kwargs:
            if name not in known and name not in besides(self):
                refuse(self, name, besides(self))
            kwargs[name] = as_read(name, kwargs[name])
        read = (as_read(name, value) for name, value in zip(places, args, strict=False))
        return forward(self, *read, *args[len(places) :], **kwargs)

    if takes_cache:  # PEFT looks among the arguments for the old name
        old = Parameter(OLD_NAME, Parameter.KEYWORD_ONLY, default=None, annotation=Cache | None)
        *own, last = arguments.values()
        seen = (*own, old, last) if last.kind is last.VAR_KEYWORD else (*own, last, old)
        checked.__signature__ = signature(forward).replace(parameters=seen)  # type: ignore[attr-defined]
        known.add(OLD_NAME)
    checked.keywords = known  # type: ignore[attr-defined]
    return checked  # type: ignore[return-value]


def refuse(model: Any, name: str, known: Iterable[str]) -> NoReturn:
    """Say that nobody reads a keyword, and which one may have been meant."""
    nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]
    raise TypeError(f"{type(model).__name__} has no argument {name!r}; the nearest one that it reads is {nearest!r}")


class ReadByBothNames:
    """Before a kind of dict that holds the cache under its old name: gives it under the new one, too."""

    def __getitem__(self, key):
        return super().__getitem__(OLD_NAME if key == "cache" else key)  # type: ignore[misc]

    def __contains__(self, key):
        return super().__contains__(OLD_NAME if key == "cache" else key)  # type: ignore[misc]

    def get(self, key, default=None):
        return super().get(OLD_NAME if key == "cache" else key, default)  # type: ignore[misc]


class StepInputs(ReadByBothNames, dict):
    """What a step of generation is called with. PEFT looks in it for the old name, whatever the release."""


if CACHE_NAME == OLD_NAME:

    class BothNames(ReadByBothNames):
        """Before an output class of transformers. Those of later releases give the cache by both names themselves."""

        @property
        def cache(self) -> Cache | None:
            return self.past_key_values  # type: ignore[attr-defined]

else:

    class BothNames:  # type: ignore[no-redef]
        """Nothing to add."""


class BaseModelOutputWithPast(BothNames, modeling_outputs.BaseModelOutputWithPast):
    __doc__ = modeling_outputs.BaseModelOutputWithPast.__doc__


class BaseModelOutputWithPastAndCrossAttentions(BothNames, modeling_outputs.BaseModelOutputWithPastAndCrossAttentions):
    __doc__ = modeling_outputs.BaseModelOutputWithPastAndCrossAttentions.__doc__


class BaseModelOutputWithPoolingAndCrossAttentions(
    BothNames, modeling_outputs.BaseModelOutputWithPoolingAndCrossAttentions
):
    __doc__ = modeling_outputs.BaseModelOutputWithPoolingAndCrossAttentions.__doc__


class CausalLMOutputWithPast(BothNames, modeling_outputs.CausalLMOutputWithPast):
    __doc__ = modeling_outputs.CausalLMOutputWithPast.__doc__


class CausalLMOutputWithCrossAttentions(BothNames, modeling_outputs.CausalLMOutputWithCrossAttentions):
    __doc__ = modeling_outputs.CausalLMOutputWithCrossAttentions.__doc__


class Seq2SeqModelOutput(BothNames, modeling_outputs.Seq2SeqModelOutput):
    __doc__ = modeling_outputs.Seq2SeqModelOutput.__doc__


class Seq2SeqLMOutput(BothNames, modeling_outputs.Seq2SeqLMOutput):
    __doc__ = modeling_outputs.Seq2SeqLMOutput.__doc__


class Seq2SeqSequenceClassifierOutput(BothNames, modeling_outputs.Seq2SeqSequenceClassifierOutput):
    __doc__ = modeling_outputs.Seq2SeqSequenceClassifierOutput.__doc__


class Seq2SeqQuestionAnsweringModelOutput(BothNames, modeling_outputs.Seq2SeqQuestionAnsweringModelOutput):
    __doc__ = modeling_outputs.Seq2SeqQuestionAnsweringModelOutput.__doc__


class SequenceClassifierOutputWithPast(BothNames, modeling_outputs.SequenceClassifierOutputWithPast):
    __doc__ = modeling_outputs.SequenceClassifierOutputWithPast.__doc__


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


class GenaiPreTrainedModel(PreTrainedModel):
    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        chosen = self.choose_attention(attn_implementation)
        return super()._check_and_adjust_attn_implementation(chosen, *args, **kwargs)

    def choose_attention(self, attn_implementation: str | None) -> str | None:
        """Return the attention implementation to run when this one is asked for; ValueError for an impossible one."""
        return attn_implementation

    def save_pretrained(self, save_directory, is_main_process: bool = True, **kwargs):
        """As in transformers, with the code beside the weights and named for every Auto class of the family.

        `register_for_auto_class` would name this class alone, and cost each step of `generate()` a look at signatures.
        """
        heads = self.config.auto_classes
        if type(self).__name__ in heads.values():
            module = type(self).__module__.rsplit(".", 1)[-1]
            self.config.auto_map = {auto_class: f"{module}.{name}" for auto_class, name in heads.items()}
            if is_main_process and not os.path.isfile(save_directory):
                os.makedirs(save_directory, exist_ok=True)
                custom_object_save(self, save_directory)
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
