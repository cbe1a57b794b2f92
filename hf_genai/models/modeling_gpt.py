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
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .base import (
    BaseModelOutputWithPastAndCrossAttentions,
    SequenceClassifierOutputWithPast,
    StackKwargs,
    cache_field,
    known_keywords,
)
from .configuration_gpt import GenaiGPTConfig
from .heads import (
    CausalLanguageModelHead,
    GenaiGenerationMixin,
    QuestionAnsweringHead,
    SequenceClassificationHead,
    TokenClassificationHead,
    head_of,
    last_vectors,
)
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
            self.dropout(hidden),
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            **kwargs,
        )
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden, **cache_field(cache))


TEXT = ("input_ids", "attention_mask", "position_ids")
SOURCE = ("encoder_hidden_states", "encoder_attention_mask")
LOGITS = ("logits_to_keep", "skip_logits")


@head_of(GenaiGPTModel, *TEXT, "cache", "inputs_embeds", *SOURCE, "labels", "use_cache", *LOGITS)
class GenaiGPTForCausalLM(CausalLanguageModelHead, GenaiGPTPreTrainedModel, GenaiGenerationMixin):
    """A language model: each next token of a text."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan: ClassVar[dict[str, Any]] = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: GenaiGPTConfig):
        super().__init__(config)
        self.model = GenaiGPTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


@head_of(GenaiGPTModel, *TEXT, "cache", "inputs_embeds", "labels", "use_cache")
class GenaiGPTForSequenceClassification(SequenceClassificationHead, GenaiGPTPreTrainedModel):
    """A label, several labels or a number for the whole text (`config.problem_type`), from its last real token.

    Without an attention_mask, tokens that are `config.pad_token_id` are taken for padding.
    """

    output_class = SequenceClassifierOutputWithPast

    def __init__(self, config: GenaiGPTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = GenaiGPTModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    def classify(self, outputs: Any, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        hidden = outputs.last_hidden_state
        if attention_mask is None and input_ids is not None and self.config.pad_token_id is not None:
            attention_mask = input_ids != self.config.pad_token_id
        if attention_mask is None or attention_mask.ndim != 2:
            return self.score(hidden[:, -1])
        return self.score(last_vectors(hidden, attention_mask[:, -hidden.shape[1] :]))


@head_of(GenaiGPTModel, *TEXT, "inputs_embeds", "labels")
class GenaiGPTForTokenClassification(TokenClassificationHead, GenaiGPTPreTrainedModel):
    """A label for each token, from it and those before it."""

    def __init__(self, config: GenaiGPTConfig):
        model = GenaiGPTModel(config)
        super().__init__(config, model, hidden_size=config.hidden_size, dropout=config.head_dropout_prob)


@head_of(GenaiGPTModel, *TEXT, "inputs_embeds", "start_positions", "end_positions")
class GenaiGPTForQuestionAnswering(QuestionAnsweringHead, GenaiGPTPreTrainedModel):
    """The positions in a text where the answer begins and ends."""

    def __init__(self, config: GenaiGPTConfig):
        super().__init__(config, GenaiGPTModel(config))


__all__ = [
    "GenaiGPTForCausalLM",
    "GenaiGPTForQuestionAnswering",
    "GenaiGPTForSequenceClassification",
    "GenaiGPTForTokenClassification",
    "GenaiGPTModel",
    "GenaiGPTPreTrainedModel",
]
