"""The bidirectional family: encoders in the manner of BERT, and heads on them.

Papers: Devlin et al. (2019), arXiv:1810.04805 (the classic preset); Liu et al. (2019), arXiv:1907.11692 (RoBERTa);
Warner et al. (2024), arXiv:2412.13663 (what a modern layout brings an encoder).

Shapes: B batch, T length, D hidden size, H heads, V vocabulary. Read from the bottom up; the layers are in
transformer_stack.py and blocks.py.
"""

from typing import Unpack

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import SelfAttention
from .blocks import ACTIVATIONS, TransformerLayer, make_norm
from .configuration_bert import GenaiBertConfig
from .heads import LanguageModelHead, check_classes, check_labels, classification_loss, span_loss
from .matmul import Linear
from .positions import positions_from_mask
from .seq2seq import check_ids
from .transformer_stack import GenaiTransformerPreTrainedModel, TransformerStack


class GenaiBertPreTrainedModel(GenaiTransformerPreTrainedModel):
    config_class = GenaiBertConfig
    config: GenaiBertConfig
    _can_record_outputs = {
        "hidden_states": TransformerLayer,
        "attentions": OutputRecorder(SelfAttention, index=1),
    }


class GenaiBertPooler(nn.Module):
    """What is known of a whole text: the vector of its first token that is no padding, projected.

    Reference: Devlin et al. (2019), section 3.1 ("the final hidden state corresponding to [CLS]").
    """

    def __init__(self, config: GenaiBertConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.activation = torch.tanh if config.pooler_act == "tanh" else torch.relu

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, D); attention_mask is (B, T)."""
        first = hidden_states[:, 0]
        if attention_mask is not None and attention_mask.ndim == 2:
            rows = torch.arange(len(hidden_states), device=hidden_states.device)
            first = hidden_states[rows, attention_mask.long().argmax(1)]
        return self.activation(self.dense(first))


class GenaiBertModel(GenaiBertPreTrainedModel, TransformerStack):
    """The encoder without a head."""

    def __init__(self, config: GenaiBertConfig, add_pooling_layer: bool = True):
        TransformerStack.__init__(
            self, config, config.num_hidden_layers, is_causal=False, padding_idx=config.pad_token_id
        )
        segments = config.type_vocab_size
        self.embed_token_types = nn.Embedding(segments, config.hidden_size) if segments else None
        self.embed_norm = make_norm(config) if config.norm_embeddings else None
        self.pooler = GenaiBertPooler(config) if add_pooling_layer else None
        self.post_init()

    def make_positions(self) -> nn.Embedding:
        padding = self.config.pad_token_id if self.config.position_offset else None
        return nn.Embedding(self.config.max_position_embeddings, self.config.hidden_size, padding)

    def offset_positions(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, attention_mask: Tensor | None
    ) -> Tensor:
        """Count as RoBERTa does (B, T): real tokens from `position_offset` on, padding at `pad_token_id`."""
        text = input_ids if inputs_embeds is None else inputs_embeds
        real = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        if input_ids is not None:
            real &= input_ids != self.config.pad_token_id
        if attention_mask is not None and attention_mask.shape == real.shape:
            real &= attention_mask.bool()
        counted = positions_from_mask(real, real.shape[1]) + self.config.position_offset
        return torch.where(real, counted, self.config.pad_token_id)

    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Read a text.

        Args:
            input_ids: token ids (B, T), 0 to vocab_size - 1; or inputs_embeds (B, T, D).
            attention_mask: (B, T), 1 for a real token and 0 for padding, on either side.
            token_type_ids: (B, T), the segment of each token, 0 to type_vocab_size - 1. None: all 0.
            position_ids: (B, T). None: counted, over real tokens only. Rows of several packed texts are given by
                positions that start over, without an attention_mask: then no text sees another.

        Returns:
            last_hidden_state (B, T, D), and pooler_output (B, D) where the model has a pooler.

        Raises:
            ValueError: ids outside the vocabulary, an empty batch, an all-padding row, more tokens than positions.
        """
        offset, counted = self.config.position_offset, position_ids is None
        if counted and offset and (input_ids is not None or inputs_embeds is not None):
            position_ids = self.offset_positions(input_ids, inputs_embeds, attention_mask)
        hidden, position_ids = self.embed("", input_ids, inputs_embeds, attention_mask, position_ids)
        if self.embed_token_types is not None:
            if token_type_ids is None:
                hidden = hidden + self.embed_token_types.weight[0]
            else:
                check_ids("token_type_ids", token_type_ids, self.config.type_vocab_size)
                hidden = hidden + self.embed_token_types(token_type_ids)
        elif token_type_ids is not None and not torch.compiler.is_compiling() and token_type_ids.any():
            raise ValueError("token_type_ids must be all 0: this model tells no segments apart (type_vocab_size=0)")
        if self.embed_norm is not None:
            hidden = self.embed_norm(hidden)
        # counted with an offset, the positions of padding start over as those of packed texts do
        position_ids = None if offset and counted else position_ids
        hidden = self.run(self.dropout(hidden), attention_mask, position_ids, **kwargs)
        pooled = None if self.pooler is None else self.pooler(hidden, attention_mask)
        return BaseModelOutputWithPooling(hidden, pooled)


class GenaiBertPredictionHead(nn.Module):
    """One more projection before the vocabulary, as in BERT's published code."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.norm = make_norm(config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(hidden_states)))


class GenaiBertForMaskedLM(LanguageModelHead, GenaiBertPreTrainedModel):
    """The words that were masked out of a text."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config)
        self.model = GenaiBertModel(config, add_pooling_layer=False)
        self.prediction = GenaiBertPredictionHead(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        skip_logits: bool | None = None,
        label_smoothing: float = 0.0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """Predict the token at each place of (B, T) ids.

        Args:
            labels: (B, T), -100 where none is to be predicted.
            skip_logits: return the loss without the logits, and work only where there is a label. None: in training,
                yes.
        """
        items = {"num_items_in_batch": kwargs.pop("num_items_in_batch", None)}
        outputs = self.model(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        hidden = outputs.last_hidden_state
        if labels is not None:
            check_labels(labels, self.config.vocab_size)
            if labels.shape != hidden.shape[:2]:
                raise ValueError(
                    f"labels must be (batch, length) = {tuple(hidden.shape[:2])}, not {tuple(labels.shape)}"
                )
            skip_logits = self.training if skip_logits is None else skip_logits
            if skip_logits and not torch.compiler.is_compiling():
                masked = labels != -100
                hidden, labels = hidden[masked], labels[masked]  # (N, D), (N,)
        loss, logits = self.predict(
            self.prediction(hidden), labels, skip_logits, label_smoothing=label_smoothing, **items
        )
        return MaskedLMOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class GenaiBertClassifier(GenaiBertPreTrainedModel):
    """What the classifiers share: the encoder, and a linear head."""

    def __init__(self, config: GenaiBertConfig, num_outputs: int, pooled: bool):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = GenaiBertModel(config, add_pooling_layer=pooled)
        self.dropout = nn.Dropout(config.head_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, num_outputs)
        self.post_init()


class GenaiBertForSequenceClassification(GenaiBertClassifier):
    """A label, several labels or a number for the whole text (`config.problem_type`)."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config, config.num_labels, pooled=True)

    @can_return_tuple
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
        kwargs.pop("num_items_in_batch", None)
        outputs = self.model(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None if labels is None else classification_loss(self, logits, labels)
        return SequenceClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class GenaiBertForTokenClassification(GenaiBertClassifier):
    """A label for each token."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config, config.num_labels, pooled=False)

    @can_return_tuple
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
            check_classes(labels, self.num_labels)
            loss = self.loss_function(logits, labels, self.config, **items)
        return TokenClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class GenaiBertForQuestionAnswering(GenaiBertPreTrainedModel):
    """Where in a text the answer begins and ends."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config)
        self.model = GenaiBertModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
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
        kwargs.pop("num_items_in_batch", None)
        outputs = self.model(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        start, end = self.qa_outputs(outputs.last_hidden_state).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start, end, start_positions, end_positions)
        return QuestionAnsweringModelOutput(loss, start, end, outputs.hidden_states, outputs.attentions)


class GenaiBertForMultipleChoice(GenaiBertClassifier):
    """Which of several texts, usually continuations of one, is right."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config, 1, pooled=True)

    @can_return_tuple
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
        kwargs.pop("num_items_in_batch", None)
        choices = (input_ids if input_ids is not None else inputs_embeds).shape[1]
        texts = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.model(*(None if x is None else x.flatten(0, 1) for x in texts), **kwargs)  # (B * C, ...)
        logits = self.classifier(self.dropout(outputs.pooler_output)).view(-1, choices)
        loss = None
        if labels is not None:
            check_classes(labels, choices)
            loss = nn.functional.cross_entropy(logits.float(), labels)
        return MultipleChoiceModelOutput(loss, logits, outputs.hidden_states, outputs.attentions)


__all__ = [
    "GenaiBertForMaskedLM",
    "GenaiBertForMultipleChoice",
    "GenaiBertForQuestionAnswering",
    "GenaiBertForSequenceClassification",
    "GenaiBertForTokenClassification",
    "GenaiBertModel",
    "GenaiBertPreTrainedModel",
]
