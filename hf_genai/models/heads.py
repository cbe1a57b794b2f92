"""The heads on top of the base models: what the families' heads share, their losses, and the checks of labels.

A family's head names its base model and its arguments (`head_of`), builds its layers, and says how it reads the base
model's outputs. Its `forward` stands here.

Shapes: B batch, T length, D hidden size, V vocabulary.
"""

import math
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, ClassVar, TypeVar, Unpack

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.modeling_outputs import (
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import ModelOutput, TransformersKwargs, is_tracing
from transformers.utils.generic import can_return_tuple

from .base import (
    CACHE_NAME,
    OLD_NAME,
    CausalLMOutputWithCrossAttentions,
    GenaiPreTrainedModel,
    GenerationHooks,
    Seq2SeqLMOutput,
    StepInputs,
    as_read,
    cache_of,
    check_ids,
    check_mask,
    check_shape,
    known_keywords,
    readable,
    renamed,
    shift_tokens_right,
    weight_and_bias,
)
from .linear_cross_entropy import cross_entropy, linear_cross_entropy
from .matmul import is_hooked

Head = TypeVar("Head", bound=type)


def head_of(base_model: type, *names: str) -> Callable[[Head], Head]:
    """Give a head's class the arguments `names` of its `forward`, in this order, by position or by keyword.

    The `forward` that several heads share takes keywords: its own arguments, and in its kwargs all others, which it
    hands on to the base model (`self.model`). Trainer, PEFT, torch.export and others read the arguments from the
    signature of `forward`; so this decorator composes that signature. An argument that the shared `forward` does not
    name is declared as in the `forward` of `base_model`.

    The outputs of the base model have names, also where `config.return_dict=False` makes a tuple of the head's.
    """

    def decorate(head: Head) -> Head:
        shared, own = head.forward, signature(head.forward)  # type: ignore[attr-defined]
        arguments = {**signature(base_model.forward).parameters, **own.parameters}  # type: ignore[attr-defined]

        @can_return_tuple
        @wraps(shared)
        def forward(self, *args, **kwargs):
            if len(args) > len(names):
                raise TypeError(f"forward() takes {len(names)} positional arguments, but {len(args)} were given")
            return shared(self, **dict(zip(names, args, strict=False)), **kwargs, return_dict=True)

        order = ("self", *names, "kwargs")
        forward.__signature__ = own.replace(parameters=[arguments[name] for name in order])
        head.forward = known_keywords(forward, hands_on=True)  # type: ignore[attr-defined]
        return head

    return decorate


def output_of(output_class: type[ModelOutput], outputs: ModelOutput, **values: Tensor | None) -> Any:
    """Return an output of a head: the values, and those of the base model's outputs that the class has a field for."""
    # torch.compile does not take dataclasses.fields() of a class
    names = output_class.__dataclass_fields__  # type: ignore[attr-defined]
    return output_class(**{name: value for name, value in outputs.items() if name in names}, **values)


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


def split_kwargs(kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the keyword arguments of a head that are for its base model, and those that are for its loss alone."""
    inputs = dict(kwargs)
    return inputs, {name: inputs.pop(name) for name in ("num_items_in_batch", "label_smoothing") if name in inputs}


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


class LanguageModelHead(GenaiPreTrainedModel):
    """Before a `PreTrainedModel` with an `lm_head`: logits and loss, one without the other where that is cheaper."""

    lm_head: nn.Module
    # `forward` takes label_smoothing
    smooths_labels = True

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def transform(self, hidden: Tensor) -> Tensor:
        """Return what `lm_head` reads (B, T, D), made of the base model's hidden states (B, T, D)."""
        return hidden

    def skips_logits(self, labels: Tensor | None, skip_logits: bool | None) -> bool:
        """Return whether `forward` returns the loss without the logits; see `predict`."""
        return labels is not None and (self.training if skip_logits is None else skip_logits)

    def predict(
        self,
        hidden: Tensor,
        labels: Tensor | None,
        skip_logits: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        label_smoothing: float = 0.0,
        **kwargs,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the loss in nats per token (None without labels) and the logits (B, T, V), or None where skipped.

        Args:
            hidden: (B, T, D), the input of `lm_head`.
            labels: (B, T), the token to predict at each position; -100 where there is none.
            skip_logits: None: in training with labels, where the logits of all positions would be the largest tensor
                by far.
        """
        if skip_logits and labels is None:
            raise ValueError("skip_logits=True needs labels: without logits and loss there is nothing to return")
        skip_logits = self.skips_logits(labels, skip_logits)
        if labels is not None and labels.shape != hidden.shape[:-1]:
            raise ValueError(f"labels must be (batch, length) = {tuple(hidden.shape[:-1])}, not {tuple(labels.shape)}")
        every = isinstance(logits_to_keep, int) and logits_to_keep == 0
        loss = None
        if labels is not None and (skip_logits or label_smoothing or not every):  # the loss counts all positions
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
        logits = self.lm_head(hidden)
        if labels is not None and loss is None:
            # the loss of causal models reads shift_labels, the others' labels: both are in position already
            labels = labels.contiguous()
            loss = self.loss_function(
                logits=logits, labels=labels, shift_labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return loss, logits


class CausalLanguageModelHead(LanguageModelHead):
    """Each next token of a text."""

    def forward(
        self,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | Tensor = 0,
        skip_logits: bool | None = None,
        **kwargs: Unpack[LanguageModelKwargs],
    ) -> CausalLMOutputWithCrossAttentions:
        """Predict each next token of (B, T) ids.

        Args:
            labels: (B, T), usually the input_ids themselves, shifted here; -100 where none is to be predicted.
            logits_to_keep: number of positions at the end, or indices of positions, to return logits of. 0: all.
            skip_logits: return the loss without the logits, which are then never all in memory. None: in training,
                yes.
            kwargs: arguments of the base model; also shift_labels and label_smoothing, see `LanguageModelKwargs`.
        """
        shift_labels = next_labels(labels, kwargs.pop("shift_labels", None), self.config.vocab_size)
        inputs, options = split_kwargs(kwargs)
        if self.training and shift_labels is not None:
            inputs["use_cache"] = False
        outputs = self.model(**inputs)
        hidden = self.transform(outputs.last_hidden_state)
        loss, logits = self.predict(hidden, shift_labels, skip_logits, logits_to_keep, **options)
        return output_of(CausalLMOutputWithCrossAttentions, outputs, loss=loss, logits=logits)


class Seq2SeqLanguageModelHead(LanguageModelHead):
    """Text in, text out."""

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Return decoder_input_ids (B, T): labels (B, T) shifted right."""
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    def target_mask(self, labels: Tensor) -> Tensor | None:
        """Return a decoder_attention_mask (B, T) for labels (B, T) whose logits are skipped, or None."""
        return None

    def forward(
        self,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | Tensor = 0,
        skip_logits: bool | None = None,
        **kwargs: Unpack[LanguageModelKwargs],
    ) -> Seq2SeqLMOutput:
        """Predict each next token of the target (B, T).

        Args:
            labels: (B, T) target ids, -100 where none is to be predicted; the decoder's input is made from them
                (shifted right) unless it is given.
            logits_to_keep: number of positions at the end, or indices of positions, to return logits of. 0: all.
            skip_logits: return the loss without the logits, which are then never all in memory. None: in training,
                yes.
            kwargs: arguments of the base model; also label_smoothing, see `LanguageModelKwargs`.
        """
        inputs, options = split_kwargs(kwargs)
        if labels is not None:
            check_labels(labels, self.config.vocab_size)
            if inputs.get("decoder_input_ids") is None and inputs.get("decoder_inputs_embeds") is None:
                inputs["decoder_input_ids"] = self.prepare_decoder_input_ids_from_labels(labels)
                if inputs.get("decoder_attention_mask") is None and self.skips_logits(labels, skip_logits):
                    inputs["decoder_attention_mask"] = self.target_mask(labels)
            if self.training:
                inputs["use_cache"] = False
        outputs = self.model(**inputs)
        hidden = self.transform(outputs.last_hidden_state)
        loss, logits = self.predict(hidden, labels, skip_logits, logits_to_keep, **options)
        return output_of(Seq2SeqLMOutput, outputs, loss=loss, logits=logits)


class SequenceClassificationHead(MeanOverRows, GenaiPreTrainedModel):
    """A label, several labels or a number for a whole text (`config.problem_type`)."""

    output_class: ClassVar[type[ModelOutput]] = SequenceClassifierOutput
    base_keywords: ClassVar[dict[str, bool]] = {}  # keywords for the base model, unless the caller gives others

    def classify(self, outputs: Any, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """Return logits (B, num_labels), made of the base model's outputs and its inputs (B, T); each family's own.

        Raises:
            TypeError: if a family does not define it.
        """
        raise TypeError(f"{type(self).__name__} must define classify(outputs, input_ids, attention_mask)")

    def forward(self, labels: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]) -> Any:
        """Return logits (B, num_labels).

        Args:
            labels: (B,), the classes, or (B, num_labels), for several labels or numbers.
            kwargs: arguments of the base model.
        """
        inputs, options = split_kwargs({**self.base_keywords, **kwargs})
        if labels is not None:
            inputs["use_cache"] = False
        outputs = self.model(**inputs)
        logits = self.classify(outputs, inputs.get("input_ids"), inputs.get("attention_mask"))
        loss = None if labels is None else classification_loss(self, logits, labels, **options)
        return output_of(self.output_class, outputs, loss=loss, logits=logits)


class TokenClassificationHead(GenaiPreTrainedModel):
    """A label for each token."""

    base_keywords: ClassVar[dict[str, bool]] = {"use_cache": False}

    def __init__(self, config: Any, model: nn.Module, hidden_size: int, dropout: float):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = model
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, labels: torch.LongTensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> TokenClassifierOutput:
        """Return logits (B, T, num_labels).

        Args:
            labels: (B, T), 0 to num_labels - 1; -100 where none is to be predicted.
            kwargs: arguments of the base model.
        """
        inputs, options = split_kwargs({**self.base_keywords, **kwargs})
        outputs = self.model(**inputs)
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            check_classes(labels, self.num_labels, tuple(logits.shape[:2]))
            loss = self.loss_function(logits, labels, self.config, **options)
        return output_of(TokenClassifierOutput, outputs, loss=loss, logits=logits)


class QuestionAnsweringHead(MeanOverRows, GenaiPreTrainedModel):
    """The positions in a text where the answer begins and ends."""

    output_class: ClassVar[type[ModelOutput]] = QuestionAnsweringModelOutput
    # the loss is a softmax over all positions, padding included: so the layers compute padding, too
    base_keywords: ClassVar[dict[str, bool]] = {"use_cache": False, "unpad": False}

    def __init__(self, config: Any, model: nn.Module):
        super().__init__(config)
        self.model = model
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Any:
        """Return start_logits and end_logits (B, T).

        Args:
            start_positions: (B,), as end_positions; positions outside the text do not count in the loss.
            kwargs: arguments of the base model.
        """
        inputs, _ = split_kwargs({**self.base_keywords, **kwargs})
        if start_positions is not None:
            inputs["use_cache"] = False
        outputs = self.model(**inputs)
        start, end = self.qa_outputs(outputs.last_hidden_state).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start, end, start_positions, end_positions)
        return output_of(self.output_class, outputs, loss=loss, start_logits=start, end_logits=end)


def last_vectors(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the vector (B, D) of the last position of each row of hidden (B, T, D) where mask (B, T) is not 0."""
    last = (torch.arange(mask.shape[1], device=mask.device) * (mask != 0)).argmax(1)  # (B,)
    # len() would fix the size in an exported graph
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]


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
