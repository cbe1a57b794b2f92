"""The recurrent encoder and decoder, and the base class of the family: initialisation, resizing, saving.

Shapes: B batch, T target and S source length, D hidden size, N slots of a state (GRU: h; LSTM: h and c).
"""

from typing import Unpack

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .base import (
    BaseModelOutputWithPastAndCrossAttentions,
    EncoderKwargs,
    GenaiPreTrainedModel,
    cache_field,
    check_ids,
    check_mask,
    check_shape,
    is_filled,
    known_keywords,
    resized_embeddings,
    resized_head,
    size_of,
)
from .configuration_rnn import GenaiRNNConfig
from .recurrence import GATES, SLOTS
from .recurrent_cache import RecurrentStateLayer
from .recurrent_layers import GenaiRNNAttention, GenaiRNNAttentionLayer, GenaiRNNLayer, over_tokens


class GenaiRNNPreTrainedModel(GenaiPreTrainedModel):
    config_class = GenaiRNNConfig
    config: GenaiRNNConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GenaiRNNLayer", "GenaiRNNAttentionLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_context_parallel = False

    @torch.no_grad()
    def _init_weights(self, module):
        """Embeddings and heads normal, other projections Xavier, recurrent matrices orthogonal gate by gate, biases 0.

        The forget gate of an LSTM starts open, with bias 1 (Jozefowicz et al. 2015).
        """
        super()._init_weights(module)
        if not isinstance(module, nn.Linear) or getattr(module, "_genai_is_head", False):
            return
        cell_type = getattr(module, "_genai_cell_type", None)
        if cell_type is None:
            init.xavier_uniform_(module.weight)
            return
        # init skips what a checkpoint has filled; views of it do not carry that mark, so it is asked here
        if not is_filled(module.weight):
            for gate in module.weight.chunk(GATES[cell_type]):
                init.orthogonal_(gate)
        if cell_type == "lstm" and not is_filled(module.bias):
            init.ones_(module.bias.chunk(GATES[cell_type])[1])

    def get_input_embeddings(self):
        encoder = getattr(self.base_model, "encoder", None)
        return (encoder or self.base_model.decoder).embed_tokens

    def set_input_embeddings(self, value):
        encoder = getattr(self.base_model, "encoder", None)
        (encoder or self.base_model.decoder).embed_tokens = value

    def resize_token_embeddings(self, new_num_tokens=None, pad_to_multiple_of=None, mean_resizing=True):
        """Resize the embeddings of both sides or, of a model with two vocabularies, the encoder's."""
        if not self.config.is_encoder_decoder or self.config.share_encoder_decoder_embeddings:
            return super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        resized = resized_embeddings(
            self, self.get_input_embeddings(), new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        self.set_input_embeddings(resized)
        if self.config.source_vocab_size is None:
            self.resize_decoder_token_embeddings(resized.num_embeddings)
        else:
            self.config.source_vocab_size = resized.num_embeddings
        return resized

    def resize_decoder_token_embeddings(self, new_num_tokens: int) -> nn.Embedding:
        """Resize the decoder's embeddings, and the head, of a model with two embedding tables.

        Raises:
            ValueError: if there is one table; `resize_token_embeddings` is for that.
        """
        if not self.config.is_encoder_decoder or self.config.share_encoder_decoder_embeddings:
            raise ValueError("this model has one embedding table: use resize_token_embeddings")
        decoder, head = self.base_model.decoder, self.get_output_embeddings()
        decoder.embed_tokens = resized_embeddings(self, decoder.embed_tokens, new_num_tokens)
        self.config.vocab_size = decoder.embed_tokens.num_embeddings
        if head is not None and not self.config.tie_word_embeddings:
            self.set_output_embeddings(resized_head(self, head, new_num_tokens))
        elif head is not None:
            self.tie_weights()
            head.out_features = self.config.vocab_size
        return decoder.embed_tokens


class GenaiRNNEncoder(GenaiRNNPreTrainedModel):
    """Reads the source: a stack of recurrent layers in one direction or both."""

    def __init__(self, config: GenaiRNNConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(
            config.source_vocab_size or config.vocab_size, config.embedding_size, config.pad_token_id
        )
        self.dropout = nn.Dropout(config.dropout)
        self.directions = ["left_to_right", "right_to_left"] if config.bidirectional_encoder else ["left_to_right"]
        if config.reverse_source:
            self.directions = ["right_to_left"]
        size = config.encoder_hidden_size // len(self.directions)
        sizes = [config.embedding_size] + [config.encoder_hidden_size] * (config.encoder_layers - 1)
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: GenaiRNNLayer(config.cell_type, inputs, size) for name in self.directions})
            for inputs in sizes
        )
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    @known_keywords
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Unpack[EncoderKwargs],
    ) -> BaseModelOutput:
        """Encode token ids (B, S), or their vectors `inputs_embeds` (B, S, embedding_size).

        Returns:
            last_hidden_state: (B, S, encoder_hidden_size). A padded place repeats the last state before it in reading
            order, so the first and the last place always hold what each direction knows of the whole source.
        """
        hidden = self.dropout(embed("", input_ids, inputs_embeds, self.embed_tokens, self.config.embedding_size))
        mask = check_mask("attention_mask", attention_mask, *hidden.shape[:2])
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        everything = [hidden]
        for index, layer in enumerate(self.layers):
            if index:
                hidden = self.dropout(hidden)
            hidden = torch.cat([self.read(layer[name], hidden, mask, name) for name in self.directions], dim=-1)
            everything.append(hidden)
        return BaseModelOutput(last_hidden_state=hidden, hidden_states=tuple(everything) if keep_all else None)

    def read(self, layer: GenaiRNNLayer, inputs: Tensor, mask: Tensor | None, direction: str) -> Tensor:
        """Return the outputs (B, S, D) of one layer in one direction."""
        backward = direction == "right_to_left"
        if backward:
            inputs, mask = inputs.flip(1), None if mask is None else mask.flip(1)
        # len() would fix the size in an exported graph, here as elsewhere
        start = inputs.new_zeros(inputs.shape[0], SLOTS[layer.cell_type], layer.hidden_proj.in_features)
        (states,) = over_tokens(lambda tokens: layer(tokens, start), inputs, start, mask)
        outputs = states[:, :, 0]  # (B, S, D): of an LSTM, h without c
        return outputs.flip(1) if backward else outputs

    def summary(self, outputs: Tensor) -> Tensor:
        """Return (B, encoder_hidden_size): of the outputs (B, S, encoder_hidden_size), each direction's last."""
        parts = outputs.chunk(len(self.directions), dim=-1)
        ends = [-1 if name == "left_to_right" else 0 for name in self.directions]
        return torch.cat([part[:, end] for part, end in zip(parts, ends, strict=True)], dim=-1)


class GenaiRNNDecoder(GenaiRNNPreTrainedModel):
    """Writes the target, looking at the source where there is one."""

    def __init__(self, config: GenaiRNNConfig):
        super().__init__(config)
        size, translates = config.hidden_size, config.is_encoder_decoder
        shared = translates and config.share_encoder_decoder_embeddings
        # Sharing the encoder's table means having none here: the vectors come in from GenaiRNNModel.
        self.embed_tokens = (
            None if shared else nn.Embedding(config.vocab_size, config.embedding_size, config.pad_token_id)
        )
        self.dropout = nn.Dropout(config.dropout)
        attends = translates and config.attention_type != "none"
        feeds = attends and (config.attention_position == "before" or config.input_feeding)
        constant = translates and not attends and config.attention_position == "before"
        sizes = [config.embedding_size] + [size] * (config.decoder_layers - 1)
        layers: list[GenaiRNNLayer] = [GenaiRNNLayer(config.cell_type, inputs, size) for inputs in sizes]
        if feeds:
            layers[0] = GenaiRNNAttentionLayer(config)
        self.layers = nn.ModuleList(layers)
        self.attention = GenaiRNNAttention(config) if attends and not feeds else None
        self.summary_proj = (
            nn.Linear(config.encoder_hidden_size, GATES[config.cell_type] * size, bias=False) if constant else None
        )
        self.slots = SLOTS[config.cell_type]
        self.bridge = (
            nn.Linear(config.encoder_hidden_size, config.decoder_layers * self.slots * size) if translates else None
        )
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    def start(self, batch: Tensor, summary: Tensor | None) -> list[Tensor]:
        """Return each layer's state (B, N, D) before the first token: made from the source, or zeros."""
        shape = (batch.shape[0], len(self.layers), self.slots, self.config.hidden_size)
        states = batch.new_zeros(shape) if self.bridge is None else torch.tanh(self.bridge(summary)).view(shape)
        starts = list(states.unbind(1))
        if self.config.input_feeding and self.bridge is not None:
            starts[0] = torch.cat([starts[0], torch.zeros_like(starts[0][:, :1])], dim=1)
        return starts

    @known_keywords
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        encoder_summary: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Run the decoder over T new tokens.

        Args:
            input_ids: (B, T); or inputs_embeds (B, T, embedding_size).
            attention_mask: (B, past + T), 0 where a token is padding and changes no state.
            encoder_hidden_states: (B, S, encoder_hidden_size), with encoder_attention_mask (B, S).
            encoder_summary: (B, encoder_hidden_size), the source in one vector; needed at the first step.
            cache: the states so far; takes up those after the new tokens.
        """
        own = getattr(cache, "self_attention_cache", cache)
        continues = own is not None and own.get_seq_length() > 0
        side, size = "decoder_" if self.config.is_encoder_decoder else "", self.config.embedding_size
        hidden = self.dropout(embed(side, input_ids, inputs_embeds, self.embed_tokens, size, not continues))
        if encoder_hidden_states is not None and encoder_hidden_states.shape[0] != hidden.shape[0]:
            rows = len(encoder_hidden_states)
            raise ValueError(f"{side}input_ids must have a row for each of the {rows} sources, not {len(hidden)}")
        if attention_mask is not None:
            rows, length = hidden.shape[:2]
            check_shape(
                f"{side}attention_mask",
                attention_mask,
                (rows, max(length, attention_mask.shape[-1]) if continues else length),
            )
            attention_mask = attention_mask[:, -hidden.shape[1] :].bool()
        starts = states_of(own) if continues else self.start(hidden, encoder_summary)
        memory, source_mask = self.look_back(encoder_hidden_states, encoder_attention_mask, encoder_summary, cache)
        everything, weights = [hidden], None
        for index, (layer, start) in enumerate(zip(self.layers, starts, strict=True)):
            source = memory if index == 0 and self.attention is None else ()
            states, *found = over_tokens(
                lambda tokens, layer=layer, start=start, source=source: layer(tokens, start, source_mask, *source),
                *(self.dropout(hidden) if index else hidden, start, attention_mask),
            )
            hidden, weights = found or (states[:, :, 0], weights)  # (B, T, D), (B, T, S)
            if own is not None:
                own.update(states, None, index)
            everything.append(hidden)
        if self.attention is not None:
            hidden, weights = self.attention(hidden, *memory, source_mask)
            everything[-1] = hidden
        wanted = self.config.output_attentions if output_attentions is None else output_attentions
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden,
            **cache_field(cache),
            hidden_states=tuple(everything) if keep_all else None,
            attentions=() if wanted else None,  # no layer of the decoder attends to the target itself
            cross_attentions=(weights.unsqueeze(1),) if wanted and weights is not None else None,  # (B, 1, T, S)
        )

    def look_back(
        self, source: Tensor | None, mask: Tensor | None, summary: Tensor | None, past: Cache | None
    ) -> tuple:
        """Return what the layers need of the source, projected, and its mask: with a cache, worked out once."""
        if source is None:
            return (), None
        side = getattr(past, "cross_attention_cache", None)
        layer: RecurrentStateLayer | None = None if side is None else side.layers[0]
        if layer is not None and past.is_updated.get(0):
            return layer.memory, layer.memory_mask
        mask = check_mask("attention_mask", mask, *source.shape[:2])
        mask = source.new_ones(source.shape[:2], dtype=torch.bool) if mask is None else mask
        if self.attention is not None:
            memory = self.attention.project(source)
        elif self.summary_proj is not None:
            memory = (self.summary_proj(summary).unsqueeze(1),)  # (B, 1, G)
        else:
            first = self.layers[0]
            memory = first.project(source) if isinstance(first, GenaiRNNAttentionLayer) else ()
        if layer is not None:
            layer.remember(mask, *memory)
            past.is_updated[0] = True
        return memory, mask


def states_of(cache: Cache) -> list[Tensor]:
    """Return each layer's state (B, N, D) in a cache that has seen something.

    Raises:
        ValueError: if it holds keys and values, as a learned prefix does, instead of states.
    """
    # not by their class: a model opened from the Hub brings its own copy of it, and the first one makes the caches
    if not all(hasattr(layer, "state") for layer in cache.layers):
        raise ValueError(
            "cache (past_key_values) must hold the states of an earlier call, not keys and values: a recurrent model"
            " looks at none, so that it can learn a prompt (PromptTuningConfig) but no prefix (PrefixTuningConfig)"
        )
    return [layer.state for layer in cache.layers]


def embed(
    side: str, ids: Tensor | None, embeds: Tensor | None, table: nn.Embedding | None, size: int, check: bool = True
) -> Tensor:
    """Return the vectors (B, T, size) of token ids, or those that came instead of ids.

    Args:
        side: what the names of both arguments begin with: "" or "decoder_".
        check: look at the ids, too; their vectors are always checked.
    """
    ids_name, embeds_name = f"{side}input_ids", f"{side}inputs_embeds"
    if (ids is None) == (embeds is None):
        raise ValueError(f"give either {ids_name} or {embeds_name}, not {'both' if ids is not None else 'neither'}")
    if embeds is not None:
        if embeds.ndim != 3 or embeds.shape[2] != size or 0 in embeds.shape:
            raise ValueError(
                f"{embeds_name} must be (batch, length, {size}), none of them 0, not {tuple(embeds.shape)}"
            )
        return embeds
    if table is None:
        raise ValueError(f"this decoder shares the encoder's embeddings and takes {embeds_name}, not {ids_name}")
    check_ids(ids_name, ids, size_of(table, "num_embeddings"), check)
    return table(ids)
