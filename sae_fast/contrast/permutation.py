"""Permutation p-values of many features at once, as many permutations as each feature needs.

A feature whose statistic is often reached by chance is decided after a few dozen permutations; one that is never reached needs
as many as there are features times the inverse of the error rate, or no correction for multiple tests could call it. So the
number is sequential (Besag and Clifford, *Sequential Monte Carlo p-values*, Biometrika 1991): a feature is done at its
`ENOUGH`-th permutation that reaches the observed statistic, with `p = ENOUGH / number drawn`; what reaches the limit has
`p = (1 + number reached) / (1 + limit)`. Both are valid: under the null hypothesis `P(p <= a) <= a`.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sae_fast.contrast.designs import Columns, Design, Floats
from sae_fast.progress import Advance

FIRST = 1_000
"""Permutations that every feature goes through: those of the max-T p-values."""
ENOUGH = 50
"""Permutations that reach the observed statistic, after which a feature is decided: its p-value then has a relative standard
error below 1 / sqrt(ENOUGH) = 14 %."""
BATCH = 1_000
BLOCK_BYTES = 64 * 2**20
"""Of a dense block of units × features or permutations × features."""
AT_LEAST = 10_000
"""Permutations of an undecided feature, unless fewer are asked for."""
WORK = 5e10
"""Multiply-adds after which an automatic number of permutations ends: so many are only reached where many features are still
undecided, and then the false-discovery rate needs no smaller p-values."""
ROUNDING = 1e-9
"""Of a feature's largest possible difference: two sums of the same values in another order count as equal."""


def p_values(
    columns: Columns, design: Design, rng: np.random.Generator, limit: int, adaptive: bool, advance: Advance
) -> tuple[Floats, Floats, int]:
    """Two-sided p-values `[m]` of each feature's difference of means, family-wise max-T p-values `[m]`, permutations drawn.

    The max-T p-value is the share of `FIRST` permutations in which any feature has a larger |t| than this feature's
    (Westfall and Young, single step).

    Args:
        columns: values of the tested features.
        design: what may be exchanged.
        rng: where permutations come from.
        limit: permutations after which the last features are decided; at least `FIRST` are drawn.
        adaptive: end after `WORK`, see there.
        advance: called with the number of features decided since its last call.
    """
    spread = design.spread(columns.sums(), columns.sums(2))
    observed = np.abs(_difference(columns, design.weights()[None])[0])
    bound = observed - ROUNDING * np.sqrt(spread / design.scale)
    inverse = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    p, reached = np.full(columns.m, np.nan), np.zeros(columns.m, dtype=np.int64)
    maxima: list[Floats] = []
    undecided, drawn, work = np.arange(columns.m), 0, 0
    limit = max(limit, FIRST)
    while undecided.size and drawn < limit:
        count = min(BATCH, limit - drawn)
        weights = design.draw(rng, count)
        largest = np.zeros(count)
        for features in _blocks(undecided, max(count, columns.n)):
            size = np.abs(weights @ columns.dense(features))
            if drawn < FIRST:
                np.maximum(largest, (size**2 * inverse[features]).max(1), out=largest)
            _count(size >= bound[features], features, reached, p, drawn)
        if drawn < FIRST:
            maxima.append(largest)
        drawn += count
        work += count * columns.n * undecided.size
        n_before, undecided = undecided.size, undecided[np.isnan(p[undecided])]
        advance(n_before - undecided.size)
        if adaptive and work > WORK and drawn >= AT_LEAST:
            break
    p[undecided] = (reached[undecided] + 1) / (drawn + 1)
    advance(undecided.size)
    correlation = observed**2 * inverse
    return p, _share_above(np.concatenate(maxima) if maxima else np.zeros(0), correlation * (1 - ROUNDING)), drawn


def benjamini_hochberg(p: Floats) -> Floats:
    """Adjusted p-values `[m]`: calling all features with `q <= a` keeps the expected share of false ones at or below `a`.

    Benjamini and Hochberg, *Controlling the false discovery rate*, 1995.
    """
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty_like(p)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q


def _count(exceeds: NDArray[np.bool_], features: NDArray[np.int64], reached: NDArray[np.int64], p: Floats, drawn: int) -> None:
    """Add up the exceedances `[count, features]`, and decide the features that now have enough."""
    total = reached[features] + exceeds.sum(0)
    enough = np.flatnonzero(total >= ENOUGH)
    running = reached[features[enough]] + exceeds[:, enough].cumsum(0, dtype=np.int32)
    p[features[enough]] = ENOUGH / (drawn + 1 + (running >= ENOUGH).argmax(0))
    reached[features] = total


def _difference(columns: Columns, weights: Floats) -> Floats:
    """`weights [count, n] @ X`, `[count, m]`, block by block."""
    parts = [weights @ columns.dense(features) for features in _blocks(np.arange(columns.m), columns.n)]
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(weights), 0))


def _blocks(features: NDArray[np.int64], height: int) -> Iterator[NDArray[np.int64]]:
    size = max(1, BLOCK_BYTES // (8 * max(height, 1)))
    for first in range(0, len(features), size):
        yield features[first : first + size]


def _share_above(maxima: Floats, observed: Floats) -> Floats:
    above = len(maxima) - np.searchsorted(np.sort(maxima), observed, side="left")
    return (1 + above) / (1 + len(maxima))
