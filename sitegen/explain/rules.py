"""Which rule predicts a feature best: scores of every rule of one attribute, for a whole range of features at once."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from sitegen.explain.attributes import Attribute

MIN_MEMBER_RECALL = 0.02
"""Mass that each code of a rule with several codes has to add."""
MIN_MEMBER_PRECISION = 0.2
"""Share of a code's tokens on which the feature is active, for it to be in a rule with several codes."""
COST_PER_CODE = 0.01
"""What a rule's score loses for every code beyond the first."""


@dataclass(frozen=True)
class Evidence:
    """Activations on the documents that rules are chosen on, by feature."""

    feature_ptr: NDArray[np.int64]
    """`[n_features + 1]`"""
    positions: NDArray[np.int64]
    """`[nnz]`, into the label corpus"""
    magnitudes: NDArray[np.float32]
    """`[nnz]`"""

    def mass(self) -> NDArray[np.float64]:
        """Return `[n_features]` sums of |value|."""
        rows = np.repeat(np.arange(len(self.feature_ptr) - 1), np.diff(self.feature_ptr))
        return np.bincount(rows, weights=self.magnitudes, minlength=len(self.feature_ptr) - 1).astype(np.float64)


@dataclass(frozen=True)
class Rules:
    """The best rule of one attribute for each feature."""

    score: NDArray[np.float64]
    """`[n_features]` F1 of precision and recall, less what the rule costs; -1 where there is no rule"""
    codes: list[list[int]]


@dataclass(frozen=True)
class _Sums:
    """Per feature and code, sorted by feature: activation mass and active tokens."""

    rows: NDArray[np.int64]
    codes: NDArray[np.int64]
    mass: NDArray[np.float64]
    count: NDArray[np.float64]
    total: NDArray[np.int64]
    """Tokens of the code, active or not"""

    def select(self, chosen: NDArray) -> "_Sums":
        return _Sums(self.rows[chosen], self.codes[chosen], self.mass[chosen], self.count[chosen], self.total[chosen])


def best_rules(attribute: Attribute, totals: NDArray[np.int64], evidence: Evidence, mass: NDArray[np.float64]) -> Rules:
    """Return the best single code, or set of up to `max_codes` codes taken by descending mass, for each feature.

    precision = active tokens with one of the codes / tokens with one of the codes (`totals [n_codes]`);
    recall = activation mass on tokens with one of the codes / activation mass (`mass [n_features]`).
    """
    n_features = len(mass)
    sums = _sum_by_code(attribute, totals, evidence)
    score = np.full(n_features, -1.0)
    codes: list[list[int]] = [[] for _ in range(n_features)]
    single = _f1(sums.count / sums.total, sums.mass / mass[sums.rows])
    for row, entry in _best_of_row(sums.rows, single):
        score[row], codes[row] = single[entry], [int(sums.codes[entry])]
    if attribute.max_codes > 1:
        members, rank, several = _prefixes(sums, mass, attribute.max_codes)
        for row, entry in _best_of_row(members.rows, several):
            if several[entry] > score[row]:
                score[row] = several[entry]
                codes[row] = members.codes[entry - rank[entry] : entry + 1].tolist()
    return Rules(np.where(score > 0, score - attribute.cost, -1.0), codes)


def _sum_by_code(attribute: Attribute, totals: NDArray[np.int64], evidence: Evidence) -> _Sums:
    """Sum mass and count over equal (feature, code) in linear time: a product with the identity adds duplicates, unsorted."""
    n_features, n_codes = len(evidence.feature_ptr) - 1, attribute.n_codes
    codes = attribute.codes[evidence.positions]
    # Code n_codes collects the positions to which the attribute does not apply. One pass sums both: the real part is the mass,
    # the imaginary part the count.
    columns = np.where(codes < 0, n_codes, codes)
    both = evidence.magnitudes.astype(np.complex128) + 1j
    entries = scipy.sparse.csr_matrix((both, columns, evidence.feature_ptr), shape=(n_features, n_codes + 1))
    summed = entries @ scipy.sparse.identity(n_codes + 1, format="csr")
    rows = np.repeat(np.arange(n_features), np.diff(summed.indptr))
    named = summed.indices < n_codes
    found = summed.indices[named].astype(np.int64)
    return _Sums(rows[named], found, summed.data.real[named], summed.data.imag[named], totals[found])


def _prefixes(sums: _Sums, mass: NDArray[np.float64], max_codes: int) -> tuple[_Sums, NDArray[np.int64], NDArray[np.float64]]:
    """Return the codes of each feature that may join a set, by descending mass, their rank, and the score of the set so far."""
    share = sums.mass / mass[sums.rows]
    members = sums.select((share >= MIN_MEMBER_RECALL) & (sums.count >= MIN_MEMBER_PRECISION * sums.total))
    members = members.select(np.lexsort((members.codes, -members.mass, members.rows)))
    rank = _rank(members.rows)
    kept = rank < max_codes
    members, rank = members.select(kept), rank[kept]
    precision = _running(members.count, rank) / np.maximum(_running(members.total, rank), 1)
    recall = _running(members.mass, rank) / mass[members.rows]
    return members, rank, _f1(precision, recall) - COST_PER_CODE * rank


def _rank(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each entry within its row."""
    return np.arange(len(rows)) - np.searchsorted(rows, rows)


def _running(values: NDArray, rank: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the running sum within each row."""
    total = np.cumsum(values, dtype=np.float64)
    begins = np.arange(len(values)) - rank
    return total - (total[begins] - values[begins])


def _f1(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    both = precision + recall
    return np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)


def _best_of_row(rows: NDArray[np.int64], scores: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return `(row, entry)` of the highest score of each row; of equal ones, the first."""
    if len(rows) == 0:
        return []
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    highest = np.repeat(np.maximum.reduceat(scores, starts), np.diff(starts, append=len(rows)))
    at_highest = np.flatnonzero(scores == highest)
    first = at_highest[np.searchsorted(at_highest, starts)]
    return list(zip(rows[starts].tolist(), first.tolist(), strict=True))
