"""Activations of a range of features, read from the index with bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sitegen.activation_index import ActivationIndex

MAX_ENTRIES = 2**21
"""Activations read at once (a feature that has more is read alone)."""
MAX_FEATURES = 256
"""Features read at once."""


@dataclass(frozen=True)
class FeatureRange:
    """All activations of the features `first … last - 1`, sorted by feature, then position."""

    first: int
    last: int
    feature_ptr: NDArray[np.int64]
    """`[n_features + 1]`"""
    positions: NDArray[np.int64]
    """`[nnz]`"""
    values: NDArray[np.float32]
    """`[nnz]`, never 0"""

    def __len__(self) -> int:
        return self.last - self.first

    @cached_property
    def n_active(self) -> NDArray[np.int64]:
        """`[n_features]` activations of each feature."""
        return np.diff(self.feature_ptr)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """`[nnz]` index of the feature within the range."""
        return np.repeat(np.arange(len(self)), self.n_active)

    @cached_property
    def magnitudes(self) -> NDArray[np.float32]:
        """`[nnz]` absolute values: what ranks, bands and histograms go by."""
        return np.abs(self.values)

    @cached_property
    def low(self) -> NDArray[np.float64]:
        """`[n_features]` smallest |value|, 0 where a feature was never active."""
        return self._reduce(np.minimum)

    @cached_property
    def high(self) -> NDArray[np.float64]:
        """`[n_features]` largest |value|, 0 where a feature was never active."""
        return self._reduce(np.maximum)

    def entries(self, row: int) -> slice:
        """Return where feature `first + row` lies in `positions` and `values`."""
        return slice(int(self.feature_ptr[row]), int(self.feature_ptr[row + 1]))

    def _reduce(self, function: np.ufunc) -> NDArray[np.float64]:
        result = np.zeros(len(self))
        active = np.flatnonzero(self.n_active)
        if len(active):
            result[active] = function.reduceat(self.magnitudes, self.feature_ptr[active])
        return result


def read_ranges(
    index: ActivationIndex,
    features: NDArray[np.int64],
    max_entries: int = MAX_ENTRIES,
    max_features: int = MAX_FEATURES,
) -> Iterator[FeatureRange]:
    """Yield ranges that hold exactly `features` (ascending, distinct), each at most `max_entries` activations where it can."""
    n_active = index.n_active
    begin = 0
    while begin < len(features):
        first, entries, end = int(features[begin]), 0, begin
        while end < len(features) and features[end] == first + end - begin and end - begin < max_features:
            entries += int(n_active[features[end]])
            if entries > max_entries and end > begin:
                break
            end += 1
        last = first + end - begin
        part = index.features(first, last)
        yield FeatureRange(first, last, part.feature_ptr, part.positions, part.values)
        begin = end
