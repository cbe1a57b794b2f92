"""Kernels of recurrence.py against loops written from the papers' equations, in float64."""

import itertools

import pytest
import torch
from hf_genai.models.fast_path import plain_kernels
from hf_genai.models.recurrence import attention_recurrence, recurrent_layer


B, T, S, H, A, D = 3, 4, 5, 6, 7, 8
GATES = {"gru": 3, "lstm": 4}
SLOTS = {"gru": 1, "lstm": 2}


def gru_step(x, h, w, b):
    """Cho et al. (2014), equations 5-8, with the reset gate after the product."""
    reset = torch.sigmoid(x[:H] + w[:H] @ h + b[:H])
    update = torch.sigmoid(x[H : 2 * H] + w[H : 2 * H] @ h + b[H : 2 * H])
    new = torch.tanh(x[2 * H :] + reset * (w[2 * H :] @ h + b[2 * H :]))
    return (update * h + (1 - update) * new,)


def lstm_step(x, h, c, w, b):
    i, f, g, o = (x + w @ h + b).view(4, H)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def step(x, slots, w, b, cell_type):
    return gru_step(x, *slots, w, b) if cell_type == "gru" else lstm_step(x, *slots, w, b)


def soft_alignment(query, keys, mask, score, energy, scale):
    """Bahdanau et al. (2015), A.1.2, or a scaled product; masked sources get exactly 0."""
    real = [s for s in range(S) if mask[s]]
    scores = [torch.tanh(keys[s] + query) @ energy if score == "additive" else scale * (keys[s] @ query) for s in real]
    probs = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
    weights = torch.zeros(S, dtype=torch.float64)
    return weights.index_put((torch.tensor(real),), probs)


def reference(p, cell_type, score=None):
    """One sentence and one step at a time."""
    states, readouts, weights = [], [], []
    for b in range(B):
        slots = tuple(p["state"][b])
        feed = p["feed"][b] if "feed" in p else None
        rows = []
        for t in range(T):
            x = p["gates"][b, t]

            def attend(h, b=b):
                query = p["query_weight"] @ h if "query_weight" in p else h
                return soft_alignment(query, p["keys"][b], p["mask"][b], score, p.get("energy"), p.get("scale", 1.0))

            a = f = None
            if "context_gates" in p:
                a = attend(slots[0])
                x = x + a @ p["context_gates"][b]
            elif "values" in p:
                x = x + p["feed_weight"] @ feed
            slots = step(x, slots, p["weight"], p["bias"], cell_type)
            if "values" in p:
                a = attend(slots[0])
                f = feed = torch.tanh(p["readout_weight"] @ slots[0] + a @ p["values"][b])
            rows.append((torch.stack(slots), f, a))
        for target, column in zip((states, readouts, weights), zip(*rows, strict=True), strict=True):
            target.append(None if column[0] is None else torch.stack(column))
    return tuple(None if x[0] is None else torch.stack(x) for x in (states, readouts, weights))


def parameters(cell_type, position=None, score=None, projected=True, dtype=torch.float64):
    torch.manual_seed(0)
    g, a = GATES[cell_type] * H, A if projected else H
    p = {"gates": (B, T, g), "state": (B, SLOTS[cell_type], H), "weight": (g, H), "bias": (g,)}
    if position:
        p |= {"keys": (B, S, a)}
        if projected:
            p["query_weight"] = (a, H)
        if score == "additive":
            p["energy"] = (a,)
    if position == "before":
        p |= {"context_gates": (B, S, g)}
    if position == "after":
        p |= {"values": (B, S, D), "feed_weight": (g, D), "readout_weight": (D, H), "feed": (B, D)}
    p = {k: torch.randn(shape, dtype=dtype).mul_(0.7).requires_grad_() for k, shape in p.items()}
    if position:
        p["mask"] = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 0]], dtype=torch.bool)
    if score == "dot":
        p["scale"] = 0.6
    return p


def run(p, cell_type, score=None):
    if score is None:
        return (recurrent_layer(**p, cell_type=cell_type),)
    return attention_recurrence(**p, cell_type=cell_type, score=score)


def gradients(outputs, p, used):
    """Gradients through the outputs in use, each of their elements with its own weight."""
    outputs = [x for x in outputs if x is not None][used]
    loss = sum((x * torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype).view(x.shape)).sum() for x in outputs)
    leaves = {k: v for k, v in p.items() if isinstance(v, torch.Tensor) and v.requires_grad}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, retain_graph=True)
    return {k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(leaves.items(), found, strict=True)}


def assert_same(found, expected, tolerance=1e-9):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


CASES = [(cell, None, None, True) for cell in GATES]
CASES += list(itertools.product(GATES, ("before", "after"), ("additive", "dot"), (True, False)))


@pytest.mark.parametrize(("cell_type", "position", "score", "projected"), CASES)
@pytest.mark.parametrize("plain", [False, True], ids=["kernel", "plain"])
def test_outputs_and_gradients_equal_the_equations(cell_type, position, score, projected, plain):
    p = parameters(cell_type, position, score, projected)
    if plain:
        with plain_kernels():
            outputs = run(p, cell_type, score)
    else:
        outputs = run(p, cell_type, score)
    assert ("RecurrenceBackward" in outputs[0].grad_fn.name()) != plain
    expected = reference(p, cell_type, score)
    for x, y in zip(outputs, expected[: len(outputs)], strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            torch.testing.assert_close(x, y, atol=1e-9, rtol=1e-9)
    count = sum(x is not None for x in outputs)
    for used in [slice(None), *(slice(i, i + 1) for i in range(count))]:
        found = run(p, cell_type, score) if not plain else outputs
        assert_same(gradients(found, p, used), gradients(expected, p, used))
