"""The encoder and the decoder of the T5-style family, and its base class.

Shapes: B batch, T target and S source length, D hidden size.
"""

from typing import Unpack

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import SelfAttention
from .base import (
    BaseModelOutputWithPastAndCrossAttentions,
    EncoderKwargs,
    StackKwargs,
    cache_field,
    known_keywords,
    shift_tokens_right,
)
from .blocks import TransformerLayer
from .configuration_t5 import GenaiT5Config
from .transformer_stack import GenaiTransformerPreTrainedModel, TransformerStack


class GenaiT5PreTrainedModel(GenaiTransformerPreTrainedModel):
    config_class = GenaiT5Config
    config: GenaiT5Config

    def shift_right(self, labels: Tensor) -> Tensor:
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    def get_input_embeddings(self):
        return self.base_model.encoder.embed_tokens

    def set_input_embeddings(self, value):
        self.base_model.encoder.embed_tokens = value


class GenaiT5Encoder(GenaiT5PreTrainedModel, TransformerStack):
    """Reads the source. Its embeddings are the decoder's, too."""

    _can_record_outputs = {
        "hidden_states": OutputRecorder(TransformerLayer, num_hidden_layers_key="encoder_layers"),
        "attentions": OutputRecorder(SelfAttention, index=1),
    }

    def __init__(self, config: GenaiT5Config):
        TransformerStack.__init__(self, config, config.encoder_layers, is_causal=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    @known_keywords
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[EncoderKwargs],
    ) -> BaseModelOutput:
        """Encode token ids (B, S), or their vectors inputs_embeds (B, S, D); returns (B, S, D).

        Several texts packed in a row are given by position_ids (B, S) that start over, without an attention_mask.
        """
        hidden, position_ids = self.embed("", input_ids, inputs_embeds, attention_mask, position_ids)
        hidden = self.run(self.dropout(hidden), attention_mask, position_ids, **kwargs)
        return BaseModelOutput(last_hidden_state=self.dropout(hidden))


class GenaiT5Decoder(GenaiT5PreTrainedModel, TransformerStack):
    """Writes the target, looking at the source. It takes token vectors: the embedding table is the encoder's."""

    packs_texts = False  # several would look at one source

    def __init__(self, config: GenaiT5Config):
        TransformerStack.__init__(
            self, config, config.decoder_layers, is_causal=True, cross_attention=True, embed_tokens=False
        )
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    @known_keywords
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[StackKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Run over the vectors of T new tokens, inputs_embeds (B, T, D).

        Args:
            attention_mask: (B, past + T), 0 where a token is padding.
            encoder_hidden_states: (B, S, D), with encoder_attention_mask (B, S).
            cache: keys and values so far; takes up the new ones.
        """
        hidden, position_ids = self.embed("decoder_", None, inputs_embeds, attention_mask, position_ids, cache)
        if use_cache and cache is None:
            cache = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        hidden = self.run(
            self.dropout(hidden),
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            **kwargs,
        )
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.dropout(hidden), **cache_field(cache))
