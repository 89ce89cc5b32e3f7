"""One-to-one pairs with the largest sum: the assignment problem."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def best_pairs(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns), int64 `[min(n, m)]` each, ascending by row: the pairs of `scores [n, m]` with the largest sum.

    Exact. SciPy does it where it is installed; else the shortest augmenting paths below, O(min(n, m)² max(n, m)), some ten
    seconds for a thousand rows.
    """
    cost = -scores.double().cpu().numpy()
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        rows, columns = assign(cost)
    else:
        rows, columns = linear_sum_assignment(cost)
    return torch.as_tensor(rows, dtype=torch.int64), torch.as_tensor(columns, dtype=torch.int64)


def assign(cost: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows, columns) of the smallest sum, ascending by row. Jonker and Volgenant 1987, without their initialisation."""
    if cost.shape[0] > cost.shape[1]:
        columns, rows = assign(cost.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    n, m = cost.shape
    row_of = np.full(m, -1, dtype=np.int64)
    u, v = np.zeros(n), np.zeros(m)
    for row in range(n):
        _augment(cost, row, row_of, u, v)
    taken = np.flatnonzero(row_of >= 0)
    order = np.argsort(row_of[taken])
    return row_of[taken][order], taken[order]


def _augment(
    cost: NDArray[np.float64], start: int, row_of: NDArray[np.int64], u: NDArray[np.float64], v: NDArray[np.float64]
) -> None:
    """Give row `start` a column along the shortest path over reduced costs; `row_of`, `u` and `v` are updated in place."""
    m = cost.shape[1]
    distance, before = np.full(m, np.inf), np.full(m, start, dtype=np.int64)
    done = np.zeros(m, dtype=bool)
    row, reached = start, 0.0
    while True:
        through = reached + cost[row] - u[row] - v
        better = ~done & (through < distance)
        distance[better], before[better] = through[better], row
        column = int(np.where(done, np.inf, distance).argmin())
        reached = float(distance[column])
        done[column] = True
        if row_of[column] < 0:
            break
        row = int(row_of[column])
    # Duals, so that reduced costs stay at least 0, and 0 on chosen pairs.
    seen = done.copy()
    seen[column] = False
    u[start] += reached
    u[row_of[seen]] += reached - distance[seen]
    v[seen] -= reached - distance[seen]
    while True:
        row_of[column] = before[column]
        if before[column] == start:
            return
        column = int(np.flatnonzero((row_of == before[column]) & (np.arange(m) != column))[0])
