"""Both libraries at equal explained variance, and whether ours is as good within the noise between seeds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, stdev
from typing import Any

Record = Mapping[str, Any]
Point = tuple[float, float, float]
"""(explained variance, mean max cosine, L0)"""


@dataclass(frozen=True)
class Summary:
    """Of one library, over seeds."""

    mean_max_cosine: tuple[float, ...]
    l0: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """What both find where they explain the same share of the variance."""

    explained_variance: float
    """The middle of what all curves reach."""
    ours: Summary
    theirs: Summary

    @property
    def recovers_as_much(self) -> bool:
        """Mean max cosine not lower than the peer's by more than the noise."""
        return not _is_less(self.ours.mean_max_cosine, self.theirs.mean_max_cosine)

    @property
    def is_as_sparse(self) -> bool:
        """L0 not higher than the peer's by more than the noise."""
        return not _is_less(self.theirs.l0, self.ours.l0)


def compare(records: Iterable[Record], case: str) -> Comparison:
    """Interpolates between the settings of each library and seed, linearly in explained variance."""
    curves: dict[str, dict[int, list[Point]]] = {"ours": {}, "theirs": {}}
    for record in records:
        if record["case"] == case:
            who = "ours" if record["who"] == "sae_fast" else "theirs"
            point = (record["explained_variance"], record["mean_max_cosine"], record["l0"])
            curves[who].setdefault(record["seed"], []).append(point)
    every = [sorted(points) for of_seed in curves.values() for points in of_seed.values()]
    low, high = max(points[0][0] for points in every), min(points[-1][0] for points in every)
    if low > high:
        raise ValueError(f"{case}: no explained variance that all reach; from {low:.3f} to {high:.3f}")
    level = (low + high) / 2
    return Comparison(level, *(_summary(of_seed.values(), level) for of_seed in (curves["ours"], curves["theirs"])))


def _summary(curves: Iterable[list[Point]], level: float) -> Summary:
    cosines, l0s = zip(*(_at(sorted(points), level) for points in curves), strict=True)
    return Summary(cosines, l0s)


def _at(points: list[Point], level: float) -> tuple[float, float]:
    """(mean max cosine, L0) where the curve through the points explains `level`."""
    below, above = next((a, b) for a, b in pairwise(points) if a[0] <= level <= b[0])
    share = (level - below[0]) / max(above[0] - below[0], 1e-12)
    cosine, l0 = (below[i] + share * (above[i] - below[i]) for i in (1, 2))
    return cosine, l0


def _is_less(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether the mean of `a` is below that of `b` by more than two standard errors of the difference."""
    error = (stdev(a) ** 2 / len(a) + stdev(b) ** 2 / len(b)) ** 0.5
    return mean(a) < mean(b) - 2 * error
