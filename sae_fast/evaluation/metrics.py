"""Mergeable sums behind the metrics of an SAE. Sums and counts are pooled in float64 and divided once, at the end.

Each accumulator has `update` (one more batch), `merge` (another accumulator's batches; the other is left as it is) and
properties that read it. Any split of the same tokens into batches and accumulators gives the same numbers, but for float64
rounding.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from sae_fast.errors import ShapeError
from sae_fast.sparse import SparseActs

_CHUNK_ELEMENTS = 2**24
"""Logits whose float32 copies are held at a time: 64 MB a copy."""


MIN_TOKENS_FOR_DEAD = 1_000_000
"""On fewer counted tokens a feature that never fired is "not seen", which is all that is known."""
DENSE = 0.1
"""A feature active on more than this share of the counted tokens is dense."""


@dataclass(frozen=True, eq=False)
class Metrics:
    """One SAE on one set of tokens. CE and KL are in nats per prediction. None where a value is undefined.

    y is the activation at the hooks that the SAE writes to, ŷ its reconstruction there. Definitions: `docs/evaluation.md`.
    """

    n_tokens: int
    """Counted tokens, over which the SAE was measured."""
    l0: float | None = None
    """Mean number of non-zero activations per counted token."""
    l1: float | None = None
    """Mean over counted tokens of the sum of |activation|."""
    explained_variance: float | None = None
    """`1 - Σ‖y - ŷ‖² / Σ‖y - ȳ‖²`, ȳ over all counted tokens."""
    mse: float | None = None
    """Mean over counted tokens of `‖y - ŷ‖²`, summed over dimensions."""
    cosine: float | None = None
    """Mean over counted tokens of `y·ŷ / (‖y‖ ‖ŷ‖)`."""
    norm_in: float | None = None
    """Mean of `‖y‖`."""
    norm_out: float | None = None
    """Mean of `‖ŷ‖`."""
    norm_ratio: float | None = None
    """Mean over counted tokens of `‖ŷ‖ / ‖y‖`; below 1: shrinkage."""
    relative_reconstruction_bias: float | None = None
    """`Σ‖ŷ‖² / Σ y·ŷ` (Rajamanoharan et al. 2024, arXiv 2404.16014); below 1: shrinkage."""
    ce_clean: float | None = None
    """Cross entropy of the LM as it is."""
    ce_sae: float | None = None
    """Cross entropy with the SAE's reconstruction in place of the activation at counted tokens."""
    ce_mean_ablation: float | None = None
    """Cross entropy with the mean activation over all counted tokens in its place."""
    ce_zero_ablation: float | None = None
    """Cross entropy with zeros in its place."""
    ce_recovered: float | None = None
    """`(ce_mean_ablation - ce_sae) / (ce_mean_ablation - ce_clean)`."""
    ce_recovered_zero: float | None = None
    """The same against zero ablation."""
    delta_ce: float | None = None
    """`ce_sae - ce_clean`."""
    kl_sae: float | None = None
    """Mean KL divergence from the clean next-token distribution to the one with the SAE."""
    kl_mean_ablation: float | None = None
    """The same to the one with mean ablation."""
    kl_zero_ablation: float | None = None
    """The same to the one with zero ablation."""
    kl_recovered: float | None = None
    """`1 - kl_sae / kl_mean_ablation`."""
    kl_recovered_zero: float | None = None
    """The same against zero ablation."""
    n_predictions: int = 0
    """Predictions that CE and KL are means over."""
    feature_counts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64), repr=False)
    """int64 [d_sae], on the CPU: counted tokens on which each feature is non-zero."""

    @property
    def n_not_seen(self) -> int:
        """Features that were active on no counted token."""
        return int((self.feature_counts == 0).sum())

    @property
    def n_dead(self) -> int | None:
        """The same, where there were tokens enough to call them dead (`MIN_TOKENS_FOR_DEAD`); else None."""
        return self.n_not_seen if self.n_tokens >= MIN_TOKENS_FOR_DEAD else None

    @property
    def n_dense(self) -> int:
        """Features active on more than the share `DENSE` of the counted tokens."""
        return int((self.feature_counts > DENSE * self.n_tokens).sum())


class FeatureCounts:
    """On how many tokens each feature was non-zero."""

    def __init__(self, d_sae: int) -> None:
        self.n_tokens = 0
        self.counts = torch.zeros(d_sae, dtype=torch.int64)
        """int64 [d_sae], on the CPU."""

    def update(self, acts: SparseActs) -> None:
        """Add the tokens of `acts` (n, d_sae). Stored zeros do not count."""
        n, d_sae = acts.shape
        if d_sae != self.counts.numel():
            raise ShapeError("acts", expected=f"d_sae = {self.counts.numel()}", got=d_sae)
        active = acts.col_indices[acts.values != 0]
        self.counts += torch.bincount(active, minlength=d_sae).cpu()
        self.n_tokens += n

    def merge(self, other: "FeatureCounts") -> None:
        """Add what `other` has counted."""
        self.counts += other.counts
        self.n_tokens += other.n_tokens

    @property
    def l0(self) -> float | None:
        """Mean number of non-zero features per token; None without tokens."""
        return int(self.counts.sum()) / self.n_tokens if self.n_tokens else None


class MeanStats:
    """Mean of vectors."""

    def __init__(self) -> None:
        self.n_tokens = 0
        self._sum: Tensor | None = None

    def update(self, y: Tensor) -> None:
        """Add tokens `y` [n, d]."""
        total = as_double(y).sum(0)
        self._sum = total if self._sum is None else self._sum + total
        self.n_tokens += len(y)

    @property
    def mean(self) -> Tensor:
        """float64 [d]; zero without tokens."""
        return torch.zeros(()) if self._sum is None else self._sum / max(self.n_tokens, 1)


class ReconstructionStats:
    """Squared error of a reconstruction, and mean and spread of what is reconstructed.

    The spread is kept about the running mean (Chan, Golub and LeVeque 1979), so that data far from zero lose no precision.
    """

    def __init__(self, d: int) -> None:
        self.n_tokens = 0
        self.mean = torch.zeros(d, dtype=torch.float64)
        """float64 [d], on the CPU: mean of y."""
        self.squared_error = 0.0
        """Σ‖y - ŷ‖²."""
        self.squared_deviation = 0.0
        """Σ‖y - ȳ‖²."""

    def update(self, y: Tensor, y_hat: Tensor) -> None:
        """Add tokens: what is reconstructed `y` [n, d] and the reconstruction `y_hat` [n, d]."""
        if y.ndim != 2 or y.shape != y_hat.shape or y.shape[1] != self.mean.numel():
            expected = f"both [n, {self.mean.numel()}]"
            raise ShapeError("y and y_hat", expected=expected, got=f"{list(y.shape)} and {list(y_hat.shape)}")
        if not len(y):
            return
        y = as_double(y)
        mean = y.mean(0)
        self._add(
            n_tokens=len(y),
            mean=mean.cpu(),
            squared_error=float((y - as_double(y_hat)).square().sum()),
            squared_deviation=float((y - mean).square().sum()),
        )

    def merge(self, other: "ReconstructionStats") -> None:
        """Add the tokens that `other` has seen."""
        if other.n_tokens:
            self._add(other.n_tokens, other.mean, other.squared_error, other.squared_deviation)

    def _add(self, n_tokens: int, mean: Tensor, squared_error: float, squared_deviation: float) -> None:
        total = self.n_tokens + n_tokens
        shift = mean - self.mean
        between = float(shift.square().sum()) * self.n_tokens * n_tokens / total
        self.mean = self.mean + shift * (n_tokens / total)
        self.squared_error += squared_error
        self.squared_deviation += squared_deviation + between
        self.n_tokens = total

    @property
    def explained_variance(self) -> float | None:
        """`1 - Σ‖y - ŷ‖² / Σ‖y - ȳ‖²`; None where y does not vary."""
        return 1 - self.squared_error / self.squared_deviation if self.squared_deviation > 0 else None

    @property
    def mse(self) -> float | None:
        """Mean squared error per token, summed over dimensions; None without tokens."""
        return self.squared_error / self.n_tokens if self.n_tokens else None


class CrossEntropyStats:
    """Cross entropy of next tokens, and KL divergence from other logits where these are given."""

    def __init__(self) -> None:
        self.n_predictions = 0
        self.negative_log_likelihood = 0.0
        """Σ of -log p(target), in nats."""
        self.divergence = 0.0
        """Σ of KL(clean ‖ these logits), in nats, over the updates that were given clean logits."""

    def update(self, logits: Tensor, token_ids: Tensor, predicts: Tensor, clean_logits: Tensor | None = None) -> None:
        """Add the predictions at the positions where `predicts` is true.

        Args:
            logits: `[batch, pos, d_vocab]`, any floating dtype; softmax is taken in float32, a chunk of positions at a time.
            token_ids: int64 `[batch, pos]`; the target at position p is the token at p + 1.
            predicts: bool `[batch, pos]`; the last position of a row must be false, since nothing follows it.
            clean_logits: as `logits`; what KL is measured from.
        """
        losses, divergences = next_token_losses(logits, token_ids, predicts, clean_logits)
        self.negative_log_likelihood += float(losses.sum())
        if divergences is not None:
            self.divergence += float(divergences.sum())
        self.n_predictions += len(losses)

    def merge(self, other: "CrossEntropyStats") -> None:
        """Add the predictions that `other` has seen."""
        self.n_predictions += other.n_predictions
        self.negative_log_likelihood += other.negative_log_likelihood
        self.divergence += other.divergence

    @property
    def ce(self) -> float | None:
        """Mean cross entropy in nats; None without predictions."""
        return self.negative_log_likelihood / self.n_predictions if self.n_predictions else None

    @property
    def kl(self) -> float | None:
        """Mean KL divergence in nats; None without predictions."""
        return self.divergence / self.n_predictions if self.n_predictions else None


def next_token_losses(
    logits: Tensor, token_ids: Tensor, predicts: Tensor, clean_logits: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """(-log p of the next token, KL from the clean distribution or None): float64 `[n]`, of each true position of `predicts`.

    Arguments as of `CrossEntropyStats.update`; positions come row by row.
    """
    if bool(predicts[:, -1].any()):
        raise ShapeError("predicts", expected="false at the last position of every row", got="true")
    device, d_vocab = logits.device, logits.shape[-1]
    rows = predicts.flatten().nonzero()[:, 0].to(device)
    targets = token_ids.flatten().to(device)[rows + 1]
    losses, divergences = [], []
    for part, target in zip(*(t.split(max(1, _CHUNK_ELEMENTS // d_vocab)) for t in (rows, targets)), strict=True):
        log_p = functional.log_softmax(logits.reshape(-1, d_vocab)[part].float(), dim=-1)
        losses.append(-as_double(log_p.gather(1, target[:, None])[:, 0]))
        if clean_logits is not None:
            clean = functional.log_softmax(clean_logits.reshape(-1, d_vocab)[part].float(), dim=-1)
            divergences.append(as_double(_divergence(log_p, clean)))
    return torch.cat(losses), torch.cat(divergences) if clean_logits is not None else None


def _divergence(log_p: Tensor, clean: Tensor) -> Tensor:
    """KL(clean ‖ p) `[n]`; tokens that neither can give (logits of -inf) add nothing."""
    parts = functional.kl_div(log_p, clean, reduction="none", log_target=True)
    total = parts.sum(-1)
    return parts.nan_to_num(nan=0.0, posinf=torch.inf).sum(-1) if bool(total.isnan().any()) else total


def recovered(ce_ablated: float | None, ce_sae: float | None, ce_clean: float | None) -> float | None:
    """`(ce_ablated - ce_sae) / (ce_ablated - ce_clean)`; None where ablating changes nothing."""
    if ce_ablated is None or ce_sae is None or ce_clean is None or ce_ablated == ce_clean:
        return None
    return (ce_ablated - ce_sae) / (ce_ablated - ce_clean)


def as_double(x: Tensor) -> Tensor:
    """float64 on the tensor's device, or on the CPU where the device has no float64 (Apple's mps)."""
    return (x.cpu() if x.device.type == "mps" else x).double()
