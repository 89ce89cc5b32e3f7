"""Histograms of a feature's activations, and of any matrix by row."""

import numpy as np
from numpy.typing import NDArray

from sitegen.facts.activations import FeatureRange
from sitegen.facts.rounding import significant
from sitegen.records import Histogram, LogHistogram

LOG_BINS = 40
DECADES = (1, 2, 4, 5, 8, 10, 20, 40)
"""Decades that the log histogram may span: the divisors of `LOG_BINS`, so that each decade has whole bins."""


def bin_numbers(
    values: NDArray[np.floating], low: NDArray[np.float64], high: NDArray[np.float64], bins: int
) -> NDArray[np.int64]:
    """Return `min(floor(bins · (value - low) / (high - low)), bins - 1)` in float64; `bins - 1` where low equals high.

    Bins are left-closed but for the last, which holds `high`. `low` and `high` are broadcast against `values`.
    """
    width = high - low
    flat = width <= 0
    numbers = np.floor((values - low) * bins / np.where(flat, 1.0, width)).astype(np.int64)
    return np.where(flat, bins - 1, np.clip(numbers, 0, bins - 1))


def activation_histograms(activations: FeatureRange, bins: int) -> list[Histogram | None]:
    """Return the histogram of |value| of each feature, from its smallest to its largest; None where it was never active."""
    rows = activations.rows
    numbers = bin_numbers(activations.magnitudes, activations.low[rows], activations.high[rows], bins)
    counts = np.bincount(rows * bins + numbers, minlength=len(activations) * bins).reshape(-1, bins)
    low, high = significant(activations.low), significant(activations.high)
    return [
        Histogram(float(low[row]), float(high[row]), counts[row].tolist()) if activations.n_active[row] else None
        for row in range(len(activations))
    ]


def log_histograms(activations: FeatureRange) -> list[LogHistogram | None]:
    """Return the histogram of log10 |value| of each feature: 40 bins over the fewest whole decades that hold all of them.

    Where even 40 decades are too few, the highest 40 are taken and the first bin holds what lies below.
    """
    active = activations.n_active > 0
    with np.errstate(divide="ignore"):
        lowest = np.floor(np.log10(np.where(active, activations.low, 1.0))).astype(np.int64)
        highest = np.floor(np.log10(np.where(active, activations.high, 1.0))).astype(np.int64)
    needed = np.searchsorted(DECADES, highest - lowest + 1).clip(max=len(DECADES) - 1)
    decades = np.array(DECADES)[needed]
    lowest = np.maximum(lowest, highest + 1 - decades)
    per_decade = LOG_BINS // decades
    rows = activations.rows
    exponents = np.log10(activations.magnitudes, dtype=np.float64)
    numbers = np.floor((exponents - lowest[rows]) * per_decade[rows]).astype(np.int64).clip(0, LOG_BINS - 1)
    counts = np.bincount(rows * LOG_BINS + numbers, minlength=len(activations) * LOG_BINS).reshape(-1, LOG_BINS)
    return [
        LogHistogram(int(lowest[row]), int(per_decade[row]), counts[row].tolist()) if active[row] else None
        for row in range(len(activations))
    ]


def row_histograms(matrix: NDArray[np.float32], bins: int) -> list[Histogram]:
    """Return the histogram of each row of `[n, m]`, from its smallest entry to its largest."""
    n = len(matrix)
    low, high = matrix.min(axis=1).astype(np.float64), matrix.max(axis=1).astype(np.float64)
    numbers = bin_numbers(matrix, low[:, None], high[:, None], bins) + np.arange(n)[:, None] * bins
    counts = np.bincount(numbers.ravel(), minlength=n * bins).reshape(n, bins)
    low, high = significant(low), significant(high)
    return [Histogram(float(low[row]), float(high[row]), counts[row].tolist()) for row in range(n)]
