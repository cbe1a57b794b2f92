"""Recurrent layers over whole sequences, with and without attention in the loop.

What depends on the inputs alone (input projections, keys, projected values) is computed by the caller for all steps in
one matrix product; only what depends on the previous step is left in the loops here. Each function is a plain loop,
to be read beside the papers, and hands over to a kernel with a hand-written backward (`recurrence_kernels.py`) where
that is right.

Notation: B batch, T steps, S source length, H hidden size, N state slots of a cell (gru: h; lstm: h and c), G gates
of a cell (gru: 3H in the order reset, update, new; lstm: 4H in the order input, forget, cell, output), A score size,
F readout size. Weights and orders are those of torch.nn.GRU and torch.nn.LSTM.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .fast_path import fast_path_allowed, needs_gradient
from .recurrence_kernels import AdditiveAttention, Recurrence, mask_bias

SLOTS = {"gru": 1, "lstm": 2}
GATES = {"gru": 3, "lstm": 4}


def recurrent_layer(gates: Tensor, state: Tensor, weight: Tensor, bias: Tensor, cell_type: str) -> Tensor:
    """Run a GRU or an LSTM over all steps.

    There is no mask: what is computed after a row's last real token reaches no earlier step, so callers that read a
    sequence backwards move its real tokens to the front.

    Args:
        gates: (B, T, G), the input projection of every step with its bias.
        state: (B, N, H), the state before the first step.
        weight: (G, H), the hidden-to-gates weight.
        bias: (G,), the hidden-to-gates bias.
        cell_type: "gru" or "lstm".

    Returns:
        (B, T, N, H), the state after each step.

    Raises:
        ValueError: the cell type is unknown, or a shape does not fit it.

    Reference: Cho et al. (2014), arXiv:1406.1078 (gru, with the reset gate after the product, as in cuDNN);
    Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000) (lstm).
    """
    _check_cell(gates, state, weight, bias, cell_type)
    inputs = (gates, state, weight, bias)
    if needs_gradient(*inputs) and fast_path_allowed(*inputs):
        return Recurrence.apply(*inputs, cell_type, *[None] * 11)[0]
    return _recurrent_layer_plain(*inputs, cell_type)


def _recurrent_layer_plain(gates: Tensor, state: Tensor, weight: Tensor, bias: Tensor, cell_type: str) -> Tensor:
    slots, states = state.unbind(1), []
    for step_gates in gates.unbind(1):
        slots = _cell(step_gates, F.linear(slots[0], weight, bias), slots, cell_type)
        states.append(torch.stack(slots, 1))
    return torch.stack(states, 1)  # (B, T, N, H)


def attention_recurrence(
    gates: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor,
    cell_type: str,
    *,
    keys: Tensor,
    mask: Tensor,
    score: str,
    query_weight: Tensor | None = None,
    energy: Tensor | None = None,
    scale: float = 1.0,
    context_gates: Tensor | None = None,
    values: Tensor | None = None,
    feed_weight: Tensor | None = None,
    readout_weight: Tensor | None = None,
    feed: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Run a decoder whose every step attends to the source.

    Attention before the cell (Bahdanau et al.; give `context_gates`): the query is the previous state, and the context
    is one more input of the cell. Attention after the cell with input feeding (Luong et al.; give `values`,
    `feed_weight` and `readout_weight`): the query is the new state, and the readout tanh(W [state; context]) is one
    more input of the next step.

    Args:
        gates: (B, T, G), the input projection of every step with its bias.
        state: (B, N, H), the state before the first step.
        weight: (G, H), hidden to gates.
        bias: (G,), hidden to gates.
        cell_type: "gru" or "lstm".
        keys: (B, S, A), projected by the caller.
        mask: (B, S) bool, True for real source tokens; at least one in each row.
        score: "additive", energy . tanh(key + query), or "dot", scale * key . query.
        query_weight: (A, H); None takes the state itself as the query, so A must equal H.
        energy: (A,), for the additive score only.
        scale: factor of the dot score.
        context_gates: (B, S, G), the values already projected to gate inputs.
        values: (B, S, F), the values already projected to the readout, with the readout's bias.
        feed_weight: (G, F), readout to gates.
        readout_weight: (F, H), state to readout.
        feed: (B, F), the readout before the first step; None is zeros.

    Returns:
        states (B, T, N, H), readouts (B, T, F) or None when attention comes before the cell, and attention weights
        (B, T, S), which are 0 where masked.

    Raises:
        ValueError: an unknown cell type or score, arguments missing for the kind of attention, or shapes that do not
        fit.

    Reference: Bahdanau, Cho and Bengio (2015), arXiv:1409.0473, A.1.2 and A.2.2; Luong, Pham and Manning (2015),
    arXiv:1508.04025, sections 3.1 and 3.3.
    """
    _check_cell(gates, state, weight, bias, cell_type)
    _check_attention(score, keys, mask, energy, query_weight, state)
    after = (values, feed_weight, readout_weight)
    if context_gates is not None and any(x is not None for x in (*after, feed)):
        raise ValueError(
            "context_gates (attention before the cell) excludes values, feed_weight, readout_weight and feed"
        )
    if context_gates is None and any(x is None for x in after):
        raise ValueError("give context_gates, or all of values, feed_weight and readout_weight")
    if values is not None and feed is None:
        feed = values.new_zeros(values.shape[0], values.shape[2])
    inputs = (
        *(gates, state, weight, bias, cell_type),
        *(keys, mask, score, query_weight, energy, scale, context_gates, *after, feed),
    )
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    allowed = fast_path_allowed(*tensors)
    if allowed and needs_gradient(*tensors):
        return Recurrence.apply(*inputs)
    return _attention_recurrence_plain(*inputs, lean=allowed)


def _attention_recurrence_plain(
    gates, state, weight, bias, cell_type, keys, mask, score, query_weight, energy, scale,
    context_gates, values, feed_weight, readout_weight, feed, lean=False,
) -> tuple[Tensor, Tensor | None, Tensor]:  # fmt: skip
    score_bias = mask_bias(mask, keys.dtype)

    def attend(hidden: Tensor) -> Tensor:
        query = hidden if query_weight is None else F.linear(hidden, query_weight)
        if score == "additive":
            scores = _additive_scores(keys, query.unsqueeze(1), energy, lean)
        else:
            scores = torch.bmm(query.unsqueeze(1), keys.transpose(1, 2)).squeeze(1) * scale
        return _softmax(scores + score_bias)

    slots, states, readouts, weights = state.unbind(1), [], [], []
    for step_gates in gates.unbind(1):
        if context_gates is not None:
            weights.append(attend(slots[0]))
            step_gates = step_gates + torch.bmm(weights[-1].unsqueeze(1), context_gates).squeeze(1)
        else:
            step_gates = step_gates + F.linear(feed, feed_weight)
        slots = _cell(step_gates, F.linear(slots[0], weight, bias), slots, cell_type)
        states.append(torch.stack(slots, 1))
        if values is not None:
            weights.append(attend(slots[0]))
            context = torch.bmm(weights[-1].unsqueeze(1), values).squeeze(1)
            feed = torch.tanh(F.linear(slots[0], readout_weight) + context)
            readouts.append(feed)
    return torch.stack(states, 1), torch.stack(readouts, 1) if readouts else None, torch.stack(weights, 1)


def parallel_additive_attention(
    query: Tensor, keys: Tensor, energy: Tensor, mask: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """Attend with the additive score from all steps at once, for decoders that do not feed the context back.

    The kernel works on blocks that fit the cache and, where all of tanh(key + query) (B, T, S, A) would take much
    memory, computes it once more in the backward pass.

    Args:
        query: (B, T, A), projected.
        keys: (B, S, A), projected.
        energy: (A,).
        mask: (B, S) bool, True for real source tokens; at least one in each row.
        values: (B, S, D).

    Returns:
        context (B, T, D) and attention weights (B, T, S).

    Raises:
        ValueError: shapes that do not fit.

    Reference: Bahdanau, Cho and Bengio (2015), arXiv:1409.0473, A.1.2.
    """
    _check_attention("additive", keys, mask, energy, None, query)
    if fast_path_allowed(query, keys, energy, mask, values):
        weights = AdditiveAttention.apply(query, keys, energy, mask)
    else:
        weights = _parallel_additive_weights_plain(query, keys, energy, mask)
    return torch.bmm(weights, values), weights


def _parallel_additive_weights_plain(query: Tensor, keys: Tensor, energy: Tensor, mask: Tensor) -> Tensor:
    scores = _additive_scores(keys.unsqueeze(1), query.unsqueeze(2), energy)  # (B, T, S)
    return _softmax(scores + mask_bias(mask, keys.dtype).unsqueeze(1))


def _cell(gates: Tensor, hidden_gates: Tensor, state: tuple[Tensor, ...], cell_type: str) -> tuple[Tensor, ...]:
    """One step: input gates (B, G), hidden gates (B, G) and the slots (B, H) before it; returns the slots after it."""
    if cell_type == "gru":
        size = state[0].shape[-1]
        input_rz, input_n = gates.split([2 * size, size], -1)
        hidden_rz, hidden_n = hidden_gates.split([2 * size, size], -1)
        r, z = torch.sigmoid(input_rz + hidden_rz).chunk(2, -1)
        n = torch.tanh(input_n + r * hidden_n)
        return (n + z * (state[0] - n),)
    i, f, g, o = (gates + hidden_gates).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _additive_scores(keys: Tensor, query: Tensor, energy: Tensor, lean: bool = False) -> Tensor:
    """energy . tanh(keys + query) over the last axis.

    lean (no gradient needed): tanh(x) is 2 sigmoid(2x) - 1, torch's sigmoid is 6 times faster than its tanh on a
    CPU, and the softmax that follows forgets the -1.
    """
    if lean:
        return torch.add(keys, query).mul_(2).sigmoid_() @ (2 * energy)
    return torch.tanh(keys + query) @ energy


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis, in float32 at least."""
    return torch.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)


def _check_cell(gates: Tensor, state: Tensor, weight: Tensor, bias: Tensor, cell_type: str) -> None:
    if cell_type not in GATES:
        raise ValueError(f"cell_type must be one of {', '.join(GATES)}, not {cell_type!r}")
    size = weight.shape[-1]
    expected = GATES[cell_type] * size
    if gates.dim() != 3 or gates.shape[1] == 0 or gates.shape[2] != expected:
        raise ValueError(
            f"gates must be (batch, steps > 0, {expected}) for {cell_type} of size {size}, not {tuple(gates.shape)}"
        )
    if weight.shape != (expected, size) or bias.shape != (expected,):
        raise ValueError(
            f"weight and bias must be ({expected}, {size}) and ({expected},) for {cell_type}, "
            f"not {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    if state.shape != (gates.shape[0], SLOTS[cell_type], size):
        raise ValueError(
            f"state must be ({gates.shape[0]}, {SLOTS[cell_type]}, {size}) for {cell_type}, not {tuple(state.shape)}"
        )


def _check_attention(
    score: str, keys: Tensor, mask: Tensor, energy: Tensor | None, query_weight: Tensor | None, query: Tensor
) -> None:
    if score not in ("additive", "dot"):
        raise ValueError(f"score must be additive or dot, not {score!r}")
    if (score == "additive") != (energy is not None):
        raise ValueError(f"energy is for the additive score, and needed there; score is {score!r}")
    if mask.dtype != torch.bool or mask.shape != keys.shape[:2]:
        raise ValueError(f"mask must be bool {tuple(keys.shape[:2])}, not {mask.dtype} {tuple(mask.shape)}")
    query_size = query.shape[-1] if query_weight is None else query_weight.shape[0]
    if query_size != keys.shape[2]:
        raise ValueError(f"the query has size {query_size}, but the keys have size {keys.shape[2]}")
