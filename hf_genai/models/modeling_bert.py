"""The bidirectional family: encoders (and decoders) in the manner of BERT, and heads on them.

Papers: Devlin et al. (2019), arXiv:1810.04805 (the classic preset); Liu et al. (2019), arXiv:1907.11692 (RoBERTa);
Warner et al. (2024), arXiv:2412.13663 (what a modern layout brings an encoder).

Shapes: B batch, T length, D hidden size, H heads, V vocabulary. Read from the bottom up; the stack is
in bert_stack.py, its layers in transformer_stack.py and blocks.py.
"""

import copy
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import MaskedLMOutput, MultipleChoiceModelOutput, NextSentencePredictorOutput
from transformers.utils import ModelOutput, TransformersKwargs

from .base import readable
from .bert_stack import BertStack, GenaiBertPredictionHead, GenaiBertPreTrainedModel
from .configuration_bert import GenaiBertConfig
from .heads import (
    CausalLanguageModelHead,
    GenaiGenerationMixin,
    LanguageModelHead,
    LanguageModelKwargs,
    MeanOverRows,
    QuestionAnsweringHead,
    SequenceClassificationHead,
    TokenClassificationHead,
    check_labels,
    choice_loss,
    head_of,
    output_of,
    split_kwargs,
)


class GenaiBertModel(BertStack):
    """The encoder without a head or, causal (`is_decoder`), the decoder."""


TEXT = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
SOURCE = ("encoder_hidden_states", "encoder_attention_mask")
LOGITS = ("logits_to_keep", "skip_logits")


class GenaiBertLanguageModel(LanguageModelHead, GenaiBertPreTrainedModel):
    """What the heads over the vocabulary share."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: GenaiBertConfig, pooled: bool = False):
        super().__init__(config)
        self.model = GenaiBertModel(config, add_pooling_layer=pooled)
        self.prediction = GenaiBertPredictionHead(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)

    def transform(self, hidden: Tensor) -> Tensor:
        return self.prediction(hidden)

    def predict_masked(
        self, hidden: Tensor, labels: Tensor | None, skip_logits: bool | None, **kwargs
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return loss and logits (B, T, V), as `predict` does, of the base model's hidden states (B, T, D)."""
        if labels is not None:
            check_labels(labels, self.config.vocab_size)
            if labels.shape != hidden.shape[:2]:
                raise ValueError(
                    f"labels must be (batch, length) = {tuple(hidden.shape[:2])}, not {tuple(labels.shape)}"
                )
            if self.skips_logits(labels, skip_logits) and readable(labels):
                masked = labels != -100
                hidden, labels = hidden[masked], labels[masked]  # (N, D), (N,)
        return self.predict(self.transform(hidden), labels, skip_logits, **kwargs)


@head_of(GenaiBertModel, *TEXT, "labels", "skip_logits")
class GenaiBertForMaskedLM(GenaiBertLanguageModel):
    """The words that were masked out of a text."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config)
        self.refuse_causal()
        self.post_init()

    def forward(
        self,
        labels: torch.LongTensor | None = None,
        skip_logits: bool | None = None,
        **kwargs: Unpack[LanguageModelKwargs],
    ) -> MaskedLMOutput:
        """Predict the token at each position of (B, T) ids.

        Args:
            labels: (B, T), -100 where none is to be predicted.
            skip_logits: return the loss without the logits, and score only the positions with a label. None: in
                training, yes.
            kwargs: arguments of the base model; also label_smoothing, see `LanguageModelKwargs`.
        """
        inputs, options = split_kwargs(kwargs)
        selected = labels != -100 if self.skips_logits(labels, skip_logits) else None
        outputs = self.model(**inputs, wanted=selected)
        loss, logits = self.predict_masked(outputs.last_hidden_state, labels, skip_logits, **options)
        return output_of(MaskedLMOutput, outputs, loss=loss, logits=logits)


@head_of(GenaiBertModel, *TEXT, *SOURCE, "labels", "cache", "use_cache", *LOGITS)
class GenaiBertForCausalLM(CausalLanguageModelHead, GenaiBertLanguageModel, GenaiGenerationMixin):
    """Each next token of a text, alone or, with `add_cross_attention`, as the decoder of an `EncoderDecoderModel`.

    It looks back only, whatever the configuration says: the model's own says is_decoder=True.

    Reference: Rothe, Narayan and Severyn (2020), arXiv:1907.12461, section 2 (decoders from BERT's checkpoints).
    """

    def __init__(self, config: GenaiBertConfig):
        if not config.is_decoder:
            config = copy.deepcopy(config)
            config.is_decoder = True
        super().__init__(config)
        self.post_init()

    @property
    def first_position(self) -> int:  # generate() counts from 0
        return self.config.position_offset


@dataclass
class GenaiBertForPreTrainingOutput(ModelOutput):
    """The sum of the losses that have labels, in nats; of the vocabulary (B, T, V), and of the sentences (B, 2)."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@head_of(GenaiBertModel, *TEXT, "labels", "next_sentence_label", "skip_logits")
class GenaiBertForPreTraining(MeanOverRows, GenaiBertLanguageModel):
    """The words that were masked out of two sentences, and whether the second follows the first.

    Reference: Devlin et al. (2019), arXiv:1810.04805, section 3.1, tasks 1 and 2.
    """

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config, pooled=True)
        self.refuse_causal()
        self.seq_relationship = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self,
        labels: torch.LongTensor | None = None,
        next_sentence_label: torch.LongTensor | None = None,
        skip_logits: bool | None = None,
        **kwargs: Unpack[LanguageModelKwargs],
    ) -> GenaiBertForPreTrainingOutput:
        """Predict masked tokens, and the relation of the sentences that token_type_ids 0 and 1 tell apart.

        Args:
            labels: (B, T), as `GenaiBertForMaskedLM` has them, skip_logits too.
            next_sentence_label: (B,), 0 where the second sentence follows the first, 1 where it does not.
            kwargs: arguments of the base model; also label_smoothing, see `LanguageModelKwargs`.
        """
        inputs, options = split_kwargs(kwargs)
        outputs = self.model(**inputs)
        masked_loss, logits = self.predict_masked(outputs.last_hidden_state, labels, skip_logits, **options)
        relation = self.seq_relationship(outputs.pooler_output)
        losses = [masked_loss, None if next_sentence_label is None else choice_loss(relation, next_sentence_label)]
        losses = [loss for loss in losses if loss is not None]
        return output_of(
            GenaiBertForPreTrainingOutput,
            outputs,
            loss=torch.stack(losses).sum() if losses else None,
            prediction_logits=logits,
            seq_relationship_logits=relation,
        )


class GenaiBertClassifier(GenaiBertPreTrainedModel):
    """What the heads share that read the vector of a whole text: the base model with its pooler, and a linear map."""

    def __init__(self, config: GenaiBertConfig, num_outputs: int):
        super().__init__(config)
        self.refuse_causal()
        self.num_labels = config.num_labels
        self.model = GenaiBertModel(config)
        self.dropout = nn.Dropout(config.head_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, num_outputs)
        self.post_init()


@head_of(GenaiBertModel, *TEXT, "labels")
class GenaiBertForSequenceClassification(SequenceClassificationHead, GenaiBertClassifier):
    """A label, several labels or a number for the whole text (`config.problem_type`)."""

    base_keywords = {"unpad": True}  # nothing is read at the positions of padding

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config, config.num_labels)

    def classify(self, outputs: Any, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        return self.classifier(self.dropout(outputs.pooler_output))


@head_of(GenaiBertModel, *TEXT, "labels")
class GenaiBertForTokenClassification(TokenClassificationHead, GenaiBertPreTrainedModel):
    """A label for each token."""

    def __init__(self, config: GenaiBertConfig):
        model = GenaiBertModel(config, add_pooling_layer=False)
        super().__init__(config, model, hidden_size=config.hidden_size, dropout=config.head_dropout_prob)


@head_of(GenaiBertModel, *TEXT, "start_positions", "end_positions")
class GenaiBertForQuestionAnswering(QuestionAnsweringHead, GenaiBertPreTrainedModel):
    """The positions in a text where the answer begins and ends."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config, GenaiBertModel(config, add_pooling_layer=False))


@head_of(GenaiBertModel, *TEXT, "labels")
class GenaiBertForMultipleChoice(MeanOverRows, GenaiBertClassifier):
    """Which of several texts, usually continuations of one, is right."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config, 1)

    def forward(
        self, labels: torch.LongTensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> MultipleChoiceModelOutput:
        """Return logits (B, C) for C choices.

        Args:
            labels: (B,), 0 to C - 1.
            kwargs: arguments of the base model, its texts as ids (B, C, T) or vectors (B, C, T, D).
        """
        inputs, _ = split_kwargs(kwargs)
        texts = {name: inputs[name] for name in TEXT if inputs.get(name) is not None}
        if not texts or any(tensor.ndim < 3 for tensor in texts.values()):
            raise ValueError("input_ids, attention_mask and their kin must be (batch, choices, length)")
        choices = next(iter(texts.values())).shape[1]
        outputs = self.model(**(inputs | {name: tensor.flatten(0, 1) for name, tensor in texts.items()}))
        logits = self.classifier(self.dropout(outputs.pooler_output)).view(-1, choices)
        loss = None if labels is None else choice_loss(logits, labels)
        return output_of(MultipleChoiceModelOutput, outputs, loss=loss, logits=logits)


@head_of(GenaiBertModel, *TEXT, "labels")
class GenaiBertForNextSentencePrediction(MeanOverRows, GenaiBertPreTrainedModel):
    """Whether the second of two sentences follows the first (Devlin et al. 2019, section 3.1, task 2)."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__(config)
        self.refuse_causal()
        self.model = GenaiBertModel(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self, labels: torch.LongTensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> NextSentencePredictorOutput:
        """Return logits (B, 2).

        Args:
            labels: (B,), 0 where the second sentence follows the first, 1 where it does not.
            kwargs: arguments of the base model.
        """
        outputs = self.model(**kwargs)
        logits = self.seq_relationship(outputs.pooler_output)
        loss = None if labels is None else choice_loss(logits, labels)
        return output_of(NextSentencePredictorOutput, outputs, loss=loss, logits=logits)


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
