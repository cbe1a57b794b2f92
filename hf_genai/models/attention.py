"""Attention in two parts that every model here shares: a score compares queries with keys, `attend` weighs values by
it.

A score works on queries and keys that are projected already. Luong's "general" score is `DotScore` after a projection
of the keys.
"""

import torch
from torch import Tensor, nn


class DotScore(nn.Module):
    """Compare query and key by their inner product, times a scale.

    Reference: Luong, Pham and Manning (2015), arXiv:1508.04025, equation 8, with scale 1.
    """

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = scale

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Return raw scores (..., T, S); larger is a closer match.

        Args:
            query: (..., T, E).
            key: (..., S, E).
        """
        return (query * self.scale) @ key.transpose(-1, -2)


class ScaledDotScore(DotScore):
    """Compare query and key by their inner product, divided by the square root of their size.

    Reference: Vaswani et al. (2017), arXiv:1706.03762, equation 1.
    """

    def __init__(self, size: int):
        super().__init__(size**-0.5)


class AdditiveScore(nn.Module):
    """Compare query and key through one tanh layer.

    Reference: Bahdanau, Cho and Bengio (2015), arXiv:1409.0473, A.1.2.
    """

    def __init__(self, size: int):
        super().__init__()
        self.energy = nn.Linear(size, 1, bias=False)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Return raw scores (..., T, S); larger is a closer match.

        Args:
            query: (..., T, A).
            key: (..., S, A).
        """
        match = torch.tanh(query.unsqueeze(-2) + key.unsqueeze(-3))  # (..., T, S, A)
        return self.energy(match).squeeze(-1)


def attend(scores: Tensor, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Turn scores into weights, and sum the values by them.

    Args:
        scores: (..., T, S).
        value: (..., S, D).
        mask: bool, broadcast to (..., T, S); True where a key may be seen. Each query must see one key at least.

    Returns:
        context (..., T, D), and weights (..., T, S), which sum to 1 over S; the softmax is computed in float32 at
        least.
    """
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    precise = scores.dtype if scores.dtype == torch.float64 else torch.float32
    weights = torch.softmax(scores, dim=-1, dtype=precise).to(value.dtype)
    return weights @ value, weights
