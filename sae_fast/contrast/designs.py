"""How texts may be exchanged under the null hypothesis, and drawn again for a confidence interval.

Every statistic here is linear in the pooled values of the units: `weights @ X`, with `X [units, features]`. In the two-sample
design the units are the texts of both sides and the weights ±1/n of their side; in the paired design the units are the
differences within pairs. A permutation gives other weights.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Design(Protocol):
    """What `compare` needs to know of a design."""

    @property
    def n(self) -> int:
        """Number of units."""

    @property
    def scale(self) -> float:
        """`c` such that `c · difference² / spread` is the squared correlation of a feature with the sides."""

    def weights(self) -> Floats:
        """`[n]`: what turns the units' values into the difference of means."""

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """`[count, n]`: weights under random exchanges that the null hypothesis allows."""

    def spread(self, sums: Floats, squares: Floats) -> Floats:
        """What no exchange changes: Σx² about what the null hypothesis fixes, from Σx and Σx² of each feature."""


@dataclass(frozen=True)
class TwoSamples:
    """Texts of one side against texts of the other; under the null hypothesis their labels may be permuted."""

    n_a: int
    n_b: int

    @property
    def n(self) -> int:
        """Texts of both sides, those of `a` first."""
        return self.n_a + self.n_b

    @property
    def scale(self) -> float:
        """See `Design`."""
        return self.n_a * self.n_b / self.n

    def weights(self) -> Floats:
        """See `Design`."""
        return np.r_[np.full(self.n_a, 1 / self.n_a), np.full(self.n_b, -1 / self.n_b)]

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """See `Design`; each row is a permutation of the labels."""
        is_a = np.zeros((count, self.n), dtype=np.int8)
        is_a[:, : self.n_a] = 1
        is_a = rng.permuted(is_a, axis=1)
        return np.where(is_a, 1 / self.n_a, -1 / self.n_b)

    def spread(self, sums: Floats, squares: Floats) -> Floats:
        """See `Design`: the sum of squares about the mean of all texts."""
        return np.maximum(squares - sums**2 / self.n, 0.0)


@dataclass(frozen=True)
class Pairs:
    """Differences within pairs; under the null hypothesis the sign of each may be flipped."""

    n: int

    @property
    def scale(self) -> float:
        """See `Design`."""
        return float(self.n)

    def weights(self) -> Floats:
        """See `Design`."""
        return np.full(self.n, 1 / self.n)

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """See `Design`; each row is a choice of signs."""
        return rng.choice(np.array([1.0, -1.0]), size=(count, self.n)) / self.n

    def spread(self, sums: Floats, squares: Floats) -> Floats:
        """See `Design`: the sum of squares about zero."""
        return squares


@dataclass(frozen=True)
class Columns:
    """Values of the units by feature (CSC), of tested features only."""

    pointer: NDArray[np.int64]
    """`[m + 1]`."""
    units: NDArray[np.int64]
    """`[nnz]`."""
    values: Floats
    """`[nnz]`."""
    n: int
    """Number of units."""

    @property
    def m(self) -> int:
        """Number of features."""
        return len(self.pointer) - 1

    def feature(self) -> NDArray[np.int64]:
        """The feature of each entry, `[nnz]`."""
        return np.repeat(np.arange(self.m), np.diff(self.pointer))

    def sums(self, power: int = 1) -> Floats:
        """Σ value**power of each feature, `[m]`."""
        return np.bincount(self.feature(), self.values**power, minlength=self.m).astype(np.float64)

    def dense(self, features: NDArray[np.int64]) -> Floats:
        """The columns of some features, `[n, len(features)]`."""
        lengths = self.pointer[features + 1] - self.pointer[features]
        column = np.repeat(np.arange(len(features)), lengths)
        entry = np.arange(len(column)) + np.repeat(self.pointer[features] - (np.cumsum(lengths) - lengths), lengths)
        block = np.zeros((self.n, len(features)))
        block[self.units[entry], column] = self.values[entry]
        return block
