"""Kernels of recurrence.py against loops written from the papers' equations, in float64."""

import itertools

import pytest
import torch

from hf_genai.models import recurrence_kernels
from hf_genai.models.fast_path import plain_kernels
from hf_genai.models.matmul import SMALLEST_PRODUCT, _onednn, adder, linear, matmul
from hf_genai.models.recurrence import attention_recurrence, parallel_additive_attention, recurrent_layer

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


def gradients(outputs, p, used=slice(None)):
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


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "recomputed"])
@pytest.mark.parametrize("block", [1, 60, 10**6])
def test_parallel_attention_equals_the_equations(monkeypatch, kept, block):
    monkeypatch.setattr(recurrence_kernels, "BLOCK_ELEMENTS", {"cpu": block})
    monkeypatch.setattr(recurrence_kernels, "KEPT_ELEMENTS", 10**9 if kept else 0)
    p = parameters("gru", "after", "additive")
    query = torch.randn(B, T, A, dtype=torch.float64, requires_grad=True)
    leaves = {name: p[name] for name in ("keys", "energy", "values")} | {"query": query}
    outputs = parallel_additive_attention(**leaves, mask=p["mask"])
    weights = torch.stack(
        [
            torch.stack(
                [soft_alignment(q, p["keys"][b], p["mask"][b], "additive", p["energy"], 1.0) for q in query[b]]
            )
            for b in range(B)
        ]
    )
    expected = (weights @ p["values"], weights)
    for used in [slice(None), slice(0, 1), slice(1, 2)]:
        assert_same(gradients(outputs, leaves, used), gradients(expected, leaves, used))
    with plain_kernels():
        plain = parallel_additive_attention(**leaves, mask=p["mask"])
    for x, y, z in zip(outputs, expected, plain, strict=True):
        torch.testing.assert_close(x, y, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(z, y, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("cell_type", "position", "score", "projected"), CASES)
def test_without_gradients_and_step_by_step_the_outputs_are_the_same(cell_type, position, score, projected):
    p = parameters(cell_type, position, score, projected)
    wanted = run(p, cell_type, score)
    with torch.no_grad():
        for x, y in zip(run(p, cell_type, score), wanted, strict=True):
            assert (x is None and y is None) or torch.allclose(x, y, atol=1e-12)
        steps = []
        for t in range(T):
            now = p | {"gates": p["gates"][:, t : t + 1]}
            if steps:
                now["state"] = steps[-1][0][:, -1]
                if position == "after":
                    now["feed"] = steps[-1][1][:, -1]
            steps.append(run(now, cell_type, score))
    for pieces, whole in zip(zip(*steps, strict=True), wanted, strict=True):
        assert whole is None or torch.allclose(torch.cat(pieces, 1), whole, atol=1e-12)


@pytest.mark.parametrize(("cell_type", "position", "score"), [("gru", "after", "additive"), ("lstm", "before", "dot")])
def test_sizes_of_one_and_strided_inputs_give_the_same_gradients(cell_type, position, score):
    p = parameters(cell_type, position, score)
    small = p | {k: p[k][1:2] for k in ("state", "feed") if k in p}
    small |= {k: p[k][1:2, :1] for k in ("gates", "keys", "mask", "values", "context_gates") if k in p}
    strided = p | {k: p[k].transpose(0, 1).contiguous().transpose(0, 1) for k in ("gates", "keys", "state")}
    for case in (small, strided):
        found = gradients(attention_recurrence(**case, cell_type=cell_type, score=score), p)
        with plain_kernels():
            assert_same(found, gradients(attention_recurrence(**case, cell_type=cell_type, score=score), p))


def test_a_graph_that_is_kept_gives_the_same_gradients_twice():
    p = parameters("gru", "after", "additive")
    outputs = run(p, "gru", "additive")
    assert_same(gradients(outputs, p), gradients(outputs, p), tolerance=0)


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize(("cell_type", "position", "score"), [("gru", "after", "additive"), ("lstm", "before", "dot")])
def test_bfloat16_takes_the_plain_loop_and_stays_close(cell_type, position, score, autocast):
    p = parameters(cell_type, position, score, dtype=torch.float32)
    wanted = run(p, cell_type, score)
    if not autocast:
        p = {
            k: v.detach().bfloat16().requires_grad_() if getattr(v, "requires_grad", False) else v
            for k, v in p.items()
        }
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = run(p, cell_type, score)
    assert "Recurrence" not in outputs[0].grad_fn.name()
    for x, y in zip(outputs, wanted, strict=True):
        assert x is None or (x.float() - y).abs().max() < 0.08
    assert all(g.isfinite().all() for g in gradients(outputs, p).values())


def test_compilers_and_second_derivatives_get_the_plain_loop():
    p = parameters("gru")
    compiled = torch.compile(lambda **p: recurrent_layer(**p, cell_type="gru"), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**p), recurrent_layer(**p, cell_type="gru"))
    with plain_kernels():
        states = recurrent_layer(**p, cell_type="gru")
    (first,) = torch.autograd.grad(states.sum(), p["gates"], create_graph=True)
    assert torch.autograd.grad(first.sum(), p["weight"])[0].abs().sum() > 0
    meta = {k: v.to("meta") for k, v in p.items()}
    assert recurrent_layer(**meta, cell_type="gru").shape == (B, T, 1, H)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell_type": "rnn"}, "cell_type must be one of gru, lstm"),
        ({"score": "cosine"}, "score must be additive or dot"),
        ({"energy": None}, "energy"),
        ({"mask": torch.ones(B, S)}, "mask must be bool"),
        ({"values": None}, "give context_gates, or all of"),
        ({"context_gates": torch.ones(B, S, 3 * H)}, "excludes"),
        ({"state": torch.ones(B, 2, H)}, "state must be"),
        ({"gates": torch.ones(B, T, 4 * H)}, "gates must be"),
        ({"query_weight": None}, "the query has size"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    p = parameters("gru", "after", "additive") | {"cell_type": "gru", "score": "additive"}
    with pytest.raises(ValueError, match=message):
        attention_recurrence(**(p | change))


def test_large_products_equal_torchs_own_in_value_and_gradient():
    x, weight = torch.randn(2, 40, 300, requires_grad=True), torch.randn(400, 300, requires_grad=True)
    bias = torch.randn(400)
    assert x.numel() * len(weight) > SMALLEST_PRODUCT
    assert "_Linear" in linear(x, weight, bias).grad_fn.next_functions[0][0].name() or _onednn() is None
    found, wanted = linear(x, weight, bias), torch.nn.functional.linear(x, weight, bias)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    upstream = torch.randn_like(found)
    for g, h in zip(*(torch.autograd.grad(y, (x, weight), upstream) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(g, h, atol=1e-3, rtol=1e-4)
    left, right = x.detach().flatten(0, 1), torch.randn(300, 900)[:, 100:500]  # a slice, which oneDNN must not see
    torch.testing.assert_close(matmul(left, right), left @ right, atol=1e-4, rtol=1e-4)
    total = torch.randn(80, 400)
    torch.testing.assert_close(adder(80, right)(total.clone(), left), total + left @ right, atol=1e-4, rtol=1e-4)
