"""Sizes of differences, and their bootstrap intervals."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sae_fast.contrast.designs import Columns, Floats, Pairs, TwoSamples
from sae_fast.contrast.permutation import BLOCK_BYTES
from sae_fast.progress import Advance

COVERAGE = 0.95

Sizes = Callable[[Floats], tuple[Floats, Floats]]
"""Takes values `[n, features]`; gives differences and standardised differences `[resamples, features]`."""


class Effects(NamedTuple):
    """Per tested feature, `[m]` each."""

    difference: Floats
    """Mean of `a` minus mean of `b`."""
    low: Floats
    """2.5 % point of the bootstrap distribution of the difference."""
    high: Floats
    """97.5 % point."""
    d: Floats
    """The difference in standard deviations; infinite where there is a difference and no spread."""
    d_low: Floats
    d_high: Floats


def two_sample_effects(
    columns: Columns, design: TwoSamples, rng: np.random.Generator, resamples: int, advance: Advance
) -> Effects:
    """Difference of means and Cohen's d with the pooled standard deviation; texts are drawn again within each side."""
    n_a, n_b = design.n_a, design.n_b
    counts_a = rng.multinomial(n_a, np.full(n_a, 1 / n_a), size=resamples).astype(float)
    counts_b = rng.multinomial(n_b, np.full(n_b, 1 / n_b), size=resamples).astype(float)

    def sizes(a: Floats, b: Floats) -> Sizes:
        return lambda X: _cohen(a @ X[:n_a], a @ X[:n_a] ** 2, n_a, b @ X[n_a:], b @ X[n_a:] ** 2, n_b)

    once = sizes(np.ones((1, n_a)), np.ones((1, n_b)))
    return _with_intervals(columns, resamples, advance, once, sizes(counts_a, counts_b))


def paired_effects(columns: Columns, design: Pairs, rng: np.random.Generator, resamples: int, advance: Advance) -> Effects:
    """Mean difference within pairs, and that in standard deviations of the differences (d_z); pairs are drawn again."""
    n = design.n
    counts = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)

    def sizes(weights: Floats) -> Sizes:
        def of(X: Floats) -> tuple[Floats, Floats]:
            mean, squares = weights @ X / n, weights @ X**2
            deviation = np.sqrt(np.maximum(squares - n * mean**2, 0) / max(n - 1, 1))
            return mean, _ratio(mean, deviation, np.sqrt(squares / n))

        return of

    return _with_intervals(columns, resamples, advance, sizes(np.ones((1, n))), sizes(counts))


def probability_of_superiority(columns: Columns, n_a: int) -> Floats:
    """`[m]`: share of pairs (a text of `a`, a text of `b`) with the larger value in `a`, ties counted half.

    That is the area under the ROC curve of the feature as a classifier (the Mann-Whitney statistic over n_a · n_b). Units below
    `n_a` are those of `a`. Zeros, which are not stored, are ties among themselves.
    """
    m, n_b = columns.m, columns.n - n_a
    feature, is_a = columns.feature(), columns.units < n_a
    zeros_a = n_a - np.bincount(feature[is_a], minlength=m)
    zeros_b = n_b - np.bincount(feature[~is_a], minlength=m)
    feature = np.r_[feature, np.arange(m)]
    values = np.r_[columns.values, np.zeros(m)]
    in_a, in_b = np.r_[is_a, zeros_a].astype(float), np.r_[~is_a, zeros_b].astype(float)
    order = np.lexsort((values, feature))
    feature, values = feature[order], values[order]
    new = np.r_[True, (np.diff(feature) != 0) | (np.diff(values) != 0)]
    first = np.flatnonzero(new)
    in_a, in_b = np.add.reduceat(in_a[order], first), np.add.reduceat(in_b[order], first)
    feature = feature[first]
    # Texts of b below each group of ties, within its feature: the running count less what earlier features brought.
    below = np.cumsum(in_b) - in_b - n_b * feature.astype(float)
    return np.bincount(feature, in_a * (below + in_b / 2), minlength=m) / (n_a * n_b)


def paired_superiority(columns: Columns) -> Floats:
    """`[m]`: share of pairs in which `a` has the larger value, ties counted half, from the stored differences a − b."""
    feature = columns.feature()
    return 0.5 + np.bincount(feature, np.sign(columns.values), minlength=columns.m) / (2 * columns.n)


def _cohen(sum_a: Floats, squares_a: Floats, n_a: int, sum_b: Floats, squares_b: Floats, n_b: int) -> tuple[Floats, Floats]:
    mean_a, mean_b = sum_a / n_a, sum_b / n_b
    within = np.maximum(squares_a - n_a * mean_a**2, 0) + np.maximum(squares_b - n_b * mean_b**2, 0)
    deviation = np.sqrt(within / max(n_a + n_b - 2, 1))
    return mean_a - mean_b, _ratio(mean_a - mean_b, deviation, np.sqrt((squares_a + squares_b) / (n_a + n_b)))


def _ratio(difference: Floats, deviation: Floats, size: Floats) -> Floats:
    """Difference over deviation; a deviation that is rounding error beside the values' `size` counts as none."""
    deviation = np.where(deviation <= 1e-7 * size, 0.0, deviation)
    difference = np.where(np.abs(difference) <= 1e-12 * size, 0.0, difference)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / deviation)


def _with_intervals(columns: Columns, resamples: int, advance: Advance, plain: Sizes, again: Sizes) -> Effects:
    """Effects of the sample itself (`plain(X)`) and percentile intervals of the resampled (`again(X)`), block by block."""
    tail = (1 - COVERAGE) / 2
    size = max(1, BLOCK_BYTES // (8 * max(columns.n, resamples, 1)))
    parts = []
    for first in range(0, columns.m, size):
        features = np.arange(first, min(first + size, columns.m))
        X = columns.dense(features)
        difference, d = plain(X)
        differences, ds = again(X)
        low, high = np.quantile(differences, (tail, 1 - tail), axis=0, method="inverted_cdf")
        d_low, d_high = np.quantile(ds, (tail, 1 - tail), axis=0, method="inverted_cdf")
        parts.append((difference[0], low, high, d[0], d_low, d_high))
        advance(len(features))
    return Effects(*(np.concatenate(column) for column in zip(*parts, strict=True)))
