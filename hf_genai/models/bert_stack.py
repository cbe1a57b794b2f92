"""The stack of the BERT-style family: embeddings with segments, layers, pooler; and what stands before a vocabulary.

Shapes: B batch, T target and S source length, D hidden size.
"""

from typing import Unpack

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .base import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    StackKwargs,
    cache_field,
    check_ids,
    check_shape,
    known_keywords,
    readable,
)
from .blocks import ACTIVATIONS, make_norm
from .configuration_bert import GenaiBertConfig
from .matmul import Linear
from .positions import positions_from_mask
from .transformer_stack import GenaiTransformerPreTrainedModel, TransformerStack


class GenaiBertPreTrainedModel(GenaiTransformerPreTrainedModel):
    config_class = GenaiBertConfig
    config: GenaiBertConfig

    def refuse_causal(self) -> None:
        """For heads on what each token, or the first one, knows of the whole text."""
        if self.config.is_decoder:
            raise ValueError(f"is_decoder must be False: a {type(self).__name__} reads its text in both directions")


class GenaiBertPooler(nn.Module):
    """What is known of a whole text: the vector of its first token that is no padding, projected.

    Reference: Devlin et al. (2019), section 3.1 ("the final hidden state corresponding to [CLS]").
    """

    def __init__(self, config: GenaiBertConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.activation = torch.tanh if config.pooler_act == "tanh" else torch.relu

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, D); attention_mask is (B, past + T)."""
        first = hidden_states[:, 0]
        if attention_mask is not None and attention_mask.ndim == 2:
            # len() would fix the size in an exported graph
            rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
            first = hidden_states[rows, attention_mask[:, -hidden_states.shape[1] :].long().argmax(1)]
        return self.activation(self.dense(first))


class BertStack(GenaiBertPreTrainedModel, TransformerStack):
    """See `GenaiBertModel`."""

    def __init__(self, config: GenaiBertConfig, add_pooling_layer: bool = True):
        TransformerStack.__init__(
            *(self, config, config.num_hidden_layers),
            is_causal=config.is_decoder,
            cross_attention=config.add_cross_attention,
            padding_idx=config.pad_token_id,
        )
        segments = config.type_vocab_size
        self.embed_token_types = nn.Embedding(segments, config.hidden_size) if segments else None
        self.embed_norm = make_norm(config) if config.norm_embeddings else None
        # the first token of a causal text knows of no other
        self.pooler = GenaiBertPooler(config) if add_pooling_layer and not config.is_decoder else None
        self.post_init()

    def make_positions(self) -> nn.Embedding:
        padding = self.config.pad_token_id if self.config.position_offset else None
        return nn.Embedding(self.config.max_position_embeddings, self.config.hidden_size, padding)

    def offset_positions(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        past: int | Tensor = 0,
    ) -> Tensor:
        """Count as RoBERTa does (B, T): real tokens from `position_offset` on, padding at `pad_token_id`."""
        text = input_ids if inputs_embeds is None else inputs_embeds
        real = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        if inputs_embeds is None:
            real = real & (input_ids != self.config.pad_token_id)
        if attention_mask is not None and attention_mask.ndim == 2:
            rows, length = real.shape
            whole = isinstance(past, int) and past == 0
            check_shape("attention_mask", attention_mask, (rows, length if whole else attention_mask.shape[1]))
            real &= attention_mask[:, -length:].bool()
            if attention_mask.shape[1] > length:
                past = attention_mask[:, :-length].long().sum(1, keepdim=True)
        counted = positions_from_mask(real, real.shape[1]) + self.config.position_offset + past
        return torch.where(real, counted, self.config.pad_token_id)

    @known_keywords
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[StackKwargs],
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        """Read a text; causal (`is_decoder`), T new tokens of one.

        Args:
            input_ids: token ids (B, T), 0 to vocab_size - 1; or inputs_embeds (B, T, D).
            attention_mask: (B, past + T), 1 for a real token and 0 for padding, on either side.
            token_type_ids: (B, T), the segment of each token, 0 to type_vocab_size - 1. None: all 0.
            position_ids: (B, T). None: counted, over real tokens only. Rows of several packed texts are given by
                positions that start over, without an attention_mask: then no text sees another.
            encoder_hidden_states: (B, S, D) of an encoder, for a model with `add_cross_attention`, with
                encoder_attention_mask (B, S).
            cache: keys and values so far, of a causal model, or a learned prefix (PEFT) that each token
                sees; takes up the new ones.

        Returns:
            last_hidden_state (B, T, D), and pooler_output (B, D) where the model has a pooler.

        Raises:
            ValueError: ids outside the vocabulary, an empty batch, an all-padding row, more tokens than positions; a
                source that the model has no use for.
        """
        if encoder_hidden_states is not None and not self.config.add_cross_attention:
            raise ValueError("encoder_hidden_states needs a model with add_cross_attention=True")
        offset, counted = self.config.position_offset, position_ids is None
        text = input_ids if inputs_embeds is None else inputs_embeds
        # else `embed` says what is wrong
        if counted and offset and text is not None and text.ndim == (2 if inputs_embeds is None else 3):
            past = 0 if cache is None else cache.get_seq_length()
            position_ids = self.offset_positions(input_ids, inputs_embeds, attention_mask, past)
        hidden, position_ids = self.embed("", input_ids, inputs_embeds, attention_mask, position_ids, cache)
        if self.embed_token_types is not None:
            if token_type_ids is None:
                token_type_ids = torch.zeros(1, 1, dtype=torch.long, device=hidden.device)
            else:
                check_ids("token_type_ids", token_type_ids, self.config.type_vocab_size)
                check_shape("token_type_ids", token_type_ids, tuple(hidden.shape[:2]), (1, hidden.shape[1]))
            hidden = hidden + self.embed_token_types(token_type_ids)
        elif token_type_ids is not None and readable(token_type_ids) and token_type_ids.any():
            raise ValueError("token_type_ids must be all 0: this model tells no segments apart (type_vocab_size=0)")
        if self.embed_norm is not None:
            hidden = self.embed_norm(hidden)
        # counted with an offset, the positions of padding start over as those of packed texts do
        position_ids = None if offset and counted else position_ids
        if use_cache and self.is_causal and cache is None:
            cache = DynamicCache(config=self.config)
            if encoder_hidden_states is not None:
                cache = EncoderDecoderCache(cache, DynamicCache(config=self.config))
        hidden = self.run(
            *(self.dropout(hidden), attention_mask, position_ids, cache),
            *(encoder_hidden_states, encoder_attention_mask),
            **kwargs,
        )
        pooled = None if self.pooler is None else self.pooler(hidden, attention_mask)
        return BaseModelOutputWithPoolingAndCrossAttentions(hidden, pooled, **cache_field(cache))


class GenaiBertPredictionHead(nn.Module):
    """One more projection before the vocabulary, as in BERT's published code."""

    def __init__(self, config: GenaiBertConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.norm = make_norm(config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(hidden_states)))
