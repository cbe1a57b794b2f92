"""The bidirectional family: encoders (and decoders) in the manner of BERT, and heads on them.

Papers: Devlin et al. (2019), arXiv:1810.04805 (the classic preset); Liu et al. (2019), arXiv:1907.11692 (RoBERTa);
Warner et al. (2024), arXiv:2412.13663 (what a modern layout brings an encoder).

Shapes: B batch, T length, D hidden size, H heads, V vocabulary. Read from the bottom up; the stack is
in bert_stack.py, its layers in transformer_stack.py and blocks.py.
"""

import copy
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import (
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import ModelOutput, TransformersKwargs

from .base import CausalLMOutputWithCrossAttentions, cache_field, readable
from .bert_stack import BertStack, GenaiBertPredictionHead, GenaiBertPreTrainedModel
from .configuration_bert import GenaiBertConfig
from .heads import (
    GenaiGenerationMixin,
    LanguageModelHead,
    LanguageModelKwargs,
    MeanOverRows,
    check_classes,
    check_labels,
    choice_loss,
    classification_loss,
    head_forward,
    loss_options,
    next_labels,
    span_loss,
)
from .matmul import Linear


class GenaiBertModel(BertStack):
    """The encoder without a head or, causal (`is_decoder`), the decoder."""


class GenaiBertLanguageModel(LanguageModelHead, GenaiBertPreTrainedModel):
    """What the heads over the vocabulary share."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: GenaiBertConfig, pooled: bool = False, causal: bool = False):
        super().__init__(config)
        if not causal:
            self.refuse_causal()
        self.model = GenaiBertModel(config, add_pooling_layer=pooled)
        self.prediction = GenaiBertPredictionHead(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)

    def predict_masked(
        self, hidden: Tensor, labels: Tensor | None, skip_logits: bool | None, **kwargs
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return loss and logits (B, T, V) of the tokens at the places of hidden (B, T, D), as `predict` does."""
        if labels is not None:
            check_labels(labels, self.config.vocab_size)
            if labels.shape != hidden.shape[:2]:
                raise ValueError(
                    f"labels must be (batch, length) = {tuple(hidden.shape[:2])}, not {tuple(labels.shape)}"
                )
            if self.skips_logits(labels, skip_logits) and readable(labels):
                masked = labels != -100
                hidden, labels = hidden[masked], labels[masked]  # (N, D), (N,)
        return self.predict(self.prediction(hidden), labels, skip_logits, **kwargs)


class GenaiBertForMaskedLM(GenaiBertLanguageModel):
    """The words that were masked out of a text."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config)
        self.post_init()

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        skip_logits: bool | None = None,
        **kwargs: Unpack[LanguageModelKwargs],
    ) -> MaskedLMOutput:
        """Predict the token at each place of (B, T) ids.

        Args:
            labels: (B, T), -100 where none is to be predicted.
            skip_logits: return the loss without the logits, and work only where there is a label. None: in training,
                yes.
            kwargs: also label_smoothing, see `LanguageModelKwargs`.
        """
        options = loss_options(kwargs)
        wanted = labels != -100 if self.skips_logits(labels, skip_logits) else None
        outputs = self.model(
            *(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds), wanted=wanted, **kwargs
        )
        loss, logits = self.predict_masked(outputs.last_hidden_state, labels, skip_logits, **options)
        return MaskedLMOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class GenaiBertForCausalLM(GenaiBertLanguageModel, GenaiGenerationMixin):
    """Each next token of a text, alone or, with `add_cross_attention`, as the decoder of an `EncoderDecoderModel`.

    It looks back only, whatever the configuration says: the model's own says is_decoder=True.

    Reference: Rothe, Narayan and Severyn (2020), arXiv:1907.12461, section 2 (decoders from BERT's checkpoints).
    """

    def __init__(self, config: GenaiBertConfig):
        if not config.is_decoder:
            config = copy.deepcopy(config)
            config.is_decoder = True
        super().__init__(config, causal=True)
        self.post_init()

    @property
    def first_position(self) -> int:  # generate() counts from 0
        return self.config.position_offset

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        skip_logits: bool | None = None,
        **kwargs: Unpack[LanguageModelKwargs],
    ) -> CausalLMOutputWithCrossAttentions:
        """Predict each next token of (B, T) ids; labels, source and cache are as those of `GenaiGPTForCausalLM`."""
        shift_labels = next_labels(labels, kwargs.pop("shift_labels", None), self.config.vocab_size)
        options = loss_options(kwargs)
        outputs = self.model(
            *(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds),
            *(encoder_hidden_states, encoder_attention_mask, cache),
            use_cache=False if self.training and shift_labels is not None else use_cache,
            **kwargs,
        )
        hidden = self.prediction(outputs.last_hidden_state)
        loss, logits = self.predict(hidden, shift_labels, skip_logits, logits_to_keep, past=outputs.cache, **options)
        more = {"attentions": outputs.attentions, "cross_attentions": outputs.cross_attentions}
        return CausalLMOutputWithCrossAttentions(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, **more, **cache_field(outputs.cache)
        )


@dataclass
class GenaiBertForPreTrainingOutput(ModelOutput):
    """The sum of the losses that have labels, in nats; of the vocabulary (B, T, V), and of the sentences (B, 2)."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class GenaiBertForPreTraining(MeanOverRows, GenaiBertLanguageModel):
    """The words that were masked out of two sentences, and whether the second follows the first.

    Reference: Devlin et al. (2019), arXiv:1810.04805, section 3.1, tasks 1 and 2.
    """

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config, pooled=True)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        next_sentence_label: torch.LongTensor | None = None,
        skip_logits: bool | None = None,
        **kwargs: Unpack[LanguageModelKwargs],
    ) -> GenaiBertForPreTrainingOutput:
        """Predict masked tokens, and the relation of the sentences that token_type_ids 0 and 1 tell apart.

        Args:
            labels: (B, T), as `GenaiBertForMaskedLM` has them, skip_logits too.
            next_sentence_label: (B,), 0 where the second sentence follows the first, 1 where it does not.
        """
        options = loss_options(kwargs)
        outputs = self.model(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        masked_loss, prediction_logits = self.predict_masked(outputs.last_hidden_state, labels, skip_logits, **options)
        relation = self.seq_relationship(outputs.pooler_output)
        losses = [masked_loss, None if next_sentence_label is None else choice_loss(relation, next_sentence_label)]
        losses = [loss for loss in losses if loss is not None]
        loss = torch.stack(losses).sum() if losses else None
        return GenaiBertForPreTrainingOutput(
            *(loss, prediction_logits, relation), outputs.hidden_states, outputs.attentions
        )


class GenaiBertClassifier(GenaiBertPreTrainedModel):
    """What the classifiers share: the encoder, and a linear head."""

    def __init__(self, config: GenaiBertConfig, num_outputs: int, pooled: bool):
        super().__init__(config)
        if pooled:
            self.refuse_causal()
        self.num_labels = config.num_labels
        self.model = GenaiBertModel(config, add_pooling_layer=pooled)
        self.dropout = nn.Dropout(config.head_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, num_outputs)
        self.post_init()


class GenaiBertForSequenceClassification(MeanOverRows, GenaiBertClassifier):
    """A label, several labels or a number for the whole text (`config.problem_type`)."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config, config.num_labels, pooled=True)

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """Return logits (B, num_labels)."""
        kwargs.setdefault("unpad", True)  # of padding nothing is read
        outputs = self.model(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None if labels is None else classification_loss(self, logits, labels)
        return SequenceClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class GenaiBertForTokenClassification(GenaiBertClassifier):
    """A label for each token."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config, config.num_labels, pooled=False)

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TokenClassifierOutput:
        """Return logits (B, T, num_labels); labels (B, T) are -100 where none is to be predicted."""
        items = {"num_items_in_batch": kwargs.pop("num_items_in_batch", None)}
        outputs = self.model(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            check_classes(labels, self.num_labels, tuple(logits.shape[:2]))
            loss = self.loss_function(logits, labels, self.config, **items)
        return TokenClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class GenaiBertForQuestionAnswering(MeanOverRows, GenaiBertPreTrainedModel):
    """Where in a text the answer begins and ends."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config)
        self.model = GenaiBertModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> QuestionAnsweringModelOutput:
        """Return start_logits and end_logits (B, T); start_positions and end_positions are (B,)."""
        # padding has a share in the loss, so it goes through the layers, too
        outputs = self.model(
            *(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds), unpad=False, **kwargs
        )
        start, end = self.qa_outputs(outputs.last_hidden_state).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start, end, start_positions, end_positions)
        return QuestionAnsweringModelOutput(loss, start, end, outputs.hidden_states, outputs.attentions)


class GenaiBertForMultipleChoice(MeanOverRows, GenaiBertClassifier):
    """Which of several texts, usually continuations of one, is right."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config, 1, pooled=True)

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MultipleChoiceModelOutput:
        """Return logits (B, C) for C choices, given as ids (B, C, T); labels (B,) are 0 to C - 1."""
        texts = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        if any(x is not None and x.ndim < 3 for x in texts):
            raise ValueError("input_ids, attention_mask and their kin must be (batch, choices, length)")
        choices = (input_ids if input_ids is not None else inputs_embeds).shape[1]
        outputs = self.model(*(None if x is None else x.flatten(0, 1) for x in texts), **kwargs)  # (B * C, ...)
        logits = self.classifier(self.dropout(outputs.pooler_output)).view(-1, choices)
        loss = None if labels is None else choice_loss(logits, labels)
        return MultipleChoiceModelOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class GenaiBertForNextSentencePrediction(MeanOverRows, GenaiBertPreTrainedModel):
    """Whether the second of two sentences follows the first (Devlin et al. 2019, section 3.1, task 2)."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config)
        self.refuse_causal()
        self.model = GenaiBertModel(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> NextSentencePredictorOutput:
        """Return logits (B, 2); labels (B,) are 0 where the second sentence follows the first, 1 where it does not."""
        outputs = self.model(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        logits = self.seq_relationship(outputs.pooler_output)
        loss = None if labels is None else choice_loss(logits, labels)
        return NextSentencePredictorOutput(loss, logits, outputs.hidden_states, outputs.attentions)


__all__ = [
    "GenaiBertForCausalLM",
    "GenaiBertForMaskedLM",
    "GenaiBertForMultipleChoice",
    "GenaiBertForNextSentencePrediction",
    "GenaiBertForPreTraining",
    "GenaiBertForPreTrainingOutput",
    "GenaiBertForQuestionAnswering",
    "GenaiBertForSequenceClassification",
    "GenaiBertForTokenClassification",
    "GenaiBertModel",
    "GenaiBertPreTrainedModel",
]
