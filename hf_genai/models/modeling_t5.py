"""The encoder-decoder family: text to text in the manner of T5, and heads on it.

Papers: Vaswani et al. (2017), arXiv:1706.03762; Raffel et al. (2020), arXiv:1910.10683 (the classic preset); Shazeer
(2020), arXiv:2002.05202 (gated feed-forward, as in T5 1.1).

Shapes: B batch, T target and S source length, D hidden size, H heads, V vocabulary. Read from the bottom up; the
encoder and the decoder are in t5_stacks.py, their layers in transformer_stack.py and blocks.py.
"""

from functools import wraps
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .base import (
    Seq2SeqModelOutput,
    Seq2SeqQuestionAnsweringModelOutput,
    Seq2SeqSequenceClassifierOutput,
    StackKwargs,
    cache_field,
    check_ids,
    check_mask,
    known_keywords,
    readable,
)
from .configuration_t5 import GenaiT5Config
from .configuration_transformer import parallel_plan
from .heads import (
    GenaiGenerationMixin,
    QuestionAnsweringHead,
    Seq2SeqLanguageModelHead,
    SequenceClassificationHead,
    TokenClassificationHead,
    head_of,
    last_vectors,
)
from .positions import positions_from_mask
from .t5_stacks import GenaiT5Decoder, GenaiT5Encoder, GenaiT5PreTrainedModel


class GenaiT5Model(GenaiT5PreTrainedModel):
    """The encoder-decoder without a head."""

    # as in GPT, in both halves
    _tp_plan: ClassVar[dict[str, str]] = {
        "encoder.embed_tokens": "embedding_rowwise",
        **parallel_plan("encoder."),
        **parallel_plan("decoder.", ("self_attn", "cross_attn")),
    }

    def __init__(self, config: GenaiT5Config):
        super().__init__(config)
        self.encoder = GenaiT5Encoder(config)
        self.decoder = GenaiT5Decoder(config)
        self.post_init()

    @known_keywords
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: tuple | ModelOutput | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        decoder_position_ids: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[StackKwargs],
    ) -> Seq2SeqModelOutput:
        """Encode, then decode.

        Args:
            input_ids: source token ids (B, S), 0 to vocab_size - 1; or inputs_embeds (B, S, D).
            attention_mask: (B, S), 1 for a real token and 0 for padding, on either side.
            decoder_input_ids: target token ids (B, T), or decoder_inputs_embeds (B, T, D); without either, the source
                shifted right, as in BART, with its padding.
            encoder_outputs: what the encoder returned before, instead of input_ids.
            cache: an `EncoderDecoderCache` of an earlier call that this one goes on from.
            decoder_position_ids: (B, T). None: counted, over the real tokens of decoder_attention_mask only.

        Raises:
            ValueError: for ids outside the vocabulary, an empty batch, a mask of another shape or with an all-padding
                row.
        """
        if kwargs.get("position_ids") is not None:
            raise ValueError(
                "an encoder-decoder takes no position_ids: texts packed in a row would be one source to its decoder"
            )
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if input_ids is None:
                raise ValueError(
                    "give decoder_input_ids or decoder_inputs_embeds: there are no input_ids to shift right"
                )
            check_ids("input_ids", input_ids, self.config.vocab_size)
            shifted = self.shift_right(input_ids)
            if attention_mask is not None and decoder_attention_mask is None:
                check_mask("attention_mask", attention_mask, *input_ids.shape)
                # the text begins where its padding ends
                begins = attention_mask.bool() & (attention_mask.cumsum(1) == 1)
                shifted = shifted.masked_fill(begins, self.config.decoder_start_token_id)
                decoder_attention_mask = attention_mask
                if not kwargs.get("unpad", True):  # padding behind the text is read, too: it sees what is before it
                    decoder_attention_mask = attention_mask.long().cumsum(1).clamp(max=1)
            decoder_input_ids = shifted
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, inputs_embeds, return_dict=True, **kwargs)
        elif not isinstance(encoder_outputs, ModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs[:3])
        if decoder_inputs_embeds is None:
            if cache is None:
                check_ids("decoder_input_ids", decoder_input_ids, self.config.vocab_size)
            decoder_inputs_embeds = self.encoder.embed_tokens(decoder_input_ids)
        elif decoder_input_ids is not None:
            raise ValueError("give either decoder_input_ids or decoder_inputs_embeds, not both")
        source = encoder_outputs.last_hidden_state
        if source.shape[0] != decoder_inputs_embeds.shape[0]:  # len() would fix the size in an exported graph
            raise ValueError(
                f"decoder_input_ids must have a row for each of the {len(source)} sources, not"
                f" {len(decoder_inputs_embeds)}"
            )
        outputs = self.decoder(
            decoder_attention_mask,
            encoder_hidden_states=source,
            encoder_attention_mask=attention_mask,
            cache=cache,
            inputs_embeds=decoder_inputs_embeds,
            position_ids=decoder_position_ids,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            **cache_field(outputs.cache),
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )


class GenaiT5EncoderModel(GenaiT5PreTrainedModel):
    """The encoder alone."""

    def __init__(self, config: GenaiT5Config):
        super().__init__(config)
        self.encoder = GenaiT5Encoder(config)
        self.post_init()

    @known_keywords
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Unpack[StackKwargs],
    ) -> BaseModelOutput:
        """(B, S) -> last_hidden_state (B, S, D); see the encoder for several texts in a row."""
        return self.encoder(input_ids, attention_mask, inputs_embeds, return_dict=True, **kwargs)


SOURCE, TARGET = ("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask")
EMBEDS = ("inputs_embeds", "decoder_inputs_embeds")
LOGITS = ("logits_to_keep", "skip_logits")


@head_of(GenaiT5Model, *SOURCE, *TARGET, "encoder_outputs", "cache", *EMBEDS, "labels", "use_cache", *LOGITS)
class GenaiT5ForConditionalGeneration(Seq2SeqLanguageModelHead, GenaiT5PreTrainedModel, GenaiGenerationMixin):
    """Text in, text out."""

    _tied_weights_keys = {"lm_head.weight": "model.encoder.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: GenaiT5Config):
        super().__init__(config)
        self.model = GenaiT5Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @wraps(GenerationMixin.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(self, input_ids: Tensor, *args, **kwargs):
        """As in transformers, with positions counted while the mask still says what is padding.

        For a static cache it is made four-dimensional before the model sees it.
        """
        mask = kwargs.get("decoder_attention_mask")
        if mask is not None and self.config.position_embedding_type in ("learned", "sinusoidal"):
            kwargs["decoder_position_ids"] = positions_from_mask(mask, mask.shape[1])
        return super().prepare_inputs_for_generation(input_ids, *args, **kwargs)

    def target_mask(self, labels: Tensor) -> Tensor | None:
        """The positions behind the last label of a row are padding, as the head reads nothing there."""
        if not readable(labels):
            return None
        mask = (labels != -100).flip(1).long().cumsum(1).flip(1).clamp(max=1)
        mask[:, 0] = 1
        return mask

    def transform(self, hidden: Tensor) -> Tensor:
        return hidden * self.config.hidden_size**-0.5 if self.config.scale_decoder_outputs else hidden


class GenaiT5ClassificationHead(nn.Module):
    """A projection with tanh, then the classes."""

    def __init__(self, hidden_size: int, num_labels: int, dropout: float):
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, D) -> (B, num_labels)."""
        hidden_states = torch.tanh(self.dense(self.dropout(hidden_states)))
        return self.out_proj(self.dropout(hidden_states))


@head_of(GenaiT5Model, *SOURCE, *TARGET, "encoder_outputs", *EMBEDS, "labels", "use_cache")
class GenaiT5ForSequenceClassification(SequenceClassificationHead, GenaiT5PreTrainedModel):
    """A label, several labels or a number for the whole text (`config.problem_type`).

    The text goes through encoder and decoder; it is classified from the decoder's vector of its last end-of-text
    token, as in BART. Where the text comes as inputs_embeds, that is taken to be the last real token of each row.
    A row without an end-of-text token is a ValueError.
    """

    output_class = Seq2SeqSequenceClassifierOutput

    def __init__(self, config: GenaiT5Config):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = GenaiT5Model(config)
        self.classification_head = GenaiT5ClassificationHead(
            hidden_size=config.hidden_size, num_labels=config.num_labels, dropout=config.head_dropout_prob
        )
        self.post_init()

    def classify(self, outputs: Any, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        hidden, ends = outputs.last_hidden_state, attention_mask
        if input_ids is not None:
            if self.config.eos_token_id is None:
                raise ValueError("eos_token_id must not be None: a text is classified from its end-of-text token")
            ends = torch.isin(input_ids, torch.as_tensor(self.config.eos_token_id, device=input_ids.device))
            if readable(ends) and not ends.any(1).all():
                raise ValueError(
                    f"input_ids must hold an end-of-text token (eos_token_id {self.config.eos_token_id}) in each row:"
                    " the text is classified from it"
                )
        return self.classification_head(hidden[:, -1] if ends is None else last_vectors(hidden, ends))


@head_of(GenaiT5EncoderModel, *SOURCE, "inputs_embeds", "labels")
class GenaiT5ForTokenClassification(TokenClassificationHead, GenaiT5PreTrainedModel):
    """A label for each token, by the encoder alone."""

    base_keywords = {}

    def __init__(self, config: GenaiT5Config):
        model = GenaiT5EncoderModel(config)
        super().__init__(config, model, hidden_size=config.hidden_size, dropout=config.head_dropout_prob)


@head_of(GenaiT5Model, *SOURCE, *TARGET, "encoder_outputs", *EMBEDS, "start_positions", "end_positions", "use_cache")
class GenaiT5ForQuestionAnswering(QuestionAnsweringHead, GenaiT5PreTrainedModel):
    """The positions in a text where the answer begins and ends, by encoder and decoder."""

    output_class = Seq2SeqQuestionAnsweringModelOutput
    base_keywords = {"unpad": False}

    def __init__(self, config: GenaiT5Config):
        super().__init__(config, GenaiT5Model(config))


__all__ = [
    "GenaiT5EncoderModel",
    "GenaiT5ForConditionalGeneration",
    "GenaiT5ForQuestionAnswering",
    "GenaiT5ForSequenceClassification",
    "GenaiT5ForTokenClassification",
    "GenaiT5Model",
    "GenaiT5PreTrainedModel",
]
