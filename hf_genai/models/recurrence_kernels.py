"""Kernels of `recurrence.py`: the same arithmetic with a hand-written backward.

Why they are faster than autograd's own record of the loop, on a CPU above all:
- every buffer is time-major and allocated once; matrix products and nonlinearities work in place on its rows;
- all that a step takes from the state (query, readout, next gates) is one matrix product, and so is its backward;
- each weight's gradient is one matrix product after the loop, not one a step;
- the derivatives of the gates are computed for all steps at once: a backward step of a cell is two or three products;
- tanh(x) of the additive score is 2 sigmoid(2x) - 1: torch's sigmoid is 6 times faster there, and softmax forgets
  the -1.

Notation as in `recurrence.py`. A row of the buffer `rows` (R, B, ...) holds what its state makes, side by side:
[query | readout | gates]. With attention before the cell row t is step t; with attention after it, row t holds the
query and readout of step t - 1 and the gates of step t, so there are T + 1 rows.
"""

from typing import Any

import torch
from torch import Tensor

from .fast_path import once_differentiable
from .matmul import adder
from .private_names import softmax_backward


class _GRU:
    """Columns of a row's gates: [hidden new | reset | update | new]: the first three take the hidden product, the last
    three the inputs, and both are one block of memory."""

    slots, hidden_blocks, blocks, grad_blocks = 1, 3, 4, 5
    carries = True  # the state also reaches the next step without a product

    def __init__(self, size: int):
        self.size = size

    def inputs(self, block: Tensor) -> Tensor:
        """The columns that gate inputs are added to."""
        return block[..., self.size : 4 * self.size]

    def order(self, weight: Tensor) -> Tensor:
        """From torch's order (reset, update, new) to the order of the columns."""
        return weight.roll(self.size, 0)

    def reorder(self, grad: Tensor) -> Tensor:
        return grad.roll(-self.size, 0)

    def fill(self, block: Tensor, gates: Tensor, bias: Tensor) -> None:
        hidden, size = bias[2 * self.size :], self.size
        block[..., :size] = hidden
        torch.add(gates, torch.cat([bias[: 2 * size], torch.zeros_like(hidden)]), out=self.inputs(block))

    def start(self, block: Tensor, states: Tensor) -> None:
        size = self.size
        self.h = states[:, 0].unbind()
        self.hn, self.rz = block[..., :size].unbind(), block[..., size : 3 * size].unbind()
        self.r, self.z = block[..., size : 2 * size].unbind(), block[..., 2 * size : 3 * size].unbind()
        self.n = block[..., 3 * size :].unbind()

    def step(self, t: int) -> None:
        self.rz[t].sigmoid_()
        n = self.n[t].addcmul_(self.r[t], self.hn[t]).tanh_()
        torch.lerp(n, self.h[t], self.z[t], out=self.h[t + 1])

    def start_backward(self, block: Tensor, states: Tensor, grads: Tensor, state_grads: Tensor | None) -> None:
        """block (T, B, 4H) as the steps left it; grads (T, B, 5H), to be filled, has one column block more: the
        gradient of the state that bypasses the product."""
        hn, r, z, n = block.unflatten(-1, (4, self.size)).unbind(2)
        keep = 1 - z
        by_state = torch.stack([(states[:-1, 0] - n) * z * keep, keep * (1 - n * n), z], 2)  # d z, d n, d h
        by_new = torch.stack([r, hn * r * (1 - r)], 2)  # d hidden n, d r
        self.by_state, self.by_new = by_state.unbind(), by_new.unbind()
        parts = grads.unflatten(-1, (5, self.size))
        self.d_new, self.d_state = parts[:, :, :2].unbind(), parts[:, :, 2:].unbind()
        self.dn, self.carry = parts[:, :, 3:4].unbind(), parts[:, :, 4].unbind()

    def step_backward(self, t: int, dh: Tensor) -> Tensor | None:
        torch.mul(dh.unsqueeze(1), self.by_state[t], out=self.d_state[t])
        torch.mul(self.dn[t], self.by_new[t], out=self.d_new[t])
        return self.carry[t]

    def start_state_grad(self, dh: Tensor) -> Tensor:
        return dh.unsqueeze(1)


class _LSTM:
    """Columns of a row's gates: [input | forget | cell | output]."""

    slots, hidden_blocks, blocks, grad_blocks = 2, 4, 4, 4

    def __init__(self, size: int):
        self.size = size

    def inputs(self, block: Tensor) -> Tensor:
        return block[..., : 4 * self.size]

    def order(self, weight: Tensor) -> Tensor:
        return weight

    def reorder(self, grad: Tensor) -> Tensor:
        return grad

    def fill(self, block: Tensor, gates: Tensor, bias: Tensor) -> None:
        torch.add(gates, bias, out=block)

    def start(self, block: Tensor, states: Tensor) -> None:
        size = self.size
        self.h, self.c = states[:, 0].unbind(), states[:, 1].unbind()
        self.input_forget = block[..., : 2 * size].unbind()
        self.i, self.f, self.g, self.o = (x.unbind() for x in block.unflatten(-1, (4, size)).unbind(2))

    def step(self, t: int) -> None:
        self.input_forget[t].sigmoid_()
        c = torch.mul(self.f[t], self.c[t], out=self.c[t + 1])
        c.addcmul_(self.i[t], self.g[t].tanh_())
        torch.mul(self.o[t].sigmoid_(), torch.tanh(c), out=self.h[t + 1])

    def start_backward(self, block: Tensor, states: Tensor, grads: Tensor, state_grads: Tensor | None) -> None:
        i, f, g, o = block.unflatten(-1, (4, self.size)).unbind(2)
        tanh_c = torch.tanh(states[1:, 1])
        self.f = f.unbind()
        self.by_output = (tanh_c * o * (1 - o)).unbind()
        self.cell_by_state = (o * (1 - tanh_c * tanh_c)).unbind()
        self.by_cell = torch.stack([g * i * (1 - i), states[:-1, 1] * f * (1 - f), i * (1 - g * g)], 2).unbind()
        parts = grads.unflatten(-1, (4, self.size))
        self.d_cell, self.d_output = parts[:, :, :3].unbind(), parts[:, :, 3].unbind()
        self.dc = torch.zeros_like(states[0, 1])
        self.state_grads = None if state_grads is None else state_grads[:, 1].unbind()

    def step_backward(self, t: int, dh: Tensor) -> Tensor | None:
        if self.state_grads is not None:
            self.dc.add_(self.state_grads[t])
        self.dc.addcmul_(dh, self.cell_by_state[t])
        torch.mul(dh, self.by_output[t], out=self.d_output[t])
        torch.mul(self.dc.unsqueeze(1), self.by_cell[t], out=self.d_cell[t])
        self.dc.mul_(self.f[t])
        return None

    def start_state_grad(self, dh: Tensor) -> Tensor:
        return torch.stack([dh, self.dc], 1)


_CELLS: dict[str, Any] = {"gru": _GRU, "lstm": _LSTM}


class _Additive:
    """weights = softmax(energy . tanh(keys + query)), through s = sigmoid(2 keys + 2 query).

    As the softmax's gradients sum to 0, d score / d query is 4 energy s (1 - s), and d score / d energy is 2 s.
    Queries' gradients leave `step_backward` without the factor `query_factor`.
    """

    def __init__(self, keys: Tensor, energy: Tensor, scale: float):
        self.double_keys, self.double_energy = 2 * keys, 2 * energy
        self.query_factor = 4 * energy

    def start(self, mask: Tensor, weights: Tensor) -> list[Tensor]:
        """Returns the list that the steps fill with the memory that the backward pass needs.

        One tensor a step: the allocator hands such blocks out again and again, while for one large block the system
        finds, and clears, new pages each time, at a quarter of the speed.
        """
        self.bias = mask_bias(mask, weights.dtype)
        self.weights = weights.unbind()
        self.sigmoid: list[Tensor] = []
        self.scores, self.flat_bias = torch.empty_like(self.bias), self.bias.view(-1)
        self.flat_scores = self.scores.view(-1)
        return self.sigmoid

    def step(self, t: int, query: Tensor) -> None:
        sigmoid = torch.add(self.double_keys, query, alpha=2).sigmoid_()
        torch.addmv(self.flat_bias, sigmoid.flatten(0, 1), self.double_energy, out=self.flat_scores)
        torch.softmax(self.scores, -1, out=self.weights[t])
        self.sigmoid.append(sigmoid)

    def start_backward(self, memory: list[Tensor], weights: Tensor) -> None:
        self.weights, self.sigmoid = weights.unsqueeze(2).unbind(), memory
        self.slope, self.key_grad = torch.empty_like(memory[0]), torch.zeros_like(memory[0])
        batch, _, size = memory[0].shape
        self.energy_grad = weights.new_empty(len(memory), batch, 1, size)
        self.energy_grads = self.energy_grad.unbind()

    def step_backward(self, t: int, weight_grad: Tensor, query_grad: Tensor) -> None:
        """weight_grad (B, 1, S), overwritten; query_grad (B, 1, A), to be filled."""
        s = self.sigmoid[t]
        score_grad = softmax_backward_(weight_grad, self.weights[t])
        torch.bmm(score_grad, s, out=self.energy_grads[t])
        torch.addcmul(s, s, s, value=-1, out=self.slope)
        query_grad.copy_(torch.bmm(score_grad, self.slope))
        self.key_grad.addcmul_(self.slope, score_grad.transpose(1, 2))

    def finish(self) -> tuple[Tensor, Tensor | None]:
        return self.key_grad.mul_(self.query_factor), 2 * self.energy_grad.sum((0, 1, 2))


class _Dot:
    """weights = softmax(scale * keys . query)."""

    def __init__(self, keys: Tensor, energy: Tensor | None, scale: float):
        self.keys, self.keys_transposed = keys, keys.transpose(1, 2)
        self.scale = self.query_factor = scale

    def start(self, mask: Tensor, weights: Tensor) -> list[Tensor]:
        self.weights = weights.unsqueeze(2).unbind()
        self.bias = mask_bias(mask, weights.dtype).unsqueeze(1)
        self.queries: list[Tensor] = []
        return self.queries

    def step(self, t: int, query: Tensor) -> None:
        self.queries.append(query.squeeze(1).clone())
        scores = torch.baddbmm(self.bias, query, self.keys_transposed, alpha=self.scale)
        torch.softmax(scores, -1, out=self.weights[t])

    def start_backward(self, memory: list[Tensor], weights: Tensor) -> None:
        self.queries, self.weights = memory, weights.unsqueeze(2).unbind()
        self.score_grad = torch.empty_like(weights)

    def step_backward(self, t: int, weight_grad: Tensor, query_grad: Tensor) -> None:
        score_grad = softmax_backward_(weight_grad, self.weights[t])
        self.score_grad[t] = score_grad.squeeze(1)
        query_grad.copy_(torch.bmm(score_grad, self.keys))

    def finish(self) -> tuple[Tensor, Tensor | None]:
        return self.scale * torch.bmm(self.score_grad.permute(1, 2, 0), torch.stack(self.queries, 1)), None


_SCORES: dict[str, Any] = {"additive": _Additive, "dot": _Dot}


class Recurrence(torch.autograd.Function):
    """`attention_recurrence` with its arguments in order; `recurrent_layer` when keys and all that follows are
    None."""

    @staticmethod
    def forward(
        ctx, gates, state, weight, bias, cell_type, keys, mask, score, query_weight, energy, scale,
        context_gates, values, feed_weight, readout_weight, feed,
    ):  # fmt: skip
        batch, steps, _ = gates.shape
        size = weight.shape[1]
        cell = _CELLS[cell_type](size)
        after = values is not None
        leading = [w for w in (query_weight, readout_weight) if w is not None]
        lead = sum(len(w) for w in leading)
        product = lead + cell.hidden_blocks * size  # columns that the state's product fills

        rows = gates.new_empty(steps + after, batch, lead + cell.blocks * size)
        rows[..., :lead] = 0
        block = rows[:steps, :, lead:]
        cell.fill(block, gates.transpose(0, 1), bias)
        states = gates.new_empty(steps + 1, cell.slots, batch, size)
        states[0] = state.transpose(0, 1)
        h = states[:, 0].unbind()
        cell.start(block, states)
        recurrent = torch.cat([*leading, cell.order(weight)]).t().contiguous()  # (H, product)
        add_recurrent = adder(batch, recurrent)

        readouts, weights, memory = None, None, []
        if keys is not None:
            weights = gates.new_empty(steps, batch, keys.shape[1])
            step_weights = weights.unsqueeze(2).unbind()
            attention = _SCORES[score](keys, energy, scale)
            memory = attention.start(mask, weights)
            if query_weight is None:
                queries = states[:, 0].unsqueeze(2).unbind()
            else:
                queries = rows[..., : len(query_weight)].unsqueeze(2).unbind()
        products, inputs = rows[..., :product].unbind(), cell.inputs(block)
        if not after:
            inputs = inputs.unbind()
            for t in range(steps):
                add_recurrent(products[t], h[t])
                if keys is not None:
                    attention.step(t, queries[t])
                    inputs[t].add_(torch.bmm(step_weights[t], context_gates).squeeze(1))
                cell.step(t)
        else:
            readouts = gates.new_empty(steps + 1, batch, values.shape[2])
            readouts[0] = feed
            f, add_feed = readouts.unbind(), adder(batch, feed_weight.t().contiguous())
            next_readout = readouts.unsqueeze(2).unbind()
            inputs = inputs.unbind()
            before_readout = rows[..., lead - values.shape[2] : lead].unsqueeze(2).unbind()
            rows[0, :, lead:product].addmm_(h[0], recurrent[:, lead:])
            for t in range(steps):
                add_feed(inputs[t], f[t])
                cell.step(t)
                if t < steps - 1:
                    add_recurrent(products[t + 1], h[t + 1])
                else:
                    rows[t + 1, :, :lead].addmm_(h[t + 1], recurrent[:, :lead])
                attention.step(t, queries[t + 1])
                # into contiguous memory: on a slice of the rows baddbmm would go sentence by sentence
                torch.baddbmm(before_readout[t + 1], step_weights[t], values, out=next_readout[t + 1])
                f[t + 1].tanh_()

        ctx.cell_type, ctx.score, ctx.scale = cell_type, score, scale
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            *(rows, states, readouts, weights, weight, keys, query_weight, energy),
            *(context_gates, values, feed_weight, readout_weight, *memory),
        )
        return (
            states[1:].permute(2, 0, 1, 3),
            readouts[1:].transpose(0, 1) if after else None,
            None if weights is None else weights.transpose(0, 1),
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, state_grads, readout_grads, weight_grads):
        (
            rows, states, readouts, weights, weight, keys, query_weight, energy,
            context_gates, values, feed_weight, readout_weight, *memory,
        ) = ctx.saved_tensors  # fmt: skip
        steps, batch, size = len(states) - 1, states.shape[2], states.shape[3]
        cell = _CELLS[ctx.cell_type](size)
        after = values is not None
        leading = [w for w in (query_weight, readout_weight) if w is not None]
        lead = sum(len(w) for w in leading)
        product = lead + cell.hidden_blocks * size
        query_size = 0 if query_weight is None else len(query_weight)

        grads = rows.new_empty(steps + after, batch, lead + cell.grad_blocks * size)
        block = grads[:steps, :, lead:]
        products, inputs = grads[..., :product].unbind(), cell.inputs(block)
        if state_grads is not None:
            state_grads = state_grads.permute(1, 2, 0, 3)  # (T, N, B, H)
        cell.start_backward(rows[:steps, :, lead:], states, block, state_grads)
        dh_outside = None if state_grads is None else state_grads[:, 0].unbind()
        recurrent = torch.cat([*leading, cell.order(weight)])
        if keys is not None:
            attention = _SCORES[ctx.score](keys, energy, ctx.scale)
            attention.start_backward(memory, weights)
            factor = attention.query_factor
            if query_weight is None:
                loose_query = rows.new_empty(batch, 1, size)
                query_grads = [loose_query] * len(grads)
            else:
                query_grads = grads[..., :query_size].unsqueeze(2).unbind()
                recurrent[:query_size] *= factor.unsqueeze(1) if ctx.score == "additive" else factor
        if weight_grads is not None:
            weight_grads = weight_grads.transpose(0, 1).unsqueeze(2).unbind()  # T times (B, 1, S)

        add_hidden = adder(batch, recurrent)

        def hidden_grad(row: int, carry: Tensor | None) -> Tensor:
            """Gradient of the state that made a row: by its product, and by all other ways."""
            total = torch.zeros_like(states[0, 0]) if carry is None else carry
            if row and dh_outside is not None:
                total = total + dh_outside[row - 1]
            if attends and query_weight is None and (row > 0 or not after):
                total = total + loose_query.squeeze(1) * factor
            if row == 0 and after:
                return torch.addmm(total, products[0][:, lead:], recurrent[lead:])
            if row == steps:
                return torch.addmm(total, products[row][:, :lead], recurrent[:lead])
            return add_hidden(total, products[row])

        attends = keys is not None
        if not after:
            dh = states.new_zeros(batch, size) if dh_outside is None else dh_outside[-1]
            if attends:
                context = inputs.unsqueeze(2).unbind()
                context_transposed = context_gates.transpose(1, 2)
            for t in range(steps - 1, -1, -1):
                carry = cell.step_backward(t, dh)
                if attends:
                    da = torch.bmm(context[t], context_transposed)
                    if weight_grads is not None:
                        da += weight_grads[t]
                    attention.step_backward(t, da, query_grads[t])
                dh = hidden_grad(t, carry)
        else:
            size_f = values.shape[2]
            before_readout = grads[..., lead - size_f : lead].unbind()
            before_readout3 = grads[..., lead - size_f : lead].unsqueeze(2).unbind()
            values_transposed = values.transpose(1, 2)
            f, gate_inputs = readouts.unbind(), inputs.unbind()
            df_outside = None if readout_grads is None else readout_grads.transpose(0, 1).unbind()
            grads[0, :, :lead] = 0
            grads[steps, :, lead:] = 0
            carry, add_feed = None, adder(batch, feed_weight)
            for t in range(steps - 1, -1, -1):
                df = torch.zeros_like(f[0]) if df_outside is None else df_outside[t].contiguous()
                if t < steps - 1:
                    df = add_feed(df.clone(), gate_inputs[t + 1])
                before_readout[t + 1].copy_(torch.ops.aten.tanh_backward(df, f[t + 1]))
                da = torch.bmm(before_readout3[t + 1], values_transposed)
                if weight_grads is not None:
                    da += weight_grads[t]
                attention.step_backward(t, da, query_grads[t + 1])
                dh = hidden_grad(t + 1, carry)
                carry = cell.step_backward(t, dh)
            dh = hidden_grad(0, carry)

        flat = grads[..., :product].flatten(0, 1)
        d_recurrent = flat.t() @ states[: len(grads), 0].flatten(0, 1)
        d_weight = cell.reorder(d_recurrent[lead:])
        d_bias = cell.reorder(flat[:, lead:].sum(0))
        d_gates = inputs.transpose(0, 1)
        d_query = d_keys = d_energy = d_context = d_values = d_feed_weight = d_readout = d_feed = None
        if attends:
            d_keys, d_energy = attention.finish()
            if query_weight is not None:
                d_query = d_recurrent[:query_size] * (factor.unsqueeze(1) if ctx.score == "additive" else factor)
            by_source = weights.permute(1, 2, 0)  # (B, S, T)
            if after:
                d_values = torch.bmm(by_source, grads[1:, :, lead - size_f : lead].transpose(0, 1))
                d_feed_weight = inputs.flatten(0, 1).t() @ readouts[:-1].flatten(0, 1)
                d_readout = d_recurrent[query_size:lead]
                d_feed = gate_inputs[0] @ feed_weight
            else:
                d_context = torch.bmm(by_source, d_gates)
        return (
            *(d_gates, cell.start_state_grad(dh), d_weight, d_bias, None),
            *(d_keys, None, None, d_query, d_energy, None, d_context, d_values, d_feed_weight, d_readout, d_feed),
        )


# Elements of tanh(key + query) that a block holds (cache-sized on a CPU), and above which they are not kept for the
# backward.
BLOCK_ELEMENTS = {"cpu": 2**18}
KEPT_ELEMENTS = 2**25


class AdditiveAttention(torch.autograd.Function):
    """Weights (B, T, S) of `parallel_additive_attention`."""

    @staticmethod
    def forward(ctx, query, keys, energy, mask):
        batch, steps, size = query.shape
        source = keys.shape[1]
        weights = query.new_empty(batch, steps, source)
        keep = any(ctx.needs_input_grad) and batch * steps * source * size <= KEPT_ELEMENTS
        double_query, double_keys, bias = 2 * query, 2 * keys, mask_bias(mask, keys.dtype)
        double_energy, kept = 2 * energy, []
        for rows, times in _blocks(batch, steps, source * size, query.device):
            s = torch.add(double_query[rows, times].unsqueeze(2), double_keys[rows].unsqueeze(1)).sigmoid_()
            scores = (s @ double_energy).add_(bias[rows].unsqueeze(1))
            weights[rows, times] = scores.softmax(-1)
            if keep:
                kept.append(s)
        ctx.save_for_backward(double_query, double_keys, energy, weights, *kept)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx, weight_grads):
        double_query, double_keys, energy, weights, *kept = ctx.saved_tensors
        batch, steps, size = double_query.shape
        source = double_keys.shape[1]
        query_grad, key_grad = torch.empty_like(double_query), torch.zeros_like(double_keys)
        score_grads = softmax_backward(weight_grads, weights, weights.dtype)
        energy_grad = torch.zeros_like(energy)
        for block, (rows, times) in enumerate(_blocks(batch, steps, source * size, energy.device)):
            if kept:
                s = kept[block]
            else:
                s = torch.add(double_query[rows, times].unsqueeze(2), double_keys[rows].unsqueeze(1)).sigmoid_()
            score_grad = score_grads[rows, times]  # (b, t, S)
            energy_grad.addmv_(s.flatten(0, 2).t(), score_grad.flatten())
            slope = torch.addcmul(s, s, s, value=-1)
            slope.mul_(score_grad.unsqueeze(3))
            query_grad[rows, times] = slope.sum(2)
            key_grad[rows] += slope.sum(1)
        factor = 4 * energy
        return query_grad.mul_(factor), key_grad.mul_(factor), energy_grad.mul_(2), None


def _blocks(batch: int, steps: int, elements: int, device: torch.device):
    """Slices of the batch and of time, of about BLOCK_ELEMENTS elements of tanh(key + query) each."""
    limit = BLOCK_ELEMENTS.get(device.type, 2**25)
    row_step = max(1, limit // (steps * elements))
    time_step = min(steps, max(1, limit // elements))
    for row in range(0, batch, row_step):
        for time in range(0, steps, time_step):
            yield slice(row, row + row_step), slice(time, time + time_step)


def softmax_backward_(grad: Tensor, weights: Tensor) -> Tensor:
    """Gradient of the scores from that of the softmax's weights, over the last axis; overwrites grad."""
    grad.mul_(weights)
    return grad.addcmul_(weights, grad.sum(-1, keepdim=True), value=-1)


def mask_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where the mask is True, -inf where it is False."""
    return torch.zeros((), dtype=dtype, device=mask.device).masked_fill(~mask, float("-inf"))
