"""Functions with straight-through gradients, and the terms of losses that are more than a sum.

All are elementwise: `pre_acts` and `threshold` have one shape, whether that is [n, d_sae], or [nnz] with the thresholds of the
entries' features. A threshold of shape [d_sae] is expanded or indexed by the caller, and autograd adds up its gradient.
"""

from typing import Any

import torch
from torch import Tensor


class JumpReLU(torch.autograd.Function):
    """`h · 1[h > θ]` with the straight-through gradient of the threshold (Rajamanoharan et al. 2024, eq. 11).

    `d/dθ = -(θ/ε) · 1[|h - θ| < ε/2]`, `d/dh = 1[h > θ]`.
    """

    @staticmethod
    def forward(ctx: Any, pre_acts: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_acts, threshold)
        ctx.bandwidth = bandwidth
        return pre_acts * (pre_acts > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        pre_acts, threshold = ctx.saved_tensors
        near = (pre_acts - threshold).abs() < ctx.bandwidth / 2
        return grads[0] * (pre_acts > threshold), -(threshold / ctx.bandwidth) * near * grads[0], None


class Step(torch.autograd.Function):
    """`1[h > θ]` with a straight-through gradient for the threshold alone: `-(1/ε) · 1[|h - θ| < ε/2]`."""

    @staticmethod
    def forward(ctx: Any, pre_acts: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_acts, threshold)
        ctx.bandwidth = bandwidth
        return (pre_acts > threshold).to(pre_acts.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        pre_acts, threshold = ctx.saved_tensors
        near = (pre_acts - threshold).abs() < ctx.bandwidth / 2
        return None, -(near / ctx.bandwidth) * grads[0], None


def weighted_l1(values: Tensor, norms: Tensor, n: int, p: float = 1.0) -> Tensor:
    """Mean over n tokens of `(Σ (|a| ‖d‖)^p)` with decoder norms `norms` of the same shape; p = 1 is the L1 norm.

    The gradient by an activation of zero is zero, also where that of the power is not bounded.
    """
    weighted = values.abs() * norms
    if p == 1:
        return weighted.sum() / n
    return torch.where(weighted > 0, torch.where(weighted > 0, weighted, 1.0).pow(p), 0.0).sum() / n


def quadratic_l0(l0: Tensor, target: float) -> Tensor:
    """`(L0 / target - 1)²` (Gemma Scope 2)."""
    return (l0 / target - 1).square()


def tanh_l0(values: Tensor, norms: Tensor, n: int, scale: float) -> Tensor:
    """Mean over n tokens of `Σ tanh(c a ‖d‖)`, activations not negative (Anthropic, January 2025 update)."""
    return torch.tanh(scale * values * norms).sum() / n


def dead_pre_activation(dead_pre_acts: Tensor, dead_threshold: Tensor, norms: Tensor) -> Tensor:
    """Mean over tokens of `Σ_dead relu(θ - h) ‖d‖`: pulls features that never fire back towards the data (Conerly et al. 2025).

    `dead_pre_acts` [n, n_dead], the others [n_dead].
    """
    return ((dead_threshold.detach() - dead_pre_acts).relu() * norms).sum(1).mean()
