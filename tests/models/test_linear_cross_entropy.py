"""linear_cross_entropy against torch's own, with all logits."""

import pytest
import torch
import torch.nn.functional as F
from private_names import TorchDispatchMode

from hf_genai.models.linear_cross_entropy import linear_cross_entropy

V, D = 11, 6


def inputs(dtype=torch.float64, with_bias=True):
    torch.manual_seed(0)
    hidden = torch.randn(3, 5, D, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, D, dtype=dtype, requires_grad=True)
    bias = torch.randn(V, dtype=dtype, requires_grad=True) if with_bias else None
    labels = torch.randint(0, V, (3, 5))
    labels[0, 3:] = labels[2, 1:] = -100
    return hidden, weight, bias, labels


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, [x for x in tensors if x is not None])


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("num_items_in_batch", [None, 7, torch.tensor(5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_loss_and_gradients_equal_torchs(chunk_size, with_bias, label_smoothing, num_items_in_batch, dtype, tolerance):
    hidden, weight, bias, labels = inputs(dtype, with_bias)
    loss = linear_cross_entropy(
        hidden, weight, labels, bias, -100, label_smoothing, num_items_in_batch, chunk_size=chunk_size
    )
    logits = F.linear(hidden, weight, bias).flatten(0, 1)
    expected = F.cross_entropy(logits, labels.flatten(), label_smoothing=label_smoothing, reduction="sum")
    expected = expected / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)
    torch.testing.assert_close(loss, expected, atol=tolerance, rtol=tolerance)
    found, wanted = gradients(3 * loss, hidden, weight, bias), gradients(3 * expected, hidden, weight, bias)
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y, atol=3 * tolerance, rtol=3 * tolerance)
    with torch.no_grad():
        arguments = (bias, -100, label_smoothing, num_items_in_batch, chunk_size)
        assert linear_cross_entropy(hidden, weight, labels, *arguments) == loss


def test_very_unlikely_labels_keep_a_finite_loss():
    hidden = torch.tensor([[300.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([1]))
    assert loss == 600
    assert torch.isfinite(gradients(loss, hidden, weight)[1]).all()


def test_only_ignored_labels_give_a_loss_of_zero_with_zero_gradients():
    hidden, weight, bias, labels = inputs()
    loss = linear_cross_entropy(hidden, weight, torch.full_like(labels, -100), bias)
    assert loss == 0
    assert all((x == 0).all() for x in gradients(loss, hidden, weight, bias))


@pytest.mark.parametrize("label", [-1, V])
def test_labels_out_of_range_are_refused(label):
    hidden, weight, bias, labels = inputs()
    labels[1, 1] = label
    with pytest.raises(ValueError, match=rf"0\.\.{V - 1} or -100"):
        linear_cross_entropy(hidden, weight, labels, bias)


def test_labels_of_another_shape_are_refused():
    hidden, weight, bias, labels = inputs()
    with pytest.raises(ValueError, match="labels"):
        linear_cross_entropy(hidden, weight, labels[:, 1:], bias)


@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_is_close_to_float32_and_keeps_the_dtypes(autocast):
    hidden, weight, bias, labels = inputs(torch.float32)
    expected = linear_cross_entropy(hidden, weight, labels, bias)
    wanted = gradients(expected, hidden, weight, bias)
    if not autocast:
        hidden, weight, bias = (x.detach().bfloat16().requires_grad_() for x in (hidden, weight, bias))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = linear_cross_entropy(hidden, weight, labels, bias, chunk_size=4)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, atol=0.02, rtol=0.02)
    for x, y, leaf in zip(gradients(loss, hidden, weight, bias), wanted, (hidden, weight, bias), strict=True):
        assert x.dtype == leaf.dtype
        torch.testing.assert_close(x.float(), y, atol=0.02, rtol=0.05)


def test_the_compiled_graph_is_plain_and_equal():
    hidden, weight, bias, labels = inputs()
    compiled = torch.compile(linear_cross_entropy, backend="eager", fullgraph=True)
    expected = linear_cross_entropy(hidden, weight, labels, bias)
    torch.testing.assert_close(compiled(hidden, weight, labels, bias), expected)


def test_all_logits_are_never_held():
    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(5000, 4, requires_grad=True)
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            made = out if isinstance(out, (tuple, list)) else [out]
            seen.extend(x.numel() for x in made if isinstance(x, torch.Tensor))
            return out

    with Watch():
        linear_cross_entropy(hidden, weight, torch.randint(0, 5000, (64,)), chunk_size=8).backward()
    assert max(seen) < 64 * 5000 / 4
