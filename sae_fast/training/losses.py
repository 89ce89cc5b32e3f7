"""Losses of SAE training as pure functions, each with the formula and paper it implements.

`x`, `x_hat` are `[n, d_in]`, `pre_acts` and `feature_acts` `[n, d_sae]`; every loss is a scalar: the mean over tokens.
"""

import torch
from torch import Tensor


def reconstruction(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean over tokens of `‖x_hat - x‖²`."""
    return (x_hat - x).pow(2).sum(-1).mean()


def topk(pre_acts: Tensor, k: int) -> Tensor:
    """Keep the `k` largest entries of each row that are positive, zero the rest (Gao et al. 2024)."""
    values, indices = pre_acts.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(pre_acts).scatter(-1, indices, values.relu())


def batch_topk(pre_acts: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Keep the `k * n` largest positive entries of the whole batch (Bussmann et al. 2024).

    Returns the feature activations and the smallest value kept (a scalar), from which the inference threshold is estimated.
    The cut is found among the `8 * k` largest entries of each row, which holds unless one token takes eight times its share.
    """
    n = pre_acts.shape[0]
    candidates = pre_acts.detach().topk(min(pre_acts.shape[1], 8 * k), dim=-1, sorted=False).values.flatten()
    threshold = candidates.topk(min(k * n, candidates.numel()), sorted=False).values.min().clamp(min=0)
    return pre_acts * (pre_acts >= threshold).to(pre_acts.dtype) * (pre_acts > 0), threshold


def auxiliary(pre_acts: Tensor, W_dec: Tensor, residual: Tensor, dead: Tensor, k_aux: int) -> Tensor:
    """Error of reconstructing the residual from the top `k_aux` dead features, over the residual's own power.

    `mean ‖e - ê‖² / mean ‖e‖²` with `e = x - x_hat` detached (Gao et al. 2024, appendix A.2); zero where no feature is dead.
    """
    n_dead = int(dead.sum())
    if n_dead == 0:
        return pre_acts.new_zeros(())
    dead_pre_acts = pre_acts[:, dead]
    values, indices = dead_pre_acts.topk(min(k_aux, n_dead), dim=-1, sorted=False)
    acts = torch.zeros_like(dead_pre_acts).scatter(-1, indices, values.relu())
    target = residual.detach()
    return reconstruction(acts @ W_dec[dead], target) / target.pow(2).sum(-1).mean()


class JumpReLU(torch.autograd.Function):
    """`x · 1[x > threshold]` with the straight-through gradient of the threshold (Rajamanoharan et al. 2024, eq. 11).

    `d/dθ = -(θ/ε) · 1[|x - θ| < ε/2]`, summed over tokens; `d/dx = 1[x > θ]`.
    """

    @staticmethod
    def forward(ctx, x: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, threshold)
        ctx.bandwidth = bandwidth
        return x * (x > threshold)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        x, threshold = ctx.saved_tensors
        near = (x - threshold).abs() < ctx.bandwidth / 2
        threshold_grad = -(threshold / ctx.bandwidth) * (near * grad).sum(0, dtype=threshold.dtype)
        return grad * (x > threshold), threshold_grad, None


class Step(torch.autograd.Function):
    """`1[x > threshold]` with a straight-through gradient for the threshold alone: `-(1/ε) · 1[|x - θ| < ε/2]`."""

    @staticmethod
    def forward(ctx, x: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, threshold)
        ctx.bandwidth = bandwidth
        return (x > threshold).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[no-untyped-def]
        x, threshold = ctx.saved_tensors
        near = (x - threshold).abs() < ctx.bandwidth / 2
        return None, -(near * grad).sum(0, dtype=threshold.dtype) / ctx.bandwidth, None


def quadratic_l0(pre_acts: Tensor, threshold: Tensor, target_l0: float, bandwidth: float) -> Tensor:
    """`(L0 / target - 1)²` with L0 the batch's mean number of active features (the penalty of Gemma Scope 2)."""
    l0 = Step.apply(pre_acts, threshold, bandwidth).sum(-1, dtype=torch.float32).mean()
    return (l0 / target_l0 - 1).pow(2)


def dead_pre_activation(pre_acts: Tensor, threshold: Tensor, dead: Tensor) -> Tensor:
    """Mean over tokens of `Σ_dead relu(θ - h)`: pulls features that never fire back towards the data (Conerly et al. 2025)."""
    if not bool(dead.any()):
        return pre_acts.new_zeros(())
    return (threshold[dead].detach() - pre_acts[:, dead]).relu().sum(-1, dtype=torch.float32).mean()
