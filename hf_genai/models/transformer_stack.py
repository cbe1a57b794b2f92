"""A stack of Transformer layers: what BERT, GPT and both halves of T5 are.

Shapes: B batch, T target and S source length, D hidden size, H heads, E head size.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_causal_mask,
    find_packed_sequence_indices,
    packed_sequence_mask_function,
)
from transformers.utils import is_tracing
from transformers.utils.output_capturing import OutputRecorder

from .attention import CrossAttention, SelfAttention
from .base import (
    GenaiPreTrainedModel,
    attention_of,
    cache_field,
    check_ids,
    check_mask,
    check_shape,
    readable,
    size_of,
)
from .blocks import TransformerLayer, make_norm
from .fast_path import fast_path_allowed
from .positions import RelativePositionBias, RotaryEmbedding, positions_from_mask, sinusoidal_positions
from .token_step import cached_step
from .transformer_kernels import Dropout
from .varlen_attention import Texts, flash_packed, is_watched, lay_out, number_by_mask, number_by_position


class GenaiTransformerPreTrainedModel(GenaiPreTrainedModel):
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": TransformerLayer,
        "attentions": OutputRecorder(SelfAttention, index=1),
        "cross_attentions": OutputRecorder(CrossAttention, index=1),
    }

    def choose_attention(self, attn_implementation):
        """Refuse what a score or a position cannot do, before transformers looks for the implementation."""
        if self.config.attention_type == "additive":
            if attn_implementation not in (None, "eager"):
                raise ValueError(
                    "attention_type='additive' has no fused kernel: attn_implementation must be 'eager', not"
                    f" {attn_implementation!r}"
                )
            attn_implementation = "eager"
        if self.config.position_embedding_type == "relative_bias" and "flash" in (attn_implementation or ""):
            raise ValueError(
                "position_embedding_type='relative_bias' adds to the scores, which flash attention does not allow:"
                f" attn_implementation must be 'eager', 'sdpa' or 'flex_attention', not {attn_implementation!r}"
            )
        return attn_implementation

    def init_parallel_plans(self) -> None:
        super().init_parallel_plans()
        self._tp_plan = self.config.within_layout(self._tp_plan)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.Linear) and getattr(module, "_genai_sublayers", 0):
            init.normal_(module.weight, std=self.config.initializer_range / math.sqrt(module._genai_sublayers))


class TransformerStack(GenaiTransformerPreTrainedModel):
    """Embeddings, layers and the last norm; a family adds its `forward`."""

    packs_texts = True  # positions that start over begin another text

    def __init__(
        self,
        config,
        num_layers: int,
        is_causal: bool,
        cross_attention: bool = False,
        embed_tokens: bool = True,
        padding_idx: int | None = None,
    ):
        super().__init__(config)
        self.is_causal = is_causal
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx) if embed_tokens else None
        kind = config.position_embedding_type
        self.embed_positions = self.make_positions() if kind == "learned" else None
        self.rotary_emb = RotaryEmbedding(config) if kind == "rotary" else None
        self.relative_bias = None
        if kind == "relative_bias":
            self.relative_bias = RelativePositionBias(
                *(config.relative_attention_num_buckets, config.relative_attention_max_distance),
                *(config.num_attention_heads, is_causal),
            )
        self.layers = nn.ModuleList(
            TransformerLayer(config, index, is_causal, cross_attention) for index in range(num_layers)
        )
        pre_norm = config.norm_position == "pre"
        self.norm = make_norm(config) if pre_norm else None
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.gradient_checkpointing = False
        if pre_norm:
            sublayers = num_layers * (3 if cross_attention else 2)
            for layer in self.layers:
                ends = [layer.self_attn.o_proj, layer.mlp.down_proj]
                for proj in [*ends, layer.cross_attn.o_proj] if cross_attention else ends:
                    proj._genai_sublayers = sublayers

    def make_positions(self) -> nn.Embedding:
        return nn.Embedding(self.config.max_position_embeddings, self.config.hidden_size)

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    def embed(
        self,
        side: str,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return token vectors (B, T, D), positions added where they are vectors, and the positions (B or 1, T).

        Args:
            side: what the names of the arguments begin with in messages: "" or "decoder_".

        Raises:
            ValueError: ids outside the vocabulary, an empty batch, a mask that does not fit or has an all-padding row,
                more tokens than positions.
        """
        past = cache.get_seq_length() if isinstance(cache, Cache) else 0
        first = isinstance(past, int) and past == 0
        ids_name, embeds_name = f"{side}input_ids", f"{side}inputs_embeds"
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(
                f"give either {ids_name} or {embeds_name}, not {'neither' if input_ids is None else 'both'}"
            )
        if inputs_embeds is None:
            if self.embed_tokens is None:
                raise ValueError(
                    f"this decoder shares the encoder's embeddings and takes {embeds_name}, not {ids_name}"
                )
            check_ids(ids_name, input_ids, size_of(self.embed_tokens, "num_embeddings"), first)
            inputs_embeds = self.embed_tokens(input_ids)
        elif inputs_embeds.ndim != 3 or inputs_embeds.shape[2] != self.config.hidden_size or 0 in inputs_embeds.shape:
            raise ValueError(
                f"{embeds_name} must be (batch, length, {self.config.hidden_size}), none of them 0, not"
                f" {tuple(inputs_embeds.shape)}"
            )
        batch, length = inputs_embeds.shape[:2]
        padded = isinstance(attention_mask, Tensor) and attention_mask.ndim == 2
        if padded and first:
            # a longer one has room for a prefix (PEFT)
            room = length if cache is None else max(length, attention_mask.shape[1])
            whole = not getattr(cache, "prompt_in_parts", False)
            check_mask(f"{side}attention_mask", attention_mask, batch, room, whole)
        elif isinstance(attention_mask, Tensor):
            self.check_later_mask(f"{side}attention_mask", attention_mask, batch, length)
        kind = self.config.position_embedding_type
        if position_ids is None:
            # rotary and relative positions mean the same wherever a text begins
            if padded and kind in ("learned", "sinusoidal") and attention_mask.shape[1] >= length:
                position_ids = positions_from_mask(attention_mask, length)
                if kind == "learned":  # padding may be longer than the table
                    last = position_ids.clamp(max=self.config.max_position_embeddings - 1)
                    position_ids = torch.where(attention_mask[:, -length:] == 0, last, position_ids)
            else:
                position_ids = torch.arange(length, device=inputs_embeds.device).unsqueeze(0) + past
        else:
            check_shape("position_ids", position_ids, (batch, length), (1, length))
        if type(self.layers[0]).__name__ == "PipelineIdentityLayer":
            return inputs_embeds, position_ids  # a later stage of a pipeline: what comes in has its positions
        runs_out = isinstance(past, int) and past + length > self.config.max_position_embeddings
        if kind == "learned" and (first or runs_out):
            self.check_positions(position_ids)
        return self.add_positions(inputs_embeds, position_ids), position_ids

    def add_positions(self, vectors: Tensor, position_ids: Tensor) -> Tensor:
        """Return token vectors (..., D) with their positions (...) in them, where positions are vectors."""
        kind, size = self.config.position_embedding_type, self.config.hidden_size
        if kind == "learned":
            return vectors + self.embed_positions(position_ids)
        if kind == "sinusoidal":
            return vectors * math.sqrt(size) + sinusoidal_positions(position_ids, size).to(vectors.dtype)
        return vectors

    def check_later_mask(self, name: str, mask: Tensor, batch: int, length: int) -> None:
        """Refuse a mask (B, past + T) or, made by the caller, (B, 1, T, past + T) that does not fit."""
        if is_tracing(mask):
            return
        rows = mask.shape[2] if mask.ndim == 4 else length
        if mask.ndim not in (2, 4) or mask.shape[0] not in (1, batch) or rows != length or mask.shape[-1] < length:
            raise ValueError(
                f"{name} must be (batch, past + length) or (batch, 1, length, past + length), of {batch} rows and"
                f" length {length}, not {tuple(mask.shape)}"
            )

    def check_positions(self, position_ids: Tensor) -> None:
        """Refuse positions that the table of learned ones has no row for."""
        if not readable(position_ids):
            return
        low, high = (int(bound) for bound in position_ids.aminmax())
        room = size_of(self.embed_positions, "num_embeddings")
        if low < 0 or high >= room:
            raise ValueError(
                f"positions must be from 0 to {room - 1} (max_position_embeddings), but came as {low} to {high}: cut"
                " the text"
            )

    def masks(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the mask as the attention implementation wants it, and the position bias that is not in it yet."""
        has_bias = self.relative_bias is not None
        arguments = {"config": self.config, "inputs_embeds": hidden, "attention_mask": attention_mask}
        own = getattr(cache, "self_attention_cache", cache)
        if self.is_causal:
            mask = create_causal_mask(
                **arguments,
                **cache_field(None if starts_empty(cache) else own),
                position_ids=position_ids if self.packs_texts else None,
                allow_is_causal_skip=not has_bias,
            )
        else:
            packed = None
            if attention_mask is None and position_ids is not None and not torch.compiler.is_compiling():
                packed = find_packed_sequence_indices(position_ids.expand(len(hidden), -1))
            mask = create_bidirectional_mask(
                **arguments,
                **cache_field(own),
                and_mask_function=None if packed is None else packed_sequence_mask_function(packed),
            )
        if not has_bias:
            return mask, None
        past = 0 if cache is None else cache.get_seq_length()
        keys = mask.shape[-1] if mask is not None else past + hidden.shape[1]
        bias = self.relative_bias(hidden.shape[1], keys, past).to(hidden.dtype)
        if attention_of(self.config) not in ("eager", "sdpa"):
            return mask, bias.expand(len(hidden), -1, -1, -1)
        # one tensor for all layers, where the interface would add the two up in each
        if mask is None:
            return bias, None
        if mask.dtype == torch.bool:
            return torch.where(mask, bias, torch.finfo(bias.dtype).min), None
        return mask + bias, None

    def find_texts(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        unpad: bool = True,
        wanted: Tensor | None = None,
        **kwargs,
    ) -> list[Texts] | None:
        """Return how the texts of the rows lie end to end and, second, their sources or what of them is wanted.

        None where the rows go as they are: without padding and packing, where anything but these layers looks at what
        they make of a row, and on devices where one call for each length of text would cost more than padding.
        """
        if attention_of(self.config) != "sdpa" or hidden.device.type != "cpu":
            return None
        if not fast_path_allowed(hidden, any_dtype=True) or self.watched(**kwargs):
            return None
        if wanted is not None and not self.can_choose(hidden, wanted, encoder_hidden_states):
            wanted = None
        masks, rows = [attention_mask], [hidden]
        if encoder_hidden_states is not None:
            masks, rows = [*masks, encoder_attention_mask], [*rows, encoder_hidden_states]
        if all(mask is None for mask in masks) and position_ids is not None and len(rows) == 1:
            numbers, several = number_by_position(position_ids.expand(len(hidden), -1))
            if several or wanted is not None:
                return lay_out(numbers, *([] if wanted is None else [torch.where(wanted, numbers, -1)]))
        if not unpad:
            return None
        real = []
        for mask, row in zip(masks, rows, strict=True):
            if mask is not None and mask.shape != row.shape[:2]:
                return None
            real.append(row.new_ones(row.shape[:2], dtype=torch.bool) if mask is None else mask.bool())
        if wanted is None and all(mask.all() for mask in real):
            return None
        if self.is_causal and (~real[0][:, :-1] & real[0][:, 1:]).any():
            return None  # the last padding before a text predicts its first token
        if self.relative_bias is not None and any((mask.diff(dim=1).sum(1) > 1).any() for mask in real):
            return None  # distances are counted over what lies between
        if wanted is not None:
            real.append(wanted & real[0])
            if not real[-1].any():
                return None
        return lay_out(*map(number_by_mask, real))

    def packed_for_flash(self, hidden: Tensor, position_ids: Tensor | None) -> dict[str, Any]:
        """Return what FlashAttention must be told of rows of several texts (B, T, D); nothing for other kernels."""
        if "flash" not in attention_of(self.config) or position_ids is None or is_tracing(position_ids):
            return {}
        return flash_packed(position_ids) if len(position_ids) == len(hidden) else {}

    def can_choose(self, hidden: Tensor, wanted: Tensor, encoder_hidden_states: Tensor | None) -> bool:
        """Whether the last layer can do without the places that nobody wants: it looks everywhere without a mask."""
        if self.is_causal or self.relative_bias is not None or encoder_hidden_states is not None:
            return False
        return (
            wanted.shape == hidden.shape[:2] and isinstance(self.layers[-1], TransformerLayer) and bool(wanted.any())
        )

    def watched(self, **kwargs) -> bool:
        """Whether somebody wants to see what the layers give, row by row."""
        wanted = ("output_hidden_states", "output_attentions")
        if any(kwargs.get(name, getattr(self.config, name, False)) for name in wanted):
            return True
        return any(map(is_watched, self.layers.modules()))

    def run(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        **kwargs,
    ) -> Tensor:
        """Run the layers over embedded tokens (B, T, D) -> (B, T, D).

        In training, where it pays, padding is left out, and gives 0; `unpad` among the kwargs, True or False, decides
        otherwise. So what the model gives in evaluation does not depend on how it was computed. A head that reads only
        some places has `wanted` (B, T) among the kwargs, True there; what the others give may be 0 then.
        """
        with_source = encoder_hidden_states is not None
        if cache is not None and not isinstance(cache, Cache):  # pages that serve many texts; their masks come, too
            kwargs, cache = {**kwargs, "pages": cache}, None
        step = None if kwargs else cached_step(self.layers, self.config, hidden, cache, with_source)
        texts, wanted = None, kwargs.pop("wanted", None)
        unpad = kwargs.pop("unpad", self.training or wanted is not None)
        if step is None and cache is None:
            given = (attention_mask, position_ids, encoder_hidden_states, encoder_attention_mask, unpad)
            texts = self.find_texts(hidden, *given, wanted, **kwargs)
        some = texts is not None and not with_source and len(texts) == 2  # of the last layer, some places are wanted
        if step is not None and attention_mask is None and self.relative_bias is None:
            mask = bias = None  # one new token a row sees all before it
        elif texts is not None:
            longest = hidden.new_empty(1, max(texts[0].lengths), 1)
            mask, bias = self.masks(longest, None, None, None)
            hidden = texts[0].flatten(hidden)
            position_ids = None if position_ids is None else texts[0].flatten(position_ids)
            kwargs["texts"] = texts[0].lengths, texts[-1].lengths
        else:
            mask, bias = self.masks(hidden, attention_mask, position_ids, cache)
            if attention_mask is None and not with_source and starts_empty(cache):
                kwargs = {**self.packed_for_flash(hidden, position_ids), **kwargs}
        if encoder_hidden_states is not None and texts is not None:
            encoder_hidden_states, encoder_attention_mask = texts[1].flatten(encoder_hidden_states), None
        elif encoder_hidden_states is not None:
            encoder_attention_mask = create_bidirectional_mask(
                config=self.config,
                inputs_embeds=hidden,
                attention_mask=encoder_attention_mask,
                encoder_hidden_states=encoder_hidden_states,
            )
        angles = None if self.rotary_emb is None else self.rotary_emb(hidden, position_ids)
        if step is not None:
            flat = None if angles is None else (angles[0][:, 0], angles[1][:, 0])
            hidden = step.run(hidden[:, 0], flat, cache, mask, encoder_attention_mask, with_source)
            return (hidden if self.norm is None else self.norm(hidden)).unsqueeze(1)
        depth = self.config.num_hidden_layers if self.is_causal else len(self.layers)  # a draft may leave early
        for _, layer in zip(range(depth), self.layers, strict=False):
            if some and layer is self.layers[-1]:
                kwargs["wanted"] = wanted.flatten()[texts[0].places].nonzero()[:, 0]
            hidden = layer(
                hidden,
                mask,
                bias,
                encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                position_embeddings=angles,
                position_ids=position_ids,
                **cache_field(cache),
                **kwargs,
            )
        hidden = hidden if self.norm is None else self.norm(hidden)
        return hidden if texts is None else texts[1 if some else 0].restore(hidden)


def starts_empty(cache: Cache | None) -> bool:
    """Whether there is no cache, or one that grows with the text and has seen none of it yet.

    Such a cache would hide from transformers that rows are packed.
    """
    if cache is None or torch.compiler.is_compiling():
        return cache is None
    own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    length = own.get_seq_length()
    return isinstance(length, int) and length == 0 and not own.is_compileable
