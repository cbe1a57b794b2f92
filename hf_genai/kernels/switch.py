"""Turns all twins off and on, and says when a hand-written kernel is right."""

from ..models.fast_path import (
    fast_path_allowed,
    needs_gradient,
    once_differentiable,
    plain_kernels,
    turn_off_kernels,
)

__all__ = ["fast_path_allowed", "needs_gradient", "once_differentiable", "plain_kernels", "turn_off_kernels"]
