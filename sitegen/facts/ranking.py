"""The largest entries of rows, with one rule for ties: the lower index first."""

import numpy as np
from numpy.typing import NDArray


def largest(matrix: NDArray[np.floating], k: int) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Return columns and values, both `[n, min(k, m)]`, of the `k` largest entries of each row of `[n, m]`, largest first."""
    n, m = matrix.shape
    k = min(k, m)
    if k == 0:
        return np.zeros((n, 0), dtype=np.int64), np.zeros((n, 0), dtype=matrix.dtype)
    kth = np.partition(matrix, m - k, axis=1)[:, m - k]
    rows, columns = np.nonzero(matrix >= kth[:, None])
    values = matrix[rows, columns]
    # Stable: within a row, equal values keep the order of their columns.
    order = np.lexsort((-values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, np.arange(n))[rows]
    kept = rank < k
    return columns[kept].reshape(n, k), values[kept].reshape(n, k)
