"""What an evaluation found: sums, and the numbers that follow from them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sae_fast.errors import MismatchError
from sae_fast.evaluation.groupings import bucket_name
from sae_fast.evaluation.metrics import DENSE, FeatureCounts, Metrics
from sae_fast.evaluation.resampling import RESAMPLES, Interval, draws, interval
from sae_fast.evaluation.sums import Sums, metrics_of, reconstruction_of, sparsity_of

Hooks = tuple[str, ...]
"""Where an SAE writes: one hook, or those of a cross-layer transcoder."""
Row = dict[str, Any]
Totals = Callable[[Tensor], dict[str, Tensor]]
"""Sums `[n_rows, r]` by name, from weights on blocks `[r, n_blocks]`."""


@dataclass(eq=False)
class LayerSums:
    """Sums of one SAE of several that are measured together."""

    sums: Sums
    features: FeatureCounts

    def merge(self, other: "LayerSums") -> None:
        """Add what `other` has seen."""
        self.sums.merge(other.sums)
        self.features.merge(other.features)


@dataclass(eq=False)
class SaeSums:
    """Sums of one SAE, of a prefix of it, or of several SAEs together."""

    hooks: Hooks
    target: str
    """What it is compared with: a key of `Evaluation.targets`."""
    sums: Sums
    layers: dict[str, LayerSums]
    """Of each SAE by its name; one without a name where it is only one."""
    n_features: int
    prefix_of: str | None = None
    """Of a prefix of a matryoshka SAE: the name of the whole."""
    by_hook: dict[str, tuple[str, Sums]] = field(default_factory=dict)
    """Where it writes at several hooks: what it is compared with at each, and its sums there."""

    @property
    def counts(self) -> Tensor:
        """int64 `[n_features]`: tokens on which each feature is non-zero."""
        return torch.cat([layer.features.counts for layer in self.layers.values()])[: self.n_features]

    def merge(self, other: "SaeSums") -> None:
        """Add what `other` has seen."""
        self.sums.merge(other.sums)
        for name, layer in self.layers.items():
            layer.merge(other.layers[name])
        for hook, (_, sums) in self.by_hook.items():
            sums.merge(other.by_hook[hook][1])


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
            one.merge(other.saes[name])
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
        return self._drawn("block", self._totals(name, "block"), metrics_of, seed, resamples)[0]

    def by_position(self, name: str, seed: int = 0, resamples: int = RESAMPLES) -> list[Row]:
        """Metrics of the tokens at 0, 1, 2 to 3, 4 to 7, … real tokens from the start of their context, where there are any.

        `row["intervals"]` are those of its metrics, by the same draws for every row and SAE.
        """
        return self._table(name, "position", bucket_name, seed, resamples)

    def by_class(self, name: str, seed: int = 0, resamples: int = RESAMPLES) -> list[Row]:
        """The same of the tokens of each class; none if the evaluation knew no classes."""
        return self._table(name, "class", self.class_names.__getitem__, seed, resamples) if self.class_names else []

    def by_hook(self, name: str, seed: int = 0, resamples: int = RESAMPLES) -> list[Row]:
        """Reconstruction at each hook, of what writes at several; none of what writes at one."""
        found = []
        for hook, (target, sums) in self.saes[name].by_hook.items():
            totals = _union(self.targets[target], sums)
            found.append({"name": hook, **self._row(totals, reconstruction_of, seed, resamples)})
        return found

    def by_layer(self, name: str, seed: int = 0, resamples: int = RESAMPLES) -> list[Row]:
        """Sparsity of each of the SAEs that are measured together; none of one SAE."""
        one, found = self.saes[name], []
        n_tokens = _union(self.targets[one.target])
        for layer, own in one.layers.items() if len(one.layers) > 1 else ():
            counts = own.features.counts
            n_dense = int((counts > DENSE * own.features.n_tokens).sum())
            known = {"name": layer, "d_sae": len(counts), "n_not_seen": int((counts == 0).sum()), "n_dense": n_dense}
            totals = _union(own.sums)

            def both(weights: Tensor, totals: Totals = totals) -> dict[str, Tensor]:
                return totals(weights) | {"n": n_tokens(weights)["n"]}

            found.append(known | self._row(both, sparsity_of, seed, resamples))
        return found

    def n_blocks(self) -> int:
        """Blocks of documents with counted tokens: what intervals of totals draw from."""
        return int((self._n_tokens("block") > 0).sum())

    def _metrics(self, name: str) -> Metrics:
        total = self._totals(name, "block")(self._ones("block"))
        values: Any = {metric: _number(value[0, 0]) for metric, value in metrics_of(total).items()}
        return Metrics(
            n_tokens=int(total["n"]),
            n_predictions=int(total["n_predictions"]),
            feature_counts=self.saes[name].counts.clone(),
            **values,
        )

    def _table(self, name: str, grouping: str, label: Callable[[int], str], seed: int, resamples: int) -> list[Row]:
        totals = self._totals(name, grouping)
        total = totals(self._ones(grouping))
        found = metrics_of(total)
        intervals = self._drawn(grouping, totals, metrics_of, seed, resamples)
        return [
            {
                "name": label(row),
                "n_tokens": int(total["n"][row]),
                "n_predictions": int(total["n_predictions"][row]),
                **{metric: _number(values[row, 0]) for metric, values in found.items()},
                "intervals": intervals[row],
            }
            for row in (total["n"][:, 0] > 0).nonzero()[:, 0].tolist()
        ]

    def _row(self, totals: Totals, metrics: Any, seed: int, resamples: int) -> Row:
        """Metrics over all tokens, with their intervals."""
        values = metrics(totals(self._ones("block")))
        numbers = {metric: _number(value[0, 0]) for metric, value in values.items()}
        return {**numbers, "intervals": self._drawn("block", totals, metrics, seed, resamples)[0]}

    def _drawn(self, grouping: str, totals: Totals, metrics: Any, seed: int, resamples: int) -> dict[int, dict[str, Interval]]:
        """Intervals of each row that has a token."""
        n_tokens = self._n_tokens(grouping)
        values = metrics(totals(draws(n_tokens.sum(0), resamples, seed)))
        # Tokens of one block alone are drawn together or not at all, which says nothing.
        n_blocks = (n_tokens > 0).sum(1)
        return {
            row: {metric: interval(value[row]) if n_blocks[row] > 1 else None for metric, value in values.items()}
            for row in n_blocks.nonzero()[:, 0].tolist()
        }

    def _n_tokens(self, grouping: str) -> Tensor:
        """float64 `[n_rows with tokens, n_blocks]`: counted tokens."""
        sums = next(iter(self.targets.values()))
        return sums.of[grouping]["n"].reshape(-1, sums.groupings[grouping].n_blocks)

    def _ones(self, grouping: str) -> Tensor:
        """The weights of what was found itself."""
        return torch.ones(1, self.clean.groupings[grouping].n_blocks, dtype=torch.float64)

    def _totals(self, name: str, grouping: str) -> Totals:
        one = self.saes[name]
        own = _union(self.targets[one.target], self.clean, self.ablated[one.hooks], one.sums, grouping=grouping)
        if not one.by_hook:
            return own
        parts = [_union(self.targets[target], grouping=grouping) for target, _ in one.by_hook.values()]

        def totals(weights: Tensor) -> dict[str, Tensor]:
            shifts = [part(weights)["shift_squared"] for part in parts]
            return own(weights) | {"shift_squared": torch.stack(shifts).sum(0)}

        return totals


def _union(*all_sums: Sums, grouping: str = "block") -> Totals:
    """The totals of several sums of different names."""

    def totals(weights: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for sums in all_sums:
            found |= sums.scalars(grouping, weights)
        return found

    return totals


def _number(value: Tensor) -> float | None:
    number = float(value)
    return None if number != number else number
