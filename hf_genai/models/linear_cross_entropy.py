"""The language-model head and its cross-entropy in one, without ever holding all logits.

For a vocabulary of V, the logits of N tokens take 4NV bytes, mostly for nothing: only their loss is wanted. Here a
chunk of tokens at a time is projected, scored, and turned into its share of the gradients at once, in the same
memory.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .fast_path import fast_path_allowed, needs_gradient, once_differentiable
from .matmul import matmul


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    num_items_in_batch: Tensor | int | None = None,
    chunk_size: int = 512,
) -> Tensor:
    """Cross-entropy of `labels` under softmax(hidden @ weight.T + bias), in nats per token.

    Rows whose label is ignored cost nothing: they are dropped before the product. Softmax, loss and the sums of the
    weight's gradient are in float32 at least, in any input dtype and under autocast. There is no second derivative.

    Args:
        hidden: (..., D).
        weight: (V, D).
        labels: (...), int64 in 0..V-1 or `ignore_index`.
        bias: (V,) or None.
        ignore_index: label of the tokens that do not count.
        label_smoothing: share, 0-1, of the target distribution that is spread evenly over the vocabulary.
        num_items_in_batch: divide the sum by this (gradient accumulation, as transformers' losses do) and not by the
            number of counted tokens.
        chunk_size: tokens whose logits are held at a time.

    Returns:
        A float32 scalar (float64 for float64 inputs). 0, connected to the graph, when all labels are ignored, where
        torch's own gives nan: one empty batch must not spoil a model.

    Raises:
        ValueError: shapes that do not fit, or a label out of range.
    """
    if hidden.shape[:-1] != labels.shape or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} must be labels {tuple(labels.shape)} plus one axis of weight's "
            f"{weight.shape[1]} columns"
        )
    arguments = (bias, ignore_index, label_smoothing, num_items_in_batch)
    if not fast_path_allowed(hidden, weight, bias, any_dtype=True):
        return _linear_cross_entropy_plain(hidden, weight, labels, *arguments)
    hidden, labels = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    counted = labels != ignore_index
    if not counted.all():
        kept = counted.nonzero().squeeze(1)
        hidden, labels = hidden.index_select(0, kept), labels.index_select(0, kept)
    if labels.numel():
        low, high = labels.aminmax()
        if low < 0 or high >= weight.shape[0]:
            raise ValueError(
                f"labels must be in 0..{weight.shape[0] - 1} or {ignore_index} (ignored), but they span "
                f"{int(low)}..{int(high)}"
            )
    total = max(labels.numel(), 1) if num_items_in_batch is None else num_items_in_batch
    loss = _LinearCrossEntropy.apply(
        hidden, weight, bias, labels, label_smoothing, chunk_size, needs_gradient(hidden, weight, bias)
    )
    return loss / total


def _linear_cross_entropy_plain(hidden, weight, labels, bias=None, *arguments) -> Tensor:
    return cross_entropy(F.linear(hidden, weight, bias), labels, *arguments)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """Return what `linear_cross_entropy` does, of logits (..., V)."""
    logits = logits.flatten(0, -2)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = labels.flatten()
    loss = F.cross_entropy(logits, labels, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="sum")
    if num_items_in_batch is None:
        num_items_in_batch = (labels != ignore_index).sum().clamp(min=1)
    return loss / num_items_in_batch


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over tokens. Gradients are made in the forward pass, while a chunk's probabilities are at hand."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, label_smoothing, chunk_size, with_gradient):
        device = hidden.device.type
        dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        with torch.autocast(device, enabled=False):
            hidden, weight, bias = (None if x is None else x.to(dtype) for x in (hidden, weight, bias))
            exact = torch.promote_types(dtype, torch.float32)
            loss = torch.zeros((), dtype=exact, device=hidden.device)
            # its rows are no power of two apart, as the weight's are: they do not fight for the same lines of the
            # cache
            transposed, grads = weight.t().contiguous(), None  # (D, V)
            if with_gradient:
                sums = {"dtype": exact, "device": hidden.device}
                grads = [
                    torch.empty_like(hidden),
                    torch.empty(transposed.shape, **sums) if len(hidden) else torch.zeros(transposed.shape, **sums),
                    None if bias is None else torch.zeros(bias.shape, **sums),
                ]
            for start in range(0, len(hidden), chunk_size):
                rows = slice(start, start + chunk_size)
                loss += _chunk(hidden[rows], transposed, bias, labels[rows], label_smoothing, grads, rows)
        if grads is not None:
            ctx.save_for_backward(*grads)
        ctx.dtypes = dtypes
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, loss_grad):
        hidden, weight, bias = ctx.saved_tensors
        grads = hidden * loss_grad, weight.t().contiguous().mul_(loss_grad), None if bias is None else bias * loss_grad
        grads = (None if grad is None else grad.to(dtype) for grad, dtype in zip(grads, ctx.dtypes, strict=True))
        return *grads, None, None, None, None


def _chunk(hidden, weight, bias, labels, smoothing, grads, rows) -> Tensor:
    """Loss of a chunk, summed; adds its gradients to grads (hidden, weight, bias), if given. weight is (D, V)."""
    logits = matmul(hidden, weight)
    if bias is not None:
        logits += bias
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    label_column = labels.unsqueeze(1)
    top = scores.amax(1, keepdim=True)
    target = scores.gather(1, label_column)
    mean = scores.mean(1, keepdim=True) if smoothing else 0.0
    probs = torch.softmax(scores, 1, out=scores)
    # log sum exp(scores), without exponentials of its own: the top probability is at least 1 / V
    log_sum = top - probs.amax(1, keepdim=True).log_()
    loss = (log_sum - (1 - smoothing) * target - smoothing * mean).sum()
    if grads is not None:
        hidden_grad, weight_grad, bias_grad = grads
        if smoothing:
            probs -= smoothing / probs.shape[1]
        probs.scatter_add_(1, label_column, probs.new_full((), smoothing - 1).expand_as(label_column))
        if bias_grad is not None:
            bias_grad += probs.sum(0)
        logits_grad = probs.to(weight.dtype)
        hidden_grad[rows] = matmul(logits_grad, weight.t())
        share = matmul(hidden.t(), logits_grad)
        weight_grad.add_(share) if rows.start else weight_grad.copy_(share)
    return loss
