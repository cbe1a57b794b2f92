"""The recurrent family: GRU and LSTM encoder-decoders with attention, language models and classifiers.

Papers: Cho et al. (2014), arXiv:1406.1078 (GRU, encoder-decoder); Sutskever et al. (2014), arXiv:1409.3215 (LSTM,
reversed source); Bahdanau et al. (2015), arXiv:1409.0473 (attention before the cell); Luong et al. (2015),
arXiv:1508.04025 (attention after it, input feeding); Wu et al. (2016), arXiv:1609.08144 (with several layers,
attention that feeds a cell sits in the first one, so that the others run over all steps at once).

Shapes: B batch, T target and S source length, D hidden size, V vocabulary. Read from the bottom up.
"""

import copy
from typing import Unpack

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import (
    BaseModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .base import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
    cache_field,
    check_ids,
    known_keywords,
    seq2seq_outputs,
    shift_tokens_right,
    size_of,
)
from .configuration_rnn import GenaiRNNConfig
from .heads import (
    GenaiGenerationMixin,
    LanguageModelHead,
    LanguageModelKwargs,
    MeanOverRows,
    check_classes,
    check_labels,
    classification_loss,
    next_labels,
)
from .matmul import Linear
from .recurrent_stacks import GenaiRNNDecoder, GenaiRNNEncoder, GenaiRNNPreTrainedModel, embed


class GenaiRNNModel(GenaiRNNPreTrainedModel):
    """The encoder-decoder without a head; with `is_encoder_decoder=False` its encoder, or (`is_decoder=True`) decoder,
    alone."""

    def __init__(self, config: GenaiRNNConfig):
        super().__init__(config)
        if config.is_encoder_decoder or not config.is_decoder:
            self.encoder = GenaiRNNEncoder(config)
        if config.is_encoder_decoder or config.is_decoder:
            self.decoder = GenaiRNNDecoder(config)
        self.post_init()

    def new_cache(self) -> Cache:
        cache = DynamicCache(config=self.config)
        return (
            EncoderDecoderCache(cache, DynamicCache(config=self.config)) if self.config.is_encoder_decoder else cache
        )

    @known_keywords
    @can_return_tuple
    @merge_with_config_defaults
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
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ModelOutput:
        """Encode, then decode.

        Args:
            input_ids: source token ids (B, S), 0 to vocab_size - 1; or inputs_embeds (B, S, embedding_size).
            attention_mask: (B, S), 1 for a real token and 0 for padding, on either side.
            decoder_input_ids: target token ids (B, T), or decoder_inputs_embeds (B, T, embedding_size); without
                either, the source shifted right, as in BART.
            encoder_outputs: what the encoder returned before, instead of input_ids.
            cache: an `EncoderDecoderCache` of an earlier call that this one goes on from.

        Returns:
            `Seq2SeqModelOutput`; cross_attentions holds one tensor of weights (B, 1, T, S), as one layer looks at the
            source.

        Raises:
            ValueError: for ids outside the vocabulary, an empty batch, a mask of another shape or with an all-padding
                row.
        """
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        if use_cache and cache is None and hasattr(self, "decoder"):
            cache = self.new_cache()
        if not self.config.is_encoder_decoder:
            if not self.config.is_decoder:
                if cache is not None:
                    raise ValueError(
                        "cache (past_key_values; a learned prefix, say) needs a decoder; this is an encoder alone"
                    )
                return self.encoder(input_ids, attention_mask, inputs_embeds, return_dict=True, **options)
            outputs = self.decoder(
                *(input_ids, attention_mask, None, None, None, cache, inputs_embeds),
                return_dict=True,
                **options,
            )
            return BaseModelOutputWithPast(
                last_hidden_state=outputs.last_hidden_state,
                hidden_states=outputs.hidden_states,
                **cache_field(outputs.cache),
            )

        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if input_ids is None:
                raise ValueError(
                    "give decoder_input_ids or decoder_inputs_embeds: there are no input_ids to shift right"
                )
            check_ids("input_ids", input_ids, size_of(self.encoder.embed_tokens, "num_embeddings"))
            decoder_input_ids = self.shift_right(input_ids)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, inputs_embeds, return_dict=True, **options)
        elif not isinstance(encoder_outputs, ModelOutput):
            encoder_outputs = BaseModelOutput(
                last_hidden_state=encoder_outputs[0],
                hidden_states=encoder_outputs[1] if len(encoder_outputs) > 1 else None,
            )
        # later steps find in the cache what the first one made of the source
        first = not isinstance(cache, EncoderDecoderCache) or cache.get_seq_length() == 0
        if decoder_input_ids is not None and self.config.share_encoder_decoder_embeddings:
            decoder_inputs_embeds = embed(
                *("decoder_", decoder_input_ids, decoder_inputs_embeds, self.encoder.embed_tokens),
                *(self.config.embedding_size, first),
            )
            decoder_input_ids = None
        source = encoder_outputs.last_hidden_state
        outputs = self.decoder(
            *(decoder_input_ids, decoder_attention_mask, source, attention_mask),
            self.encoder.summary(source) if first else None,
            *(cache, decoder_inputs_embeds),
            return_dict=True,
            **options,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            **cache_field(outputs.cache),
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=source,
            encoder_hidden_states=encoder_outputs.hidden_states,
        )

    def shift_right(self, labels: Tensor) -> Tensor:
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)


class GenaiRNNHeadModel(LanguageModelHead, GenaiRNNPreTrainedModel):
    """What the two generating models share: the scores over the vocabulary, and their loss."""

    def __init__(self, config: GenaiRNNConfig):
        super().__init__(config)
        self.model = GenaiRNNModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.lm_head._genai_is_head = True
        self.dropout = nn.Dropout(config.dropout)
        side = "encoder" if config.is_encoder_decoder and config.share_encoder_decoder_embeddings else "decoder"
        self._tied_weights_keys = {"lm_head.weight": f"model.{side}.embed_tokens.weight"}
        self.post_init()


class GenaiRNNForConditionalGeneration(GenaiRNNHeadModel, GenaiGenerationMixin):
    """Translation and its kin: text in, text out."""

    def __init__(self, config: GenaiRNNConfig):
        if not config.is_encoder_decoder:
            raise ValueError("GenaiRNNForConditionalGeneration needs is_encoder_decoder=True; see GenaiRNNForCausalLM")
        super().__init__(config)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        return self.model.shift_right(labels)

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
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        skip_logits: bool | None = None,
        **kwargs: Unpack[LanguageModelKwargs],
    ) -> Seq2SeqLMOutput:
        """As `GenaiRNNModel`, and predict the next token.

        Args:
            labels: (B, T) target ids, -100 where none is to be predicted; the decoder's input is made from them
                (shifted right) unless it is given.
            skip_logits: return the loss without the logits, which are then never all in memory. None: in training,
                yes.
            kwargs: also label_smoothing, see `LanguageModelKwargs`.
        """
        if labels is not None:
            check_labels(labels, self.config.vocab_size)
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.model.shift_right(labels)
            use_cache = False if self.training else use_cache
        outputs = self.model(
            *(input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, cache),
            *(inputs_embeds, decoder_inputs_embeds, use_cache, output_attentions, output_hidden_states),
            return_dict=True,
        )
        loss, logits = self.predict(
            *(self.dropout(outputs.last_hidden_state), labels, skip_logits, logits_to_keep),
            **kwargs,
        )
        return Seq2SeqLMOutput(loss=loss, logits=logits, **seq2seq_outputs(outputs))


class GenaiRNNForCausalLM(GenaiRNNHeadModel, GenaiGenerationMixin):
    """A recurrent language model: the decoder alone."""

    def __init__(self, config: GenaiRNNConfig):
        config = copy.deepcopy(config)
        config.is_decoder, config.is_encoder_decoder = True, False
        super().__init__(config)

    @known_keywords
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        skip_logits: bool | None = None,
        **kwargs: Unpack[LanguageModelKwargs],
    ) -> CausalLMOutputWithPast:
        """Predict each next token of (B, T) ids.

        Args:
            labels: (B, T), usually the input_ids themselves, shifted here; -100 where none is to be predicted.
            kwargs: also shift_labels and label_smoothing, see `LanguageModelKwargs`.
        """
        shift_labels = next_labels(labels, kwargs.pop("shift_labels", None), self.config.vocab_size)
        outputs = self.model(
            *(input_ids, attention_mask, None, None, None, cache, inputs_embeds, None),
            use_cache=False if self.training and shift_labels is not None else use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        loss, logits = self.predict(
            *(self.dropout(outputs.last_hidden_state), shift_labels, skip_logits, logits_to_keep),
            **kwargs,
        )
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, **cache_field(outputs.cache)
        )


class GenaiRNNClassifier(GenaiRNNPreTrainedModel):
    """What the two classifiers share: the encoder, and a linear head on its outputs."""

    def __init__(self, config: GenaiRNNConfig):
        config = copy.deepcopy(config)
        config.is_decoder, config.is_encoder_decoder = False, False
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = GenaiRNNModel(config)
        self.dropout = nn.Dropout(config.dropout if config.classifier_dropout is None else config.classifier_dropout)
        self.classifier = nn.Linear(config.encoder_hidden_size, config.num_labels)
        self.post_init()


class GenaiRNNForSequenceClassification(MeanOverRows, GenaiRNNClassifier):
    """Many to one: a label, several labels or a number for the whole text (`config.problem_type`)."""

    @known_keywords
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """Return logits (B, num_labels) from what each direction knows at its end of the text (B, S)."""
        outputs = self.model(
            *(input_ids, attention_mask),
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(self.model.encoder.summary(outputs.last_hidden_state)))
        loss = None
        if labels is not None:
            loss = classification_loss(self, logits, labels, **kwargs)
        return SequenceClassifierOutput(loss, logits, outputs.hidden_states)


class GenaiRNNForTokenClassification(GenaiRNNClassifier):
    """Many to many, in step: a label for each token."""

    @known_keywords
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TokenClassifierOutput:
        """Return logits (B, S, num_labels); labels (B, S) are -100 where none is to be predicted."""
        outputs = self.model(
            *(input_ids, attention_mask),
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            check_classes(labels, self.num_labels, tuple(logits.shape[:2]))
            loss = self.loss_function(logits, labels, self.config, **kwargs)
        return TokenClassifierOutput(loss, logits, outputs.hidden_states)


__all__ = [
    "GenaiRNNForCausalLM",
    "GenaiRNNForConditionalGeneration",
    "GenaiRNNForSequenceClassification",
    "GenaiRNNForTokenClassification",
    "GenaiRNNModel",
    "GenaiRNNPreTrainedModel",
]
