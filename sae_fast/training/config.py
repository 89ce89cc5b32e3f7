"""What to train and how: one frozen dataclass, checked when it is made."""

from dataclasses import dataclass
from typing import Literal

from sae_fast.errors import SaeFastError

Architecture = Literal["topk", "batchtopk", "jumprelu"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one SAE's training run. Tokens count activation vectors."""

    architecture: Architecture
    """`topk`, `batchtopk` (Bussmann et al. 2024) or `jumprelu` (Rajamanoharan et al. 2024)."""
    d_in: int
    """Width of the activation."""
    d_sae: int
    """Number of features."""
    k: int
    """Active features per token: exactly (`topk`), on average (`batchtopk`), or the target of the penalty (`jumprelu`)."""
    hook_name: str
    """Where in the LM the activation is read."""
    model_name: str = ""
    """Name of the LM, for the saved metadata."""
    context_size: int = 128
    """Tokens per context, for the saved metadata."""
    n_tokens: int = 5_000_000
    """Length of the run; sets the learning-rate schedule."""
    batch_tokens: int = 2048
    """Activation vectors per step."""
    lr: float = 1e-3
    """Adam's peak learning rate."""
    threshold_lr: float = 2e-2
    """Adam's peak learning rate for the logarithm of the thresholds (`jumprelu`)."""
    warmup_share: float = 0.02
    """Share of the steps over which the learning rate rises linearly."""
    decay_share: float = 0.4
    """Share of the steps, at the end, over which the learning rate falls linearly to zero."""
    aux_coefficient: float = 1 / 32
    """Weight of the auxiliary loss that revives dead features (`topk`, `batchtopk`; Gao et al. 2024)."""
    dead_after_tokens: int = 200_000
    """A feature counts as dead when it was not active on this many tokens in a row."""
    l0_coefficient: float = 32.0
    """Weight of the quadratic L0 penalty (`jumprelu`)."""
    l0_warmup_share: float = 0.3
    """Share of the steps over which the L0 penalty rises linearly (`jumprelu`)."""
    bandwidth: float = 0.1
    """Width of the straight-through estimator's window (`jumprelu`), in normalised units."""
    initial_threshold: float = 0.1
    """Starting value of the thresholds (`jumprelu`), in normalised units."""
    dead_coefficient: float = 3e-3
    """Weight of the pre-activation loss that pulls dead features back (`jumprelu`; Conerly et al. 2025)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.d_sae:
            raise SaeFastError(f"k: expected 1 to d_sae = {self.d_sae}, got {self.k}")
        if self.warmup_share + self.decay_share > 1:
            raise SaeFastError(f"warmup_share + decay_share: expected at most 1, got {self.warmup_share + self.decay_share}")

    @property
    def n_steps(self) -> int:
        return max(1, self.n_tokens // self.batch_tokens)

    def lr_factor(self, step: int) -> float:
        """Learning rate at `step`, as a share of `lr`: linear rise, constant, linear fall."""
        rise = (step + 1) / max(1, round(self.warmup_share * self.n_steps))
        fall = (self.n_steps - step) / max(1, round(self.decay_share * self.n_steps))
        return min(1.0, rise, fall)
