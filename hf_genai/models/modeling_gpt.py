"""The causal family: language models in the manner of GPT, and heads on them.

Papers: Vaswani et al. (2017), arXiv:1706.03762; Radford et al. (2019), "Language Models are Unsupervised Multitask
Learners" (the classic preset); Touvron et al. (2023), arXiv:2302.13971 (the modern layout).

Shapes: B batch, T length, D hidden size, H heads, V vocabulary. Read from the bottom up; the layers are in
transformer_stack.py and blocks.py.
"""

from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import (
    QuestionAnsweringModelOutput,
    TokenClassifierOutput,
)
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .base import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    SequenceClassifierOutputWithPast,
    StackKwargs,
    cache_field,
    known_keywords,
)
from .configuration_gpt import GenaiGPTConfig
from .heads import (
    GenaiGenerationMixin,
    LanguageModelHead,
    LanguageModelKwargs,
    MeanOverRows,
    check_classes,
    classification_loss,
    head_forward,
    loss_options,
    next_labels,
    span_loss,
)
from .matmul import Linear
from .transformer_stack import GenaiTransformerPreTrainedModel, TransformerStack


class GenaiGPTPreTrainedModel(GenaiTransformerPreTrainedModel):
    config_class = GenaiGPTConfig
    config: GenaiGPTConfig


class GenaiGPTModel(GenaiGPTPreTrainedModel, TransformerStack):
    """The causal stack without a head."""

    def __init__(self, config: GenaiGPTConfig):
        TransformerStack.__init__(
            self, config, config.num_hidden_layers, is_causal=True, cross_attention=config.add_cross_attention
        )
        self.post_init()

    @known_keywords
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[StackKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Read T new tokens.

        Args:
            input_ids: token ids (B, T), 0 to vocab_size - 1; or inputs_embeds (B, T, D).
            attention_mask: (B, past + T), 1 for a real token and 0 for padding, on either side; or a mask (B, 1, T,
                past + T) made by the caller.
            position_ids: (B, T). None: counted, over real tokens only. Rows of several packed texts are given by
                positions that start over, without an attention_mask: then no text sees another.
            encoder_hidden_states: (B, S, D) of an encoder, for a model with `add_cross_attention`, with
                encoder_attention_mask (B, S).

        Raises:
            ValueError: ids outside the vocabulary, an empty batch, an all-padding row, more tokens than positions.
        """
        if encoder_hidden_states is not None and not self.config.add_cross_attention:
            raise ValueError("encoder_hidden_states needs a model with add_cross_attention=True")
        hidden, position_ids = self.embed("", input_ids, inputs_embeds, attention_mask, position_ids, cache)
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
            if self.config.add_cross_attention and encoder_hidden_states is not None:
                cache = EncoderDecoderCache(cache, DynamicCache(config=self.config))
        hidden = self.run(
            *(self.dropout(hidden), attention_mask, position_ids, cache),
            *(encoder_hidden_states, encoder_attention_mask),
            **kwargs,
        )
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden, **cache_field(cache))


class GenaiGPTForCausalLM(LanguageModelHead, GenaiGPTPreTrainedModel, GenaiGenerationMixin):
    """A language model: each next token of a text."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan: ClassVar[dict[str, Any]] = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: GenaiGPTConfig):
        super().__init__(config)
        self.model = GenaiGPTModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        skip_logits: bool | None = None,
        **kwargs: Unpack[LanguageModelKwargs],
    ) -> CausalLMOutputWithCrossAttentions:
        """Predict each next token of (B, T) ids.

        Args:
            labels: (B, T), usually the input_ids themselves, shifted here; -100 where none is to be predicted.
            skip_logits: return the loss without the logits, which are then never all in memory. None: in training,
                yes.
            kwargs: also shift_labels and label_smoothing, see `LanguageModelKwargs`.
        """
        shift_labels = next_labels(labels, kwargs.pop("shift_labels", None), self.config.vocab_size)
        options = loss_options(kwargs)
        outputs = self.model(
            *(input_ids, attention_mask, position_ids, cache, inputs_embeds),
            *(encoder_hidden_states, encoder_attention_mask),
            use_cache=False if self.training and shift_labels is not None else use_cache,
            **kwargs,
        )
        loss, logits = self.predict(
            *(outputs.last_hidden_state, shift_labels, skip_logits, logits_to_keep),
            past=outputs.cache,
            **options,
        )
        return CausalLMOutputWithCrossAttentions(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            **cache_field(outputs.cache),
        )


class GenaiGPTForSequenceClassification(MeanOverRows, GenaiGPTPreTrainedModel):
    """A label, several labels or a number for the whole text (`config.problem_type`), from its last token."""

    def __init__(self, config: GenaiGPTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = GenaiGPTModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutputWithPast:
        """Return logits (B, num_labels), read off the last real token of each row (B, T).

        Without an attention_mask, tokens that are `config.pad_token_id` are taken for padding.
        """
        outputs = self.model(
            *(input_ids, attention_mask, position_ids, cache, inputs_embeds),
            use_cache=use_cache if labels is None else False,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        if attention_mask is None and input_ids is not None and self.config.pad_token_id is not None:
            attention_mask = input_ids != self.config.pad_token_id
        if attention_mask is None or attention_mask.ndim != 2:
            last = torch.full((hidden.shape[0],), hidden.shape[1] - 1, device=hidden.device)
        else:
            places = torch.arange(hidden.shape[1], device=hidden.device)
            last = (places * attention_mask[:, -hidden.shape[1] :].long()).argmax(1)  # (B,)
        logits = self.score(hidden[torch.arange(hidden.shape[0], device=hidden.device), last])
        loss = None if labels is None else classification_loss(self, logits, labels)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **cache_field(outputs.cache),
        )


class GenaiGPTForTokenClassification(GenaiGPTPreTrainedModel):
    """A label for each token, from it and those before it."""

    def __init__(self, config: GenaiGPTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = GenaiGPTModel(config)
        self.dropout = nn.Dropout(config.head_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TokenClassifierOutput:
        """Return logits (B, T, num_labels); labels (B, T) are -100 where none is to be predicted."""
        items = {"num_items_in_batch": kwargs.pop("num_items_in_batch", None)}
        outputs = self.model(
            input_ids, attention_mask, position_ids, inputs_embeds=inputs_embeds, **{"use_cache": False, **kwargs}
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            check_classes(labels, self.num_labels, tuple(logits.shape[:2]))
            loss = self.loss_function(logits, labels, self.config, **items)
        return TokenClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class GenaiGPTForQuestionAnswering(MeanOverRows, GenaiGPTPreTrainedModel):
    """Where in a text the answer begins and ends."""

    def __init__(self, config: GenaiGPTConfig):
        super().__init__(config)
        self.model = GenaiGPTModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> QuestionAnsweringModelOutput:
        """Return start_logits and end_logits (B, T); start_positions and end_positions are (B,)."""
        # padding has a share in the loss, so it goes through the layers, too
        outputs = self.model(
            *(input_ids, attention_mask, position_ids),
            inputs_embeds=inputs_embeds,
            unpad=False,
            **{"use_cache": False, **kwargs},
        )
        start, end = self.qa_outputs(outputs.last_hidden_state).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start, end, start_positions, end_positions)
        return QuestionAnsweringModelOutput(loss, start, end, outputs.hidden_states, outputs.attentions)


__all__ = [
    "GenaiGPTForCausalLM",
    "GenaiGPTForQuestionAnswering",
    "GenaiGPTForSequenceClassification",
    "GenaiGPTForTokenClassification",
    "GenaiGPTModel",
    "GenaiGPTPreTrainedModel",
]
