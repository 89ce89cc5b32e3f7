"""The tokens on which a feature is active."""

import numpy as np
from numpy.typing import NDArray

from sitegen.facts.activations import FeatureRange
from sitegen.facts.rounding import significant


def top_tokens(activations: FeatureRange, token_ids: NDArray[np.int32], k: int) -> list[list[tuple[int, int, float]] | None]:
    """Return, for each feature, `(token, active occurrences, share of the activation mass)` of its `k` tokens of largest mass.

    Mass is the sum of |value| (float64). Ties go to the lower token id. `token_ids` is the flat `[n_positions]` corpus.
    """
    tokens = token_ids[activations.positions]
    return [
        _top(tokens[activations.entries(row)], activations.magnitudes[activations.entries(row)], k) if n else None
        for row, n in enumerate(activations.n_active)
    ]


def _top(tokens: NDArray[np.int32], magnitudes: NDArray[np.float32], k: int) -> list[tuple[int, int, float]]:
    ids, codes = _compact(tokens)
    mass = np.bincount(codes, weights=magnitudes)
    count = np.bincount(codes)
    order = np.argsort(-mass, kind="stable")[:k]
    shares = significant(mass[order] / mass.sum())
    return list(zip(ids[order].tolist(), count[order].tolist(), shares.tolist(), strict=True))


def _compact(tokens: NDArray[np.int32]) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return ids and codes with `tokens == ids[codes]`, the ids ascending: by counting where ids are few, else by sorting."""
    highest = int(tokens.max())
    if highest < 8 * len(tokens):
        present = np.flatnonzero(np.bincount(tokens))
        code_of = np.empty(highest + 1, dtype=np.int32)
        code_of[present] = np.arange(len(present))
        return present, code_of[tokens]
    return np.unique(tokens, return_inverse=True)
