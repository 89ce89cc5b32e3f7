"""What a batch gave: the loss with its parts, and what metrics are computed from."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sae_fast.sparse import SparseActs


@dataclass(frozen=True)
class Moment:
    """Where a run is, for schedules of a loss."""

    step: int
    n_steps: int

    def risen(self, share: float) -> float:
        """From 0 to 1 over the first `share` of the steps, then 1."""
        return min(1.0, self.step / max(1.0, share * self.n_steps))


@dataclass
class Loss:
    """What one batch gave."""

    total: Tensor
    """scalar, to be minimised"""
    fired: Tensor
    """int64 [d_sae], on how many of the batch's tokens each feature was active"""
    squared_error: Tensor
    """scalar, summed over tokens and dimensions, in scaled units"""
    squared_deviation: Tensor
    """the same of the batch's mean as the reconstruction"""
    mean: Tensor
    """[d_out] that mean"""
    n: int
    """tokens"""
    terms: dict[str, Tensor] = field(default_factory=dict)
    """parts of the total, unweighted, by name"""
    y_hat: Tensor | None = None
    """[n, d_out] the reconstruction in scaled units, with its gradient"""

    def release(self) -> None:
        """Let go of everything that holds the batch in memory."""
        self.total, self.y_hat = self.total.detach(), None

    @property
    def l0(self) -> float:
        """Mean number of active features."""
        return int(self.fired.sum()) / self.n

    @property
    def explained_variance(self) -> float:
        """Of this batch: 1 - error / deviation from its mean."""
        return 1 - float(self.squared_error) / max(float(self.squared_deviation), 1e-30)


def loss_of(error: Tensor, fired: Tensor, y: Tensor, y_hat: Tensor) -> Loss:
    """A loss of the mean squared error alone; `error` is summed over tokens and dimensions."""
    mse, mean = error / len(y), y.detach().mean(0)
    deviation = (y.detach() - mean).square().sum()
    return Loss(mse, fired, error.detach(), deviation, mean, len(y), {"mse": mse.detach()}, y_hat)


def fired_counts(acts: SparseActs | Tensor, d_sae: int) -> Tensor:
    """int64 [d_sae], the number of tokens on which each feature is not zero."""
    if isinstance(acts, SparseActs):
        return torch.bincount(acts.col_indices[acts.values.detach() != 0], minlength=d_sae)
    return (acts.detach() != 0).sum(0)
