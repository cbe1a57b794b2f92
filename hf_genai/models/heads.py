"""What stands on top of a model: the scores over a vocabulary with their loss, and the checks of labels.

Shapes: B batch, T length, D hidden size, V vocabulary.
"""

import math
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.utils import TransformersKwargs, is_tracing
from transformers.utils.generic import can_return_tuple

from .base import (
    CACHE_NAME,
    OLD_NAME,
    GenerationHooks,
    StepInputs,
    as_read,
    cache_of,
    check_ids,
    check_mask,
    check_shape,
    known_keywords,
    readable,
    renamed,
    weight_and_bias,
)
from .linear_cross_entropy import cross_entropy, linear_cross_entropy
from .matmul import Linear, is_hooked
from .token_step import step_of


def head_forward(forward: Callable) -> Callable:
    """As transformers' `can_return_tuple`, for a head that hands its kwargs on to a base model.

    Its outputs come by name, also where `config.return_dict=False` makes a tuple of what the head itself returns.
    """

    @can_return_tuple
    @wraps(forward)
    def with_named_outputs(self, *args, **kwargs):
        return forward(self, *args, **kwargs, return_dict=True)

    return known_keywords(with_named_outputs, hands_on=True)


class LanguageModelKwargs(TransformersKwargs, total=False):
    """What a language model takes beside the arguments of its `forward`.

    Trainer takes every argument of `forward` with "label" in its name for something that each batch must have to be
    evaluated; so these are not among them.

    Args:
        shift_labels: of causal models: (B, T), the labels shifted already.
        label_smoothing: share of the probability that the target spreads over the vocabulary, 0 to 1 (Szegedy et al.
            2016, arXiv:1512.00567, section 7).
    """

    shift_labels: Tensor | None
    label_smoothing: float


def loss_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take out of the kwargs of a `forward` what is for the loss alone."""
    return {name: kwargs.pop(name) for name in ("num_items_in_batch", "label_smoothing") if name in kwargs}


class MeanOverRows:
    """For heads whose loss is a mean over rows, whatever number of items the batches of a step hold together."""

    accepts_loss_kwargs = False  # so Trainer divides the loss by the batches that it accumulates


# options of generate() -> least and highest whole number; None in a configuration is transformers' default
COUNTS = {
    **{"num_beams": (1, 2**12), "num_return_sequences": (1, 2**16), "max_new_tokens": (1, 2**28)},
    **dict.fromkeys(("max_length", "min_length", "min_new_tokens"), (0, 2**28)),
    **dict.fromkeys(("top_k", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), (0, 2**31)),
}
GENERATE = signature(GenerationMixin.generate)
NUMBERS = ("temperature", "top_p", "min_p", "typical_p", "length_penalty", "repetition_penalty", "epsilon_cutoff")
NUMBERS += ("eta_cutoff",)
SWITCHES = ("do_sample", "use_cache", "renormalize_logits")
TOKEN_IDS = ("forced_bos_token_id", "forced_eos_token_id", "decoder_start_token_id")
LISTS = ("suppress_tokens", "begin_suppress_tokens")


def check_prompt(ids: Tensor, given: dict[str, Any]) -> None:
    """Refuse a prompt that is no (batch, length), and a mask that does not fit it."""
    mask = given.get("attention_mask")
    if ids.ndim != 2:
        raise ValueError(f"input_ids must be (batch, length), not {tuple(ids.shape)}")
    if given.get("inputs_embeds") is not None:
        return
    if 0 in ids.shape:
        raise ValueError(f"input_ids must have at least one row and one token, not {tuple(ids.shape)}")
    if isinstance(mask, Tensor) and mask.ndim < 4 and cache_of(given) is None:
        check_shape("attention_mask", mask, tuple(ids.shape))


def check_generation(config: Any, options: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse options of generate() that end in an error of torch's, in nothing, or in more than any memory.

    Args:
        options: all of them; `given`: those of this call, where None means nothing.
    """
    for name, (least, highest) in COUNTS.items():
        value = options.get(name)
        if value is None and (name not in given or name not in ("num_beams", "num_return_sequences")):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= highest:
            raise ValueError(f"{name} must be a whole number from {least} to {highest}, not {value!r:.60}")
    for names, types, wanted in ((NUMBERS, (int, float), "a finite number"), (SWITCHES, (bool, int), "True or False")):
        for name in names:
            value = options.get(name)
            if value is None:
                continue
            if not isinstance(value, types) or value in (math.inf, -math.inf) or value != value:
                raise ValueError(f"{name} must be {wanted}, not {value!r:.60}")
    for name in ("temperature", "repetition_penalty"):  # logits are divided by them
        if 0 < (options.get(name) or 0) < 1e-6:
            raise ValueError(f"{name} must be at least 1e-6, not {options[name]}")
    penalty = options.get("length_penalty")  # a power of the length
    if (penalty is None and "length_penalty" in given) or not -30 <= (penalty or 0) <= 30:
        raise ValueError(f"length_penalty must be a number from -30 to 30, not {penalty}")
    if (early := options.get("early_stopping")) not in (None, True, False, "never"):
        raise ValueError(f"early_stopping must be True, False or 'never', not {early!r:.60}")
    rows = max(options.get("num_beams") or 1, options.get("num_return_sequences") or 1)
    if rows * (options.get("max_new_tokens") or 1) > 2**28:
        raise ValueError(
            f"max_new_tokens must be at most {2**28 // rows} with {rows} beams or sequences, not"
            f" {options['max_new_tokens']}"
        )
    room = getattr(config, "max_position_embeddings", 0)
    if getattr(config, "position_embedding_type", "") == "learned" and (given.get("max_new_tokens") or 0) > room:
        raise ValueError(
            f"max_new_tokens must be at most {room} (max_position_embeddings), not {given['max_new_tokens']}"
        )
    for name in (*TOKEN_IDS, *LISTS, "eos_token_id", "pad_token_id", "bos_token_id"):
        value = options.get(name)
        if value is None or isinstance(value, Tensor):
            continue
        # where no text is to end, transformers takes an end of -1, and padding of -1, which none needs
        endless = isinstance(options.get("eos_token_id"), int) and options["eos_token_id"] == -1
        least = -1 if name in ("eos_token_id", "bos_token_id") or (name == "pad_token_id" and endless) else 0
        highest = 2**31 if name in ("eos_token_id", "bos_token_id") else config.vocab_size - 1
        several = name in ("forced_eos_token_id", "eos_token_id", "decoder_start_token_id", *LISTS)
        tokens = list(value) if isinstance(value, (list, tuple)) and several else [value]
        if (name in LISTS and tokens == [value]) or not (tokens or name in LISTS):
            raise ValueError(f"{name} must be a list of token ids, not {value!r:.60}")
        for token in tokens:
            if isinstance(token, bool) or not isinstance(token, int) or not least <= token <= highest:
                raise ValueError(f"{name} must be token ids from {least} to {highest}, not {token!r:.60}")


class GenaiGenerationMixin(GenerationHooks, GenerationMixin):
    """generate(), given a cache under either of its names."""

    config: Any

    @wraps(GenerationMixin.generate)
    def generate(self, *args, **kwargs):
        GENERATE.bind(self, *args, **kwargs)  # one argument too many, or one given twice, is an error of Python's
        names = tuple(GENERATE.parameters)[1:]
        kwargs = {**dict(zip(names, args, strict=False)), **renamed(CACHE_NAME, kwargs)}
        if isinstance(mask := as_read("attention_mask", kwargs.get("attention_mask")), Tensor) and mask.ndim == 2:
            kwargs["attention_mask"] = (mask != 0).long()  # positions are counted on it
        for name in ("inputs", "input_ids"):
            if kwargs.get(name) is not None:
                kwargs[name] = as_read("input_ids", kwargs[name])
                check_prompt(kwargs[name], kwargs)
        config = kwargs.get("generation_config") or self.generation_config
        check_generation(self.config, {**vars(config), **kwargs}, kwargs)
        if isinstance(kwargs.get("length_penalty"), int):  # whole powers leave 64 bits
            kwargs["length_penalty"] = float(kwargs["length_penalty"])
        return super().generate(**kwargs)

    @wraps(GenerationMixin.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(self, *args, **kwargs):
        inputs = super().prepare_inputs_for_generation(*args, **renamed(CACHE_NAME, kwargs))
        return StepInputs(renamed(OLD_NAME, inputs))

    def before_prefill(self, generation_config: Any, model_kwargs: dict[str, Any]) -> None:
        """As in transformers, which reads a prompt in parts of `prefill_chunk_size`; one may be padding alone."""
        if generation_config.prefill_chunk_size is not None:
            if self.config.is_encoder_decoder:
                raise ValueError(
                    f"prefill_chunk_size={generation_config.prefill_chunk_size} is for causal models: of an"
                    " encoder-decoder it would cut the mask of the source. Leave it out"
                )
            mask, past = model_kwargs.get("attention_mask"), cache_of(model_kwargs)
            if mask is not None and mask.ndim == 2:
                check_mask("attention_mask", mask, *mask.shape)
            if past is not None:
                past.prompt_in_parts = True


class LanguageModelHead:
    """For a `PreTrainedModel` with an `lm_head`: logits and loss, the one without the other where that is cheaper."""

    lm_head: nn.Module
    # `forward` takes label_smoothing
    smooths_labels = True
    # of the PreTrainedModel that this is mixed into
    config: Any
    training: bool
    loss_function: Callable

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def score(self, hidden: Tensor, past: Cache | None) -> Tensor:
        """Return the logits (B, T, V) of (B, T, D)."""
        step = step_of(past) if hidden.shape[1] == 1 and type(self.lm_head) is Linear else None
        if step is None or is_hooked(self.lm_head) or torch.is_grad_enabled():
            return self.lm_head(hidden)
        return step.score(hidden[:, 0], self.lm_head).unsqueeze(1)

    def skips_logits(self, labels: Tensor | None, skip_logits: bool | None) -> bool:
        """Whether the loss is returned without the logits; see `predict`."""
        return labels is not None and (self.training if skip_logits is None else skip_logits)

    def predict(
        self,
        hidden: Tensor,
        labels: Tensor | None,
        skip_logits: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        label_smoothing: float = 0.0,
        past: Cache | None = None,
        **kwargs,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the loss in nats per token (None without labels) and the logits (B, T, V), or None where skipped.

        Args:
            hidden: (B, T, D), ready to be scored.
            labels: (B, T), the token to predict at each place; -100 where there is none.
            skip_logits: None: in training with labels, where all the logits at once would be the largest tensor by
                far.
        """
        if skip_logits and labels is None:
            raise ValueError("skip_logits=True needs labels: without logits and loss there is nothing to return")
        skip_logits = self.skips_logits(labels, skip_logits)
        if labels is not None and labels.shape != hidden.shape[:-1]:
            raise ValueError(f"labels must be (batch, length) = {tuple(hidden.shape[:-1])}, not {tuple(labels.shape)}")
        every = isinstance(logits_to_keep, int) and logits_to_keep == 0
        loss = None
        if labels is not None and (skip_logits or label_smoothing or not every):  # the loss counts all places
            items = kwargs.get("num_items_in_batch")
            how = {"label_smoothing": label_smoothing, "num_items_in_batch": items}
            split = any(hasattr(parameter, "device_mesh") for parameter in self.lm_head.parameters())
            if split or is_hooked(self.lm_head):
                # tensor parallel: each process has a part of the vocabulary, and the module gathers the logits; and
                # hooks are given what they wait for
                loss = cross_entropy(self.lm_head(hidden), labels, **how)
            else:
                weight, bias = weight_and_bias(self.lm_head, hidden.shape[-1])
                loss = linear_cross_entropy(hidden, weight, labels, bias, **how)
            if skip_logits:
                return loss, None
        if not every:
            hidden = hidden[:, slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep, :]
        logits = self.score(hidden, past)
        if labels is not None and loss is None:
            # the loss of causal models reads shift_labels, the others' labels: both are in place already
            labels = labels.contiguous()
            loss = self.loss_function(
                logits=logits, labels=labels, shift_labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return loss, logits


def shift_labels_left(labels: Tensor) -> Tensor:
    """Return, at each place of (B, T), the label of the next one; -100 at the last."""
    return nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]


def next_labels(labels: Tensor | None, shift_labels: Tensor | None, vocab_size: int) -> Tensor | None:
    """Return what a causal model is to predict at each place (B, T): shift_labels or, without them, labels shifted."""
    if labels is None or shift_labels is not None:
        return shift_labels
    check_labels(labels, vocab_size)
    if not is_tracing(labels) and labels.shape[1] < 2:
        raise ValueError("labels must have two tokens a row at least: each is predicted from those before it")
    return shift_labels_left(labels)


def check_labels(labels: Tensor, vocab_size: int) -> None:
    """Refuse labels that are neither -100 nor a token id."""
    if labels.dtype == torch.int64:
        labels = labels.masked_fill(labels == -100, 0)
    check_ids("labels", labels, vocab_size)


def check_classes(labels: Tensor, num_labels: int, *shapes: tuple[int, ...]) -> None:
    """Refuse labels that are neither -100 nor a class, or that have none of the shapes."""
    check_shape("labels", labels, *shapes)
    if labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"labels must be an integer tensor (torch.long), not {labels.dtype}")
    if not readable(labels):
        return
    wrong = labels[(labels != -100) & ((labels < 0) | (labels >= num_labels))]
    if wrong.numel():
        raise ValueError(f"labels must be from 0 to {num_labels - 1} (num_labels), or -100, not {wrong[0].item()}")


def span_loss(start_logits: Tensor, end_logits: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return the mean cross-entropy, in nats, of the places (B,) where answers begin and end.

    Places outside the text (an answer that was cut off) do not count.

    Args:
        start_logits: (B, T), as end_logits.
    """
    rows, length = start_logits.shape
    for name, place in (("start_positions", start), ("end_positions", end)):
        check_shape(name, place, (rows,), (rows, 1))
    losses = [
        nn.functional.cross_entropy(logits.float(), place.view(-1).clamp(0, length), ignore_index=length)
        for logits, place in ((start_logits, start), (end_logits, end))
    ]
    return sum(losses) / 2


def choice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy, in nats, of one choice among C for each row: logits (B, C), labels (B,)."""
    check_classes(labels, logits.shape[1], logits.shape[:1], (logits.shape[0], 1))
    return nn.functional.cross_entropy(logits.float(), labels.view(-1))


def classification_loss(model, logits: Tensor, labels: Tensor, **kwargs) -> Tensor:
    """Return the loss of a whole text's label(s), by `config.problem_type`: a number, one class, or several."""
    rows = logits.shape[0]
    kind = model.config.problem_type
    if kind is None and model.num_labels == 1:
        kind = "regression"
    elif kind is None and labels.is_floating_point():
        kind = "multi_label_classification"
    if kind in ("regression", "multi_label_classification"):
        labels = labels.to(logits.dtype)
        check_shape("labels", labels, tuple(logits.shape), *([(rows,)] if model.num_labels == 1 else []))
    else:
        check_classes(labels, model.num_labels, (rows,), (rows, 1))
    return model.loss_function(labels=labels, pooled_logits=logits, config=model.config, **kwargs)
