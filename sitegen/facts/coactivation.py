"""Features that are active on the same tokens, exact over all pairs.

The tokens on which a feature is active, and every feature active on one of them: counting those is Σ over tokens of L0²
increments, and never forms a dense `[tokens, d_sae]`.
"""

from collections.abc import Iterator

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from sitegen.activation_index import ActivationIndex
from sitegen.facts.ranking import largest
from sitegen.facts.rounding import significant

MAX_ENTRIES = 2**24
"""Activations held at once, where a part of the index has fewer."""
BLOCK_ELEMENTS = 2**22
"""Phi coefficients held at once."""

Coactive = list[tuple[int, float, int]]


def most_coactive(
    index: ActivationIndex, features: NDArray[np.int64], k: int, min_together: int, pair_bytes: int
) -> dict[int, Coactive]:
    """Return, for each of `features`, `(other feature, phi, tokens on which both are active)` of the `k` largest phi.

    phi = (N n₁₁ - n₁ n₂) / √(n₁ (N - n₁) n₂ (N - n₂)), the Pearson correlation of firing, N the counted tokens. Listed are
    features with phi > 0 and n₁₁ ≥ `min_together`; ties go to the lower feature. At most `pair_bytes` of counts are held
    at once.
    """
    found: dict[int, Coactive] = {}
    at_once = max(1, pair_bytes // (4 * index.d_sae))
    for begin in range(0, len(features), at_once):
        chosen = features[begin : begin + at_once]
        together = count_together(index, chosen)
        step = max(1, BLOCK_ELEMENTS // index.d_sae)
        for first in range(0, len(chosen), step):
            rows = slice(first, first + step)
            found.update(_rank(together[rows], chosen[rows], index, k, min_together))
    return found


def count_together(index: ActivationIndex, features: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return `[len(features), d_sae]`: the tokens on which a feature of `features` and any feature are both active."""
    together = np.zeros((len(features), index.d_sae), dtype=np.int32)
    for tokens in _token_blocks(index):
        by_feature = tokens.tocsc()
        for row, feature in enumerate(features.tolist()):
            where = by_feature.indices[by_feature.indptr[feature] : by_feature.indptr[feature + 1]]
            if len(where):
                together[row] += np.bincount(tokens[where].indices, minlength=index.d_sae).astype(np.int32)
    return together


def _token_blocks(index: ActivationIndex) -> Iterator[scipy.sparse.csr_matrix]:
    """Yield the index by token, values replaced by ones of one byte, several parts at once where they are small."""
    block: list[scipy.sparse.csr_matrix] = []
    n_entries = 0
    for part in range(len(index.parts)):
        if block and n_entries + index.parts[part].nnz > MAX_ENTRIES:
            yield scipy.sparse.vstack(block, format="csr")
            block, n_entries = [], 0
        tokens = index.tokens(part)
        ones = np.ones(tokens.nnz, dtype=np.int8)
        block.append(scipy.sparse.csr_matrix((ones, tokens.indices, tokens.indptr), shape=tokens.shape))
        n_entries += tokens.nnz
    if block:
        yield scipy.sparse.vstack(block, format="csr")


def _rank(
    together: NDArray[np.int32], features: NDArray[np.int64], index: ActivationIndex, k: int, min_together: int
) -> dict[int, Coactive]:
    n = float(index.n_counted)
    n_active = index.n_active.astype(np.float64)
    spread = np.sqrt(n_active * (n - n_active))
    scale = spread[features, None] * spread
    listed = (together >= max(min_together, 1)) & (scale > 0)
    listed[np.arange(len(features)), features] = False
    covariance = n * together - n_active[features, None] * n_active
    phi = np.divide(covariance, scale, out=np.full(together.shape, -np.inf), where=listed)
    others, values = largest(phi, k)
    rounded = significant(np.where(np.isfinite(values), values, 0.0))
    both = np.take_along_axis(together, others, axis=1)
    found = {}
    for row, feature in enumerate(features.tolist()):
        n_listed = int(np.count_nonzero(values[row] > 0))
        columns = (others[row, :n_listed].tolist(), rounded[row, :n_listed].tolist(), both[row, :n_listed].tolist())
        found[feature] = list(zip(*columns, strict=True))
    return found
