"""Top examples and examples by band of activation: which contexts are shown.

An example is a context, shown around its largest activation. Text repeats in real corpora (licences, generated code), so
examples whose text was already shown are folded; peers show a third of their sequences twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sitegen.facts.contexts import Corpus, Peaks
from sitegen.facts.options import FactOptions

SAME_TOKENS = 16
"""Examples are near-duplicates where this many tokens, up to and including the peak, are equal."""
FIRST_LOOK = 64
"""Candidates sorted at first; the rest is sorted only where too many of these are duplicates."""


@dataclass
class Choice:
    """Peaks of one group of examples, in the order shown."""

    kind: str
    positions: list[int] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    low: float | None = None
    high: float | None = None
    share: float | None = None
    n: int | None = None


class Shown:
    """The texts shown so far for one feature."""

    def __init__(self, corpus: Corpus, options: FactOptions) -> None:
        self.corpus, self.options = corpus, options
        self._endings: dict[bytes, int] = {}
        self._windows: dict[bytes, int] = {}

    def _keys(self, position: int) -> tuple[bytes | None, bytes]:
        context, offset = divmod(position, self.corpus.context_length)
        row = self.corpus.tokens[context]
        first = max(offset - self.options.before, 0)
        last = min(offset - self.options.before + self.options.window, int(self.corpus.n_real[context]))
        ending = row[offset + 1 - SAME_TOKENS : offset + 1].tobytes() if offset + 1 >= SAME_TOKENS else None
        return ending, row[first:last].tobytes()

    def show(self, position: int, number: int) -> int | None:
        """Return the number of the example with the same text; where there is none, remember this one and return None."""
        ending, window = self._keys(position)
        same = [number for number in (self._endings.get(ending or b""), self._windows.get(window)) if number is not None]
        if same:
            return min(same)
        if ending is not None:
            self._endings[ending] = number
        self._windows[window] = number
        return None


def choose_top(peaks: Peaks, entries: slice, shown: Shown, k: int) -> Choice:
    """Go through one feature's contexts from the highest down until `k` different texts are found; count the repeated ones."""
    choice = Choice("top")
    for position in _ranked(peaks.magnitudes[entries], peaks.positions[entries], shown.corpus):
        if len(choice.positions) == k:
            break
        same = shown.show(position, len(choice.positions))
        if same is not None:
            choice.duplicates[same] += 1
            continue
        choice.positions.append(position)
        choice.duplicates.append(0)
    return choice


def choose_in_band(choice: Choice, positions: NDArray[np.int64], order: NDArray[np.uint64], shown: Shown, k: int) -> None:
    """Fill `choice` with `k` of a band's contexts in the order of a hash; texts already shown are passed over.

    A band all of whose contexts were already shown repeats them rather than stay empty.
    """
    for position in _ascending(positions, order):
        if len(choice.positions) == k:
            break
        if shown.show(position, -1) is None:
            choice.positions.append(position)
    if not choice.positions and len(positions):
        again = Shown(shown.corpus, shown.options)
        for position in _ascending(positions, order):
            if len(choice.positions) == k:
                break
            if again.show(position, -1) is None:
                choice.positions.append(position)
    choice.duplicates = [0] * len(choice.positions)


def sampling_order(positions: NDArray[np.int64], feature: int) -> NDArray[np.uint64]:
    """Return a fixed pseudo-random number for each position, different for every feature (the splitmix64 finaliser)."""
    mixed = positions.astype(np.uint64) + np.uint64((feature + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _ranked(magnitudes: NDArray[np.float32], positions: NDArray[np.int64], corpus: Corpus) -> Iterator[int]:
    """Yield positions by higher magnitude, then lower document, then lower position."""
    n, done = len(positions), 0
    if n > FIRST_LOOK:
        kth = np.partition(magnitudes, n - FIRST_LOOK)[n - FIRST_LOOK]
        highest = np.flatnonzero(magnitudes >= kth)
        yield from _by_rank(magnitudes[highest], positions[highest], corpus)
        done = len(highest)
    if done < n:
        yield from _by_rank(magnitudes, positions, corpus)[done:]


def _by_rank(magnitudes: NDArray[np.float32], positions: NDArray[np.int64], corpus: Corpus) -> list[int]:
    documents = corpus.document[positions // corpus.context_length]
    return positions[np.lexsort((positions, documents, -magnitudes))].tolist()


def _ascending(positions: NDArray[np.int64], order: NDArray[np.uint64]) -> Iterator[int]:
    """Yield positions by ascending `order`, whose values are distinct."""
    n, done = len(positions), 0
    if n > FIRST_LOOK:
        first = np.argpartition(order, FIRST_LOOK)[:FIRST_LOOK]
        yield from positions[first[np.argsort(order[first])]].tolist()
        done = FIRST_LOOK
    if done < n:
        yield from positions[np.argsort(order)][done:].tolist()
