"""A random order of n things that is never written down: position to thing in constant memory and time.

A Feistel network permutes the numbers below the next power of four; those of n and above are sent through it again until they
fall below n ("cycle walking", Black and Rogaway 2002). So a run that begins at any position of any epoch needs the seed alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6
"""Four rounds make a network look random to anyone who may ask both ways (Luby and Rackoff 1988); two more cost little."""


@dataclass(frozen=True)
class Permutation:
    """A bijection of `range(n)`, fixed by `seed` and `epoch`; the same on every machine."""

    n: int
    seed: int = 0
    epoch: int = 0

    def __getitem__(self, positions: NDArray[np.int64] | slice) -> NDArray[np.int64]:
        """What stands at these positions, int64. Raises `IndexError` outside 0 to n - 1."""
        if isinstance(positions, slice):
            positions = np.arange(*positions.indices(self.n), dtype=np.int64)
        if positions.size and not (0 <= int(positions.min()) and int(positions.max()) < self.n):
            raise IndexError(f"positions of a permutation of {self.n} reach from {positions.min()} to {positions.max()}")
        values = self._network(positions.astype(np.uint64))
        outside = np.flatnonzero(values >= np.uint64(self.n))
        while outside.size:
            values[outside] = self._network(values[outside])
            outside = outside[values[outside] >= np.uint64(self.n)]
        return values.astype(np.int64)

    def __len__(self) -> int:
        return self.n

    def _network(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        half = np.uint64(max(1, (max(self.n - 1, 1).bit_length() + 1) // 2))
        mask = np.uint64((1 << int(half)) - 1)
        left, right = values >> half, values & mask
        for key in self._keys():
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return (left << half) | right

    def _keys(self) -> NDArray[np.uint64]:
        return np.random.SeedSequence([self.seed, self.epoch]).generate_state(ROUNDS, np.uint64).astype(np.uint64)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: every bit of the result depends on every bit of `x`."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
