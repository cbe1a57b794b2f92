"""The kernels of the Transformers against their plain twins: values, gradients, and where they must not be used."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_genai.models import attention_kernel, matmul
from hf_genai.models.attention_kernel import train_attention
from hf_genai.models.fast_path import fast_path_allowed, plain_kernels
from hf_genai.models.linear_cross_entropy import linear_cross_entropy
from hf_genai.models.matmul import Linear, project, together
from hf_genai.models.positions import rotate
from hf_genai.models.transformer_kernels import (
    Coins,
    Dropout,
    RMSNorm,
    dropped_relu,
    gated,
    gelu_tanh,
)

B, T, S, H, E, D = 2, 5, 7, 3, 4, 12
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}


def leaf(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def rms_norm(x):
    norm = RMSNorm(D, eps=1e-6).to(x.dtype)
    nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(3))
    y = norm(x)
    # the gradient of the weight goes along
    return torch.cat([y, torch.autograd.grad(y.square().sum(), norm.weight, retain_graph=True)[0].expand_as(y)])


def rotated(x):
    angles = torch.linspace(0, 3, T * D // 2, dtype=x.dtype).view(1, T, D // 2).repeat(1, 1, 2)
    return rotate(x.unsqueeze(1), angles.cos(), angles.sin())


KERNELS = {
    "rms_norm": rms_norm,
    "gelu_tanh": gelu_tanh,
    "rotate": rotated,
    **{
        f"gated {name}": functools.partial(gated, activation=activation)
        for name, activation in {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": gelu_tanh, "relu": F.relu}.items()
    },
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("rows", [T, 20_000])  # 20,000: several blocks
def test_values_and_gradients_are_those_of_the_plain_twin(name, dtype, rows):
    if name == "rotate":
        rows = T
    x = leaf(B, rows, D, dtype=dtype)
    found = KERNELS[name](x)
    assert "Backward" in type(found.grad_fn).__name__
    with plain_kernels():
        wanted = KERNELS[name](x)
    tolerance = TOLERANCE[dtype] * (100 if name == "rms_norm" and rows > T else 1)
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=10 * tolerance)
    weights = torch.randn_like(wanted)
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, wanted)]
    torch.testing.assert_close(*gradients, atol=5 * tolerance, rtol=10 * tolerance)


def test_extreme_inputs_of_gelu_stay_finite():
    x = torch.tensor([[-1e4, -50.0, -1.0, 0.0, 1.0, 50.0, 1e4]]).requires_grad_()
    found = gelu_tanh(x)
    torch.testing.assert_close(found, F.gelu(x, approximate="tanh"))
    assert torch.isfinite(torch.autograd.grad(found.sum(), x)[0]).all()


@pytest.mark.parametrize("name", KERNELS)
def test_second_derivatives_are_refused_by_kernels_and_given_by_the_plain_twins(name):
    x = leaf(B, T, D)

    def twice():
        (first,) = torch.autograd.grad(KERNELS[name](x).square().sum(), x, create_graph=True)
        first.square().sum().backward()
        return x.grad

    if name != "rms_norm":  # its test calls autograd inside
        with pytest.raises(RuntimeError, match="plain_kernels"):
            twice()
        with plain_kernels():
            assert torch.isfinite(twice()).all()


def test_a_kernel_at_the_end_of_a_graph_does_not_hand_out_gradients_as_constants():
    """What comes in there is the 1 that is the gradient of a loss, which depends on nothing."""
    weight, hidden, labels = leaf(9, D), leaf(T, D), torch.arange(T)

    def penalty():
        loss = linear_cross_entropy(hidden, weight, labels)
        (loss + torch.autograd.grad(loss, weight, create_graph=True)[0].square().sum()).backward()
        return weight.grad

    with pytest.raises(RuntimeError, match="plain_kernels"):
        penalty()
    weight.grad = None
    with plain_kernels():
        found = penalty()
    loss = F.cross_entropy(hidden @ weight.T, labels)
    loss = loss + torch.autograd.grad(loss, weight, create_graph=True)[0].square().sum()
    torch.testing.assert_close(found, torch.autograd.grad(loss, weight)[0])


@pytest.mark.parametrize("name", [name for name in KERNELS if name != "rms_norm"])
def test_compilers_functorch_and_half_precision_take_the_plain_twin(name):
    x = torch.randn(B, T, D)
    wanted = KERNELS[name](x)
    compiled = torch.compile(KERNELS[name], backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x.clone().requires_grad_()), wanted)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(KERNELS[name](leaf).sum(), leaf)
    torch.testing.assert_close(torch.func.grad(lambda x: KERNELS[name](x).sum())(x), expected)
    assert KERNELS[name](x.bfloat16().requires_grad_()).dtype == torch.bfloat16


def test_dropout_keeps_the_mean_and_the_share_and_its_gradient_has_the_same_zeros():
    torch.manual_seed(0)
    x = torch.ones(1000, 1000, requires_grad=True)
    y = Dropout(0.1)(x)
    assert 0.0985 < (y == 0).float().mean() < 0.1015
    assert abs(y.mean() - 1) < 2e-3
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, y.detach())
    # each column and row alike: the four numbers that a random word serves are independent
    assert (y == 0).float().view(-1, 4).mean(0).sub(0.1).abs().max() < 3e-3
    pairs = (y == 0).view(-1, 4)
    assert abs((pairs[:, 0] & pairs[:, 1]).float().mean() - 0.01) < 1e-3


def test_of_all_random_words_just_the_share_to_be_dropped_drops(monkeypatch):
    monkeypatch.setattr(Coins, "draw", lambda coins, shape: np.arange(2**16, dtype=np.uint16))
    coins = Coins(0.1)
    mask = coins.keep(torch.empty(2**16, dtype=torch.bool))
    assert (~mask).sum() == round(0.1 * 2**16) and mask.sum() * coins.factor == 2**16
    assert torch.equal(coins.margins(mask.shape) >= 0, mask)


@pytest.mark.parametrize("probability", [1e-6, 0.25, 0.9999999])
def test_the_factor_is_that_of_the_probability_that_the_bits_can_hold(probability):
    coins = Coins(probability)
    assert coins.keep(torch.empty(333, 3, dtype=torch.bool)).shape == coins.margins(torch.Size((333, 3))).shape
    assert coins.factor >= 1 and coins.factor != float("inf")


def test_random_words_follow_torchs_seed_and_go_on_from_draw_to_draw():
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        coins, others = Coins(0.1), Coins(0.1)
        draws.append([c.draw(torch.Size((5000,))).astype(np.int64) for c in (coins, coins, others)])
    same, again, other = draws
    for first, second in zip(same, again, strict=True):
        assert (first == second).all()
    pairs = [(same[0], same[1]), (same[0], same[2]), (same[0], other[0])]
    for first, second in pairs:
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.07 and (first != second).mean() > 0.99


def test_dropout_is_the_same_for_the_same_seed_and_none_in_evaluation():
    x, dropout = torch.randn(50, 3, requires_grad=True), Dropout(0.5)
    torch.manual_seed(4)
    first = dropout(x)
    torch.manual_seed(4)
    assert torch.equal(first, dropout(x))
    assert torch.equal(dropout.eval()(x), x)
    assert (Dropout(1.0)(x) == 0).all()
    assert torch.equal(Dropout(0.0)(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_with_a_residual_is_dropout_and_a_sum(dtype):
    x, residual = leaf(50, 6, dtype=dtype), leaf(50, 6, dtype=dtype)
    dropout, results = Dropout(0.3), []
    for summed in (lambda: dropout(x, residual), lambda: residual + dropout(x)):
        torch.manual_seed(1)
        results.append([(y := summed()), *torch.autograd.grad((y * x.detach()).sum(), (x, residual))])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=0.1 if dtype == torch.bfloat16 else 1e-5, rtol=1e-5)
    assert torch.equal(dropout.eval()(x, residual), residual + x)
    alone = residual.detach()[:1]  # of another shape: broadcast, as in a sum
    assert torch.equal(Dropout(0.0)(x, alone), alone + x)


def test_relu_with_dropout_has_the_zeros_of_both_in_its_value_and_gradient():
    x, dropout = leaf(400, 300), Dropout(0.25)
    torch.manual_seed(2)
    found = dropped_relu(x, dropout)
    torch.manual_seed(2)
    wanted = dropout(F.relu(x))
    torch.testing.assert_close(found, wanted)
    assert 0.37 < (found > 0).double().mean() < 0.38
    weights = torch.randn_like(x)
    torch.testing.assert_close(*(torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, wanted)))
    assert torch.equal(dropped_relu(x, dropout.eval()), F.relu(x))


MASKS = {
    "none": lambda: None,
    "bool": lambda: torch.ones(B, 1, T, S, dtype=torch.bool).tril(1),
    "bias": lambda: leaf(1, H, T, S),
    "bias of one row": lambda: leaf(1, H, 1, S),
    "bias of each text": lambda: leaf(B, H, T, S),
    "bias of each text and no head": lambda: leaf(B, 1, T, S),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("block", [1, 2**16])  # texts one by one, or all at once
def test_attention_with_dropout_or_a_learned_bias_is_that_of_torch(name, is_causal, block, monkeypatch):
    monkeypatch.setattr(attention_kernel, "BLOCK", block)
    mask = MASKS[name]()
    query, key, value = leaf(B, H, T, E), leaf(B, H, S, E), leaf(B, H, S, E)
    inputs = [query, key, value] + ([mask] if mask is not None and mask.requires_grad else [])
    # a dropout that drops nothing: what is compared is the way through the kernel
    found = train_attention(query, key, value, mask, is_causal and mask is None, 0.3, dropout=1e-9)
    wanted = F.scaled_dot_product_attention(
        query, key, value, mask, is_causal=is_causal and mask is None, scale=0.3
    ).transpose(1, 2)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(wanted)
    gradients = [torch.autograd.grad((x * weights).sum(), inputs) for x in (found, wanted)]
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(x, y)


def test_attention_drops_weights_in_forward_and_backward_alike():
    """Against the same arithmetic with the weights that were dropped, found by values that are unit vectors."""
    query, key = leaf(1, 1, 6, E), leaf(1, 1, 6, E)
    value = torch.eye(6, dtype=torch.float64).view(1, 1, 6, 6).requires_grad_()
    torch.manual_seed(0)
    found = train_attention(query, key, value, None, True, 0.5, dropout=0.4)  # (1, T, 1, S): the weights themselves
    mask = (found.transpose(1, 2) != 0).detach()
    assert not mask[0, 0].tril().equal(torch.ones(6, 6, dtype=torch.bool).tril())  # some are dropped
    scores = (0.5 * query @ key.transpose(-1, -2)).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    factor = 65536 / (65536 - round(0.4 * 65536))
    wanted = ((scores.softmax(-1) * mask * factor) @ value).transpose(1, 2)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(wanted)
    gradients = [torch.autograd.grad((x * weights).sum(), (query, key, value)) for x in (found, wanted)]
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.parametrize("learned", [True, False])
def test_attention_to_short_texts_is_that_of_torch_text_by_text(side_by_side, learned, through_numpy):
    """Texts of which nothing is asked, that have nothing to be asked, and several of one length."""
    lengths, keys = [0, 2, 2, 2, 3, 5], [4, 3, 3, 0, 6, 5]
    query = leaf(1, sum(lengths), H * E, dtype=torch.float32)
    both = leaf(1, sum(keys), 2 * H * E, dtype=torch.float32)
    key, value = both.chunk(2, -1) if side_by_side else (x.contiguous() for x in both.chunk(2, -1))
    heads = [x.view(1, -1, H, E).transpose(1, 2) for x in (query, key, value)]
    bias = leaf(1, H, max(lengths), max(keys), dtype=torch.float32) if learned else None
    # a dropout that drops nothing
    found = train_attention(*heads, bias, False, 0.3, 0.0 if learned else 1e-9, text_lengths=(lengths, keys))
    wanted, t, s = [], 0, 0
    for length, count in zip(lengths, keys, strict=True):
        one = heads[0][:, :, t : t + length], *(x[:, :, s : s + count] for x in heads[1:])
        corner = None if bias is None else bias[..., :length, :count]
        seen = F.scaled_dot_product_attention(*one, corner, scale=0.3) if count else torch.zeros(1, H, length, E)
        wanted.append(seen.transpose(1, 2))
        t, s = t + length, s + count
    wanted = torch.cat(wanted, 1)
    torch.testing.assert_close(found, wanted)
    inputs = [query, both] + ([bias] if learned else [])
    weights = torch.randn_like(wanted)
    gradients = [torch.autograd.grad((x * weights).sum(), inputs, retain_graph=True) for x in (found, wanted)]
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(x, y, atol=2e-6, rtol=1e-5)
    assert through_numpy


def test_gradients_of_one_projection_lie_side_by_side(monkeypatch):
    """So joining them costs no copy; where they do not, they are joined all the same."""
    joined = leaf(B, T, 3 * H * E)
    copies, cat = [], torch.cat
    monkeypatch.setattr(torch, "cat", lambda *args, **kwargs: copies.append(1) or cat(*args, **kwargs))
    for order in ([0, 1, 2], [0, 2, 1]):
        split = matmul._Split.apply(joined, [H * E] * 3)
        heads = [split[i].view(B, T, H, E).transpose(1, 2) for i in order]
        found = train_attention(*heads, None, True, 0.5, dropout=1e-9)
        parts = [joined.split(H * E, -1)[i].view(B, T, H, E).transpose(1, 2) for i in order]
        wanted = F.scaled_dot_product_attention(*parts, is_causal=True, scale=0.5).transpose(1, 2)
        gradients = [torch.autograd.grad(x.square().sum(), joined)[0] for x in (found, wanted)]
        torch.testing.assert_close(*gradients)
        assert len(copies) == (order != [0, 1, 2])


def test_attention_leaves_to_torch_what_torch_does_better():
    query, key = leaf(B, H, T, E), leaf(B, H, S, E)
    mask = torch.ones(B, 1, T, S, dtype=torch.bool)
    assert train_attention(query, key, key, mask, False, 1.0, dropout=0.0) is None  # the fused kernel
    assert train_attention(query, key, key, mask, False, 1.0, dropout=1.0) is None  # nothing is left
    assert train_attention(query, key[:, :1], key[:, :1], mask, False, 1.0, dropout=0.1) is None  # grouped heads
    mask[0, 0, 2] = False  # a query that sees nothing
    assert train_attention(query, key, key, mask, False, 1.0, dropout=0.1) is None
    added = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, -torch.inf)
    assert train_attention(query, key, key, added, False, 1.0, dropout=0.1) is None
    with torch.no_grad():
        assert train_attention(query, key, key, leaf(1, H, T, S), False, 1.0, dropout=0.0) is None


@pytest.mark.parametrize("shape", [(1, 1, T + 1, S), (B, 1, 1, S + 1), (B + 1, 1, T, S)])
def test_a_mask_that_does_not_fit_is_refused_as_by_torch(shape):
    query, key = leaf(B, H, T, E), leaf(B, H, S, E)
    for attend in (train_attention, F.scaled_dot_product_attention):
        with pytest.raises(RuntimeError, match="size"):
            options = (False, 1.0, 0.1) if attend is train_attention else ()
            attend(query, key, key, torch.zeros(shape, dtype=query.dtype), *options)


def test_the_same_is_dropped_with_and_without_gradients():
    """As a re-entrant checkpoint runs a layer first without, then with them."""
    query, key, x = leaf(B, H, T, E), leaf(B, H, S, E), leaf(B, T, D)

    def dropped():
        torch.manual_seed(5)
        return train_attention(query, key, key, None, False, 1.0, dropout=0.5), Dropout(0.5)(x), Dropout(0.5)(x, x)

    with torch.no_grad():
        first = dropped()
    for one, two in zip(first, dropped(), strict=True):
        assert torch.equal(one, two) and two.requires_grad and not one.requires_grad


@pytest.mark.parametrize("bias", [True, False])
def test_projections_of_one_input_are_those_of_each_map(bias):
    maps = [Linear(D, size, bias=bias).double() for size in (8, 4, 4)]
    x = leaf(B, T, D)
    assert together(x, *maps) is not None
    found = project(x, *maps)
    wanted = [m(x) for m in maps]
    weights = [torch.randn_like(y) for y in wanted]
    parameters = [x, *(p for m in maps for p in m.parameters())]
    for some in zip(found, wanted, strict=True):
        torch.testing.assert_close(*some)
    gradients = [
        torch.autograd.grad(sum((y * w).sum() for y, w in zip(some, weights, strict=True)), parameters)
        for some in (found, wanted)
    ]
    for some in zip(*gradients, strict=True):
        torch.testing.assert_close(*some)


def test_a_map_with_a_hook_or_of_another_class_is_called_by_itself():
    seen, x = [], leaf(B, T, D)
    maps = [Linear(D, 4).double(), Linear(D, 4).double()]
    maps[1].register_forward_hook(lambda *args: seen.append(1))
    project(x, *maps)
    assert seen == [1]
    assert together(x, maps[0], nn.Linear(D, 4).double()) is None
    maps = [Linear(D, 4).double(), Linear(D, 4).double()]
    maps[1].forward = lambda x: x[..., :4]  # as accelerate does to weights that lie elsewhere
    torch.testing.assert_close(project(x, *maps)[1], x[..., :4])
    maps = [Linear(D, 4).double(), Linear(D, 4, bias=False).double()]
    assert together(x, *maps) is None


@pytest.mark.parametrize("shape", [(64, 512), (512, 64), (256, 256)])  # (out, in), large enough for every product
def test_gradients_of_a_large_linear_map_are_torchs(shape):
    linear = Linear(shape[1], shape[0])
    x = leaf(300, shape[1], dtype=torch.float32)
    weights = torch.randn(300, shape[0])
    found = torch.autograd.grad((linear(x) * weights).sum(), (x, *linear.parameters()))
    wanted = torch.autograd.grad((F.linear(x, linear.weight, linear.bias) * weights).sum(), (x, *linear.parameters()))
    for some in zip(found, wanted, strict=True):
        torch.testing.assert_close(*some, atol=1e-4, rtol=1e-4)


def test_kernels_come_back_when_plain_ones_were_asked_for_twice_at_a_time():
    """As by two threads, of which the first one ends first."""
    first, second = plain_kernels(), plain_kernels()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not fast_path_allowed(torch.zeros(1))
    second.__exit__(None, None, None)
    assert fast_path_allowed(torch.zeros(1))
