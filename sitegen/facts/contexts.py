"""The contexts in which a feature is active, each by its largest activation."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sae_fast.corpus.tokens import PADDING, TokenDataset
from sitegen.facts.activations import FeatureRange


@dataclass(frozen=True)
class Corpus:
    """The arrays of a TokenDataset that facts read, as plain arrays (slicing a memory map costs microseconds each time)."""

    dataset: TokenDataset

    @cached_property
    def tokens(self) -> NDArray[np.int32]:
        """`[n_contexts, context_length]`"""
        return np.asarray(self.dataset.tokens).view(np.ndarray)

    @cached_property
    def flat_tokens(self) -> NDArray[np.int32]:
        """`[n_positions]`"""
        return self.tokens.reshape(-1)

    @cached_property
    def document(self) -> NDArray[np.int32]:
        """`[n_contexts]`"""
        return np.asarray(self.dataset.document).view(np.ndarray)

    @cached_property
    def n_real(self) -> NDArray[np.int64]:
        """`[n_contexts]` tokens that are not padding; padding is on the right."""
        return np.count_nonzero(np.asarray(self.dataset.kind) != PADDING, axis=1)

    @property
    def context_length(self) -> int:
        return self.dataset.context_length


@dataclass(frozen=True)
class Peaks:
    """The largest |activation| of every feature in every context where it is active, sorted by feature, then context."""

    feature_ptr: NDArray[np.int64]
    """`[n_features + 1]`"""
    positions: NDArray[np.int64]
    """`[n]`; of equal activations in a context, the lowest position"""
    magnitudes: NDArray[np.float32]
    """`[n]`"""


def find_peaks(activations: FeatureRange, context_length: int) -> Peaks:
    """Return the peak of each (feature, context) pair."""
    if len(activations.positions) == 0:
        return Peaks(np.zeros(len(activations) + 1, np.int64), activations.positions, activations.magnitudes)
    contexts = activations.positions // context_length
    is_first = np.empty(len(contexts), dtype=bool)
    is_first[0] = True
    np.not_equal(contexts[1:], contexts[:-1], out=is_first[1:])
    is_first[activations.feature_ptr[:-1][activations.n_active > 0]] = True
    starts = np.flatnonzero(is_first)
    highest = np.maximum.reduceat(activations.magnitudes, starts)
    lengths = np.diff(starts, append=len(contexts))
    at_highest = np.flatnonzero(activations.magnitudes == np.repeat(highest, lengths))
    # The first entry that reaches its pair's maximum: the first one at or behind the pair's start.
    entries = at_highest[np.searchsorted(at_highest, starts)]
    return Peaks(np.searchsorted(starts, activations.feature_ptr), activations.positions[entries], highest)
