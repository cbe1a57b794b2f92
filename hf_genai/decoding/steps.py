"""One token more for all rows: what the searches ask of a model.

Shapes: B sentences, W beams to a sentence (1 in greedy search), N = B * W rows, P prompt length, S slots, V
vocabulary; H query heads, K key/value heads, G = H / K, E head size.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..models.base import cache_of
from ..models.token_step import additive_mask, attend_rows
from ..private_names import inputs_of_next_step
from .weights import PackedWeights

# Slots that no beam looks at any more are given up after so many steps, if that saves a third of them.
STEPS_BETWEEN_CLEANINGS = 16


class Steps(Protocol):
    def prefill(self, input_ids: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        """Read the prompts (N, P), in which a sentence's W rows are equal; return logits (N, V)."""

    def step(self, sequences: Tensor, parents: Tensor | None) -> Tensor:
        """Read the last token of each of sequences (N, length); return logits (N, V).

        Args:
            parents: (B, W), the beam, 0 to W - 1, that each row goes on from. None: each its own.
        """

    def keep(self, sentences: Tensor) -> None:
        """Go on with these sentences alone, given by their places (B',) among the present ones."""


def select(value: Any, rows: Tensor, total: int) -> Any:
    """Return the given rows of a tensor with `total` of them, or of all such tensors of an output."""
    if isinstance(value, Tensor) and value.ndim and len(value) == total:
        return value.index_select(0, rows)
    if isinstance(value, ModelOutput):
        return type(value)(**{name: select(part, rows, total) for name, part in value.items()})
    return value


class ModelSteps:
    """By the model's own forward and its own cache: for every model that `generate()` takes."""

    def __init__(self, model: Any, beams: int):
        self.model, self.beams = model, beams

    def prefill(self, input_ids: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        self.kwargs, self.rows = model_kwargs, len(input_ids)
        return self.forward(input_ids, is_first_iteration=True)

    def forward(self, sequences: Tensor, **options: Any) -> Tensor:
        inputs = self.model.prepare_inputs_for_generation(sequences, **options, **self.kwargs)
        outputs = self.model(**inputs, return_dict=True)
        self.kwargs = inputs_of_next_step(self.model, outputs, self.kwargs)
        return outputs.logits[:, -1].float()

    def step(self, sequences: Tensor, parents: Tensor | None) -> Tensor:
        if parents is not None:
            first = torch.arange(len(parents), device=parents.device).unsqueeze(1) * self.beams
            cache_of(self.kwargs).reorder_cache((parents + first).flatten())
        return self.forward(sequences, next_sequence_length=1)

    def keep(self, sentences: Tensor) -> None:
        rows = (sentences.unsqueeze(1) * self.beams + torch.arange(self.beams, device=sentences.device)).flatten()
        cache = cache_of(self.kwargs)
        self.kwargs = {name: select(value, rows, self.rows) for name, value in self.kwargs.items()}
        self.rows = len(rows)
        cache.batch_select_indices(rows)


class TransformerSteps:
    """By packed weights, over keys and values in slots that are written once and never moved by the search.

    A sentence's slots hold its prompt, then W slots a step. When beams change places no key is copied: a mask says
    which slots each beam descends from, and all beams of a sentence look at its slots in one product.

    Args:
        stack: the decoder's `TransformerStack`.
        embed_tokens: its token embeddings.
        output_scale: factor on the last hidden state before the vocabulary is scored.
    """

    def __init__(
        self, model: Any, stack: Any, embed_tokens: nn.Module, weights: PackedWeights, beams: int, output_scale: float
    ):
        self.model, self.stack, self.embed_tokens, self.weights = model, stack, embed_tokens, weights
        self.beams, self.output_scale = beams, output_scale
        self.scale = stack.layers[0].self_attn.scaling
        config = stack.config
        self.kind, self.head_dim = config.position_embedding_type, config.head_dim
        self.key_heads = config.num_key_value_heads
        self.groups = config.num_attention_heads // self.key_heads

    def prefill(self, input_ids: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        total = len(input_ids)
        rows = torch.arange(0, total, self.beams)
        input_ids = input_ids[rows]
        kwargs = {name: select(value, rows, total) for name, value in model_kwargs.items()}
        inputs = self.model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kwargs)
        outputs = self.model(**inputs, return_dict=True)
        cache = cache_of(outputs)
        own = getattr(cache, "self_attention_cache", cache)
        # keys and values of each layer: (2, B, K, capacity, E)
        self.kept = [torch.stack([layer.keys, layer.values]) for layer in own.layers]
        self.prompt_length = self.slots = own.get_seq_length()
        self.steps_taken = 0
        encoder_decoder = self.model.config.is_encoder_decoder
        mask = kwargs.get("decoder_attention_mask" if encoder_decoder else "attention_mask")
        self.read_mask(mask, kwargs.get("position_ids"))
        self.source: list[tuple[Tensor, Tensor]] = []
        if encoder_decoder:
            for layer in cache.cross_attention_cache.layers:
                self.source.append((layer.keys.flatten(0, 1), layer.values.flatten(0, 1)))  # (B * K, S, E)
            source_mask: Any = kwargs.get("attention_mask")
            padded = source_mask is not None and not source_mask.all()
            self.source_mask = None if not padded else additive_mask(source_mask.bool())[:, None, None]
        return outputs.logits[:, -1].float().repeat_interleave(self.beams, 0)

    def read_mask(self, mask: Any, position_ids: Tensor | None) -> None:
        """Set what each beam may see of the prompt, and where its next token stands."""
        batch = self.kept[0].shape[1]
        padded = mask is not None and not mask.all()
        self.mask: Tensor | None = None  # (B, W, S), added to scores
        if padded or self.beams > 1:
            seen = torch.ones(batch, self.slots, dtype=torch.bool) if mask is None else mask.bool()
            self.mask = additive_mask(seen).unsqueeze(1).repeat(1, self.beams, 1)
        if position_ids is not None:
            position = position_ids[:, -1:] + 1
        elif padded and self.kind in ("learned", "sinusoidal"):
            position = mask.sum(1, keepdim=True)
        else:
            position = torch.tensor([[self.slots]])
        # (B * W, 1), or (1, 1) where all rows stand at the same place
        same = bool((position == position[0]).all())
        self.position = position[:1] if same else position.repeat_interleave(self.beams, 0)
        self.places = torch.arange(self.slots).unsqueeze(0)  # (B or 1, S), of each slot in its text

    def make_room(self) -> None:
        """See to it that each sentence has W slots more."""
        if self.beams > 1 and self.steps_taken % STEPS_BETWEEN_CLEANINGS == 0:
            self.clean()
        if self.slots + self.beams <= self.kept[0].shape[3]:
            return
        capacity = self.slots + max(32 * self.beams, self.slots // 2)
        for index, old in enumerate(self.kept):
            self.kept[index] = old.new_empty(*old.shape[:3], capacity, old.shape[4])
            self.kept[index][:, :, :, : self.slots] = old[:, :, :, : self.slots]

    def clean(self) -> None:
        """Give up slots that no beam descends from, if that saves a third."""
        assert self.mask is not None
        live = (self.mask == 0).any(1)  # (B, S)
        left = int(live.sum(1).max())
        if left > self.slots * 2 // 3:
            return
        order = live.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :left]  # (B, S')
        index = order[:, None, :, None].expand(2, -1, self.key_heads, -1, self.head_dim)
        for old in self.kept:
            old[:, :, :, :left] = old.gather(3, index)
        self.mask = self.mask.gather(2, order.unsqueeze(1).expand(-1, self.beams, -1))
        if self.kind == "relative_bias":
            self.places = self.places.expand(len(order), -1).gather(1, order)
        self.slots = left

    def step(self, sequences: Tensor, parents: Tensor | None) -> Tensor:
        if parents is not None:
            assert self.mask is not None
            self.mask = self.mask.gather(1, parents.unsqueeze(2).expand(-1, -1, self.slots))
        self.make_room()
        hidden, angles = self.embed(sequences[:, -1])
        place = self.prompt_length + self.steps_taken
        if self.kind == "relative_bias":
            new = torch.full((len(self.places), self.beams), place)
            self.places = torch.cat([self.places, new], 1)
        if self.mask is not None:
            own = additive_mask(torch.eye(self.beams, dtype=torch.bool))
            self.mask = torch.cat([self.mask, own.expand(len(self.mask), -1, -1)], 2)
        first, self.slots = self.slots, self.slots + self.beams
        self.steps_taken += 1
        self.position = self.position + 1
        batch, mask = self.kept[0].shape[1], self.score_mask(place)

        def attend(index: int, query: Tensor, new: Tensor) -> Tensor:
            kept = self.kept[index]
            new = new.view(batch, self.beams, 2, self.key_heads, self.head_dim).permute(2, 0, 3, 1, 4)
            kept.narrow(3, first, self.beams).copy_(new)
            keys, values = kept.narrow(3, 0, self.slots).flatten(1, 2).unbind()  # (B * K, S, E)
            return self.ungroup(attend_rows(self.group(query), keys, values, mask))

        def look(index: int, query: Tensor) -> Tensor:
            return self.ungroup(attend_rows(self.group(query), *self.source[index], self.source_mask))

        hidden = self.weights.layers.run(hidden, angles, attend, look if self.source else None)
        if self.stack.norm is not None:
            hidden = self.stack.norm(hidden)
        return self.weights.head(hidden if self.output_scale == 1 else hidden * self.output_scale)

    def embed(self, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return the vectors (N, D) of tokens (N,), and the angles of rotary positions."""
        hidden = self.stack.add_positions(self.embed_tokens(tokens), self.position[:, 0])
        if self.kind != "rotary":
            return hidden, None
        cos, sin = self.stack.rotary_emb(hidden, self.position)  # (N or 1, 1, E)
        return hidden, (cos[:, 0], sin[:, 0])

    def score_mask(self, place: int) -> Tensor | None:
        """Return what is added to scores (B, K, G * W, S): the mask, and the bias of relative positions."""
        mask = None
        if self.mask is not None:
            mask = self.mask[:, None, None]  # (B, 1, 1, W, S)
            if self.kind != "relative_bias":
                return mask.expand(-1, -1, self.groups, -1, -1).flatten(2, 3)
        if self.kind != "relative_bias":
            return None
        bias = nn.functional.embedding(self.stack.relative_bias.buckets(self.places - place), self.bias_table)
        bias = bias.movedim(2, 1).unflatten(1, (self.key_heads, self.groups)).unsqueeze(3)  # (B or 1, K, G, 1, S)
        return (bias if mask is None else bias + mask).flatten(2, 3)

    @property
    def bias_table(self) -> Tensor:
        return self.stack.relative_bias.weight  # (buckets, H)

    def group(self, query: Tensor) -> Tensor:
        """(N, H, E) -> (B, K, G * W, E): all queries to a sentence's key head, scaled."""
        query = query * self.scale
        if self.beams == 1:
            return query.reshape(-1, self.key_heads, self.groups, self.head_dim)
        query = query.reshape(-1, self.beams, self.key_heads, self.groups, self.head_dim)
        return query.permute(0, 2, 3, 1, 4).flatten(2, 3)

    def ungroup(self, context: Tensor) -> Tensor:
        """(B, K, G * W, E) -> (N, H * E)."""
        if self.beams == 1:
            return context.view(context.shape[0], -1)
        context = context.unflatten(2, (self.groups, self.beams)).permute(0, 3, 1, 2, 4)
        return context.reshape(len(context) * self.beams, -1)

    def keep(self, sentences: Tensor) -> None:
        batch = self.kept[0].shape[1]
        rows = (sentences.unsqueeze(1) * self.beams + torch.arange(self.beams)).flatten()
        self.kept = [both.index_select(1, sentences) for both in self.kept]
        heads = (sentences.unsqueeze(1) * self.key_heads + torch.arange(self.key_heads)).flatten()
        self.source = [(keys.index_select(0, heads), values.index_select(0, heads)) for keys, values in self.source]
        self.mask = select(self.mask, sentences, batch)
        if self.source:
            self.source_mask = select(self.source_mask, sentences, batch)
        if len(self.places) > 1:
            self.places = self.places[sentences]
        if len(self.position) > 1:
            self.position = self.position[rows]
