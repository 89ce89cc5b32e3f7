"""What an evaluation found: sums, and the numbers that follow from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sae_fast.errors import MismatchError
from sae_fast.evaluation.groupings import bucket_name
from sae_fast.evaluation.metrics import FeatureCounts, Metrics
from sae_fast.evaluation.sums import Sums, metrics_of

Hooks = tuple[str, ...]
"""Where an SAE writes: one hook, or those of a cross-layer transcoder."""
Values = dict[str, float | None]
Interval = tuple[float, float] | None

LEVEL = 0.95
RESAMPLES = 1000


@dataclass(eq=False)
class SaeSums:
    """Sums of one SAE."""

    hooks: Hooks
    target: str
    """What it is compared with: a key of `Evaluation.targets`."""
    sums: Sums
    features: FeatureCounts


@dataclass(eq=False)
class Evaluation:
    """Sums over the counted tokens of a set of texts, for each SAE; properties and methods read them."""

    means: Mapping[str, Tensor]
    """float64 [d] by hook: the activation that mean ablation puts there."""
    saes: dict[str, SaeSums]
    targets: dict[str, Sums]
    clean: Sums
    ablated: dict[Hooks, Sums]
    class_names: tuple[str, ...] = ()
    documents: set[int] = field(default_factory=set)
    """Numbers of the documents with a counted token."""

    def merge(self, other: "Evaluation") -> None:
        """Add the texts that `other` has seen; `other` is left as it is.

        Halves that share no block of documents give the digits of the whole, others differ by the rounding of float64.

        Raises:
            MismatchError: other SAEs, or other means: give `measure` the same `means` for all parts.
        """
        if self.saes.keys() != other.saes.keys() or self.class_names != other.class_names:
            raise MismatchError("evaluations of other SAEs, or by other classes, cannot be merged")
        if any(not torch.equal(mean, other.means[hook]) for hook, mean in self.means.items()):
            raise MismatchError(
                "evaluations that ablate to other means cannot be merged", advice="Give measure(…, means=…) the same ones"
            )
        for name, one in self.saes.items():
            one.sums.merge(other.saes[name].sums)
            one.features.merge(other.saes[name].features)
        self.clean.merge(other.clean)
        for target, sums in self.targets.items():
            sums.merge(other.targets[target])
        for hooks, sums in self.ablated.items():
            sums.merge(other.ablated[hooks])
        self.documents |= other.documents

    def metrics(self) -> dict[str, Metrics]:
        """Every metric of each SAE, over all counted tokens."""
        return {name: self._metrics(name) for name in self.saes}

    def intervals(self, name: str, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Interval]:
        """95 % percentile intervals of an SAE's metrics by resampling blocks of documents, the same draws for every SAE.

        None where there are fewer than two blocks, or a metric is undefined.
        """
        n_tokens = self.targets[self.saes[name].target].of["block"]["n"]
        used = (n_tokens > 0).nonzero()[:, 0]
        drawn = _draws(len(used), resamples, seed)
        weights = torch.zeros(resamples, len(n_tokens), dtype=torch.float64)
        weights[:, used] = drawn
        found = metrics_of(self._totals(name, "block", weights))
        return {metric: _interval(values) if len(used) > 1 else None for metric, values in found.items()}

    def by_position(self, name: str) -> list[dict[str, Any]]:
        """Metrics of the tokens at 0, 1, 2 to 3, 4 to 7, … real tokens from the start of their context, where there are any."""
        return self._table(name, "position", bucket_name)

    def by_class(self, name: str) -> list[dict[str, Any]]:
        """Metrics of the tokens of each class, where there are any; none if the evaluation knew no classes."""
        return self._table(name, "class", self.class_names.__getitem__) if self.class_names else []

    def n_blocks(self) -> int:
        """Blocks of documents with counted tokens: what intervals draw from."""
        return int((next(iter(self.targets.values())).of["block"]["n"] > 0).sum())

    def _table(self, name: str, grouping: str, label: Any) -> list[dict[str, Any]]:
        total = self._totals(name, grouping)
        found = metrics_of(total)
        return [
            {
                "name": label(cell),
                "n_tokens": int(total["n"][cell]),
                "n_predictions": int(total["n_predictions"][cell]),
                **{metric: _number(values[cell]) for metric, values in found.items()},
            }
            for cell in (total["n"] > 0).nonzero()[:, 0].tolist()
        ]

    def _metrics(self, name: str) -> Metrics:
        whole = torch.ones(1, self.clean.n_cells["block"], dtype=torch.float64)
        total = self._totals(name, "block", whole)
        values: Any = {metric: _number(value[0]) for metric, value in metrics_of(total).items()}
        counts = self.saes[name].features.counts
        return Metrics(
            n_tokens=int(total["n"]), n_predictions=int(total["n_predictions"]), feature_counts=counts.clone(), **values
        )

    def _totals(self, name: str, grouping: str, weights: Tensor | None = None) -> dict[str, Tensor]:
        one = self.saes[name]
        total: dict[str, Tensor] = {}
        for sums in (self.targets[one.target], self.clean, self.ablated[one.hooks], one.sums):
            total |= sums.scalars(grouping, weights)
        return total


def _draws(n: int, resamples: int, seed: int) -> Tensor:
    """float64 `[resamples, n]`: how often each of n blocks is drawn in n draws with replacement."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(n, (resamples, n), generator=generator)
    return torch.zeros(resamples, n, dtype=torch.float64).scatter_add_(1, chosen, torch.ones(resamples, n, dtype=torch.float64))


def _interval(values: Tensor) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = torch.nanquantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return None if low != low or high != high else (low, high)


def _number(value: Tensor) -> float | None:
    number = float(value)
    return None if number != number else number
