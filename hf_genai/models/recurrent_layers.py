"""Recurrent layers, the attention of a recurrent decoder, and the layer that has both.

Shapes: B batch, T target and S source length, D hidden size, A size of projected queries and keys, G gates of a cell
(3 D for GRU, 4 D for LSTM), N slots of a state (GRU: h; LSTM: h and c).
"""

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import AdditiveScore, DotScore, ScaledDotScore, attend
from .base import weight_and_bias
from .configuration_rnn import GenaiRNNConfig
from .matmul import Linear
from .recurrence import GATES, attention_recurrence, parallel_additive_attention, recurrent_layer


def over_tokens(run, inputs: Tensor, start: Tensor, mask: Tensor | None) -> list[Tensor]:
    """Run a recurrence over the real tokens of each row alone, whichever side is padded.

    Args:
        run: takes inputs (B, T, ...) and returns tensors (B, T, ...), the first of them the states.
        start: (B, N, D), the state before the first token.
        mask: bool (B, T), or None: every token is real.

    Returns:
        What `run` returns, in the order of `inputs`. A padded place keeps what the last real token before it left: its
        state (or the start), and zeros for the rest where there was none.
    """
    if mask is None:
        return list(run(inputs))
    rows = torch.arange(inputs.shape[0], device=inputs.device).unsqueeze(1)
    order = torch.argsort(~mask, dim=1, stable=True)  # real tokens to the front
    place = mask.cumsum(dim=1)  # 0: before the first real token
    kept = []
    for index, result in enumerate(run(inputs[rows, order])):
        before = start if index == 0 else torch.zeros_like(result[:, 0])
        result = torch.cat([before.unsqueeze(1).to(result.dtype), result], dim=1)  # (B, 1 + T, ...)
        kept.append(result[rows, place])
    return kept


class GenaiRNNLayer(GradientCheckpointingLayer):
    """One GRU or LSTM layer over all steps; what depends on the inputs alone is computed for all of them at once.

    The cells are torch's: `n = tanh(W x + r * (U h + b))` in the GRU, gates i, f, g, o in the LSTM.
    """

    def __init__(self, cell_type: str, input_size: int, hidden_size: int):
        super().__init__()
        self.cell_type = cell_type
        self.input_proj = Linear(input_size, GATES[cell_type] * hidden_size)
        self.hidden_proj = Linear(hidden_size, GATES[cell_type] * hidden_size)
        # read at initialisation, where transformers skips modules like this one, which own no parameter themselves
        self.hidden_proj._genai_cell_type = cell_type

    def forward(
        self, hidden_states: Tensor, start: Tensor, mask: Tensor | None = None, *memory: Tensor
    ) -> tuple[Tensor, ...]:
        """Return, alone in a tuple, the states (B, T, N, D) after each step.

        Args:
            hidden_states: (B, T, input_size).
            start: (B, N, D), the state before the first step.
            mask: not used here.
            memory: nothing, or gates (B, 1, G) made from the source, which are added at every step. Not in a tuple, as
                re-entrant checkpointing sees the gradients of plain arguments only.
        """
        gates = self.input_proj(hidden_states)  # (B, T, G)
        if memory:
            gates = gates + memory[0]
        return (recurrent_layer(gates, start, *weight_and_bias(self.hidden_proj), self.cell_type),)


class GenaiRNNAttention(nn.Module):
    """The decoder's look at the source: scores, weights, and the attentional vector made of state and context.

    The attentional vector is `tanh(W_s state + W_c context + b)`, Luong et al. (2015), equation 5.
    """

    def __init__(self, config: GenaiRNNConfig):
        super().__init__()
        kind, size = config.attention_type, config.hidden_size
        width = size if kind in ("dot", "general") else config.attention_size
        self.query_proj = Linear(size, width, bias=False) if kind in ("additive", "scaled_dot") else None
        self.key_proj = Linear(config.encoder_hidden_size, width, bias=kind == "additive") if kind != "dot" else None
        scores = {"additive": AdditiveScore, "scaled_dot": ScaledDotScore}
        self.score_function = scores[kind](width) if kind in scores else DotScore()
        self.state_proj = Linear(size, size, bias=False)
        self.context_proj = Linear(config.encoder_hidden_size, size)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys (B, S, A) and values (B, S, D) of the source (B, S, encoder_hidden_size): once a sentence."""
        keys = memory if self.key_proj is None else self.key_proj(memory)
        return keys, self.context_proj(memory)

    def scoring(self) -> dict:
        """How queries and keys are compared, in the words of `attention_recurrence`."""
        query_weight = None if self.query_proj is None else weight_and_bias(self.query_proj)[0]
        if isinstance(self.score_function, AdditiveScore):
            energy = weight_and_bias(self.score_function.energy)[0].squeeze(0)
            return {"score": "additive", "query_weight": query_weight, "energy": energy}
        return {"score": "dot", "query_weight": query_weight, "scale": self.score_function.scale}

    def forward(self, states: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return attentional vectors (B, T, D) and weights (B, T, S) for the states (B, T, D) of all steps at once."""
        query = states if self.query_proj is None else self.query_proj(states)
        if isinstance(self.score_function, AdditiveScore):
            energy = weight_and_bias(self.score_function.energy)[0].squeeze(0)
            context, weights = parallel_additive_attention(query, keys, energy, mask, values)
        else:
            context, weights = attend(self.score_function(query, keys), values, mask.unsqueeze(1))
        return torch.tanh(self.state_proj(states) + context), weights


class GenaiRNNAttentionLayer(GenaiRNNLayer):
    """A layer whose cell takes in what attention found: the context itself, or the last attentional vector
    (feeding)."""

    def __init__(self, config: GenaiRNNConfig):
        super().__init__(config.cell_type, config.embedding_size, config.hidden_size)
        self.attention = GenaiRNNAttention(config)
        gates = GATES[config.cell_type] * config.hidden_size
        self.input_feeding = config.input_feeding
        source_size = config.hidden_size if config.input_feeding else config.encoder_hidden_size
        self.feed_proj = Linear(source_size, gates, bias=False)

    def project(self, memory: Tensor) -> tuple[Tensor, ...]:
        """Return keys, values and, before the cell, the gates (B, S, G) that each source place would give."""
        projected = self.attention.project(memory)
        return projected if self.input_feeding else (*projected, self.feed_proj(memory))

    def forward(
        self, hidden_states: Tensor, start: Tensor, mask: Tensor | None = None, *memory: Tensor
    ) -> tuple[Tensor, ...]:
        """Return states like `start` after each step, attentional vectors (B, T, D) and weights (B, T, S).

        Args:
            hidden_states: (B, T, embedding_size).
            start: (B, N, D); with feeding (B, N + 1, D), the last attentional vector behind the state.
            mask: bool (B, S).
            memory: what `project` returned.
        """
        gates, (weight, bias) = self.input_proj(hidden_states), weight_and_bias(self.hidden_proj)
        scoring, (keys, values, *context_gates) = self.attention.scoring(), memory
        if self.input_feeding:
            states, vectors, weights = attention_recurrence(
                *(gates, start[:, :-1], weight, bias, self.cell_type),
                **scoring,
                keys=keys,
                mask=mask,
                values=values,
                feed=start[:, -1],
                feed_weight=weight_and_bias(self.feed_proj)[0],
                readout_weight=weight_and_bias(self.attention.state_proj)[0],
            )
            assert vectors is not None  # as values were given
            return torch.cat([states, vectors.unsqueeze(2)], dim=2), vectors, weights
        states, _, weights = attention_recurrence(
            *(gates, start, weight, bias, self.cell_type),
            **scoring,
            keys=keys,
            mask=mask,
            context_gates=context_gates[0],
        )
        return states, torch.tanh(self.attention.state_proj(states[:, :, 0]) + weights @ values), weights
