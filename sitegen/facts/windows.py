"""Examples as the page shows them: the tokens around a peak and every activation among them."""

import numpy as np
from numpy.typing import NDArray

from sitegen.facts.activations import FeatureRange
from sitegen.facts.contexts import Corpus, find_peaks
from sitegen.facts.examples import Choice, Shown, choose_in_band, choose_top, sampling_order
from sitegen.facts.histogram import bin_numbers
from sitegen.facts.options import FactOptions
from sitegen.facts.rounding import significant, significant_one
from sitegen.records import Example, ExampleGroup


def example_groups(activations: FeatureRange, corpus: Corpus, options: FactOptions) -> list[list[ExampleGroup] | None]:
    """Return, for each feature, its top group and its bands from the highest down; None where it was never active."""
    choices = _choose(activations, corpus, options)
    rows = [row for row, groups in enumerate(choices) for group in groups for _ in group.positions]
    positions = [position for groups in choices for group in groups for position in group.positions]
    duplicates = [n for groups in choices for group in groups for n in group.duplicates]
    examples = iter(_cut(activations, corpus, options, np.array(rows, np.int64), np.array(positions, np.int64), duplicates))
    return [
        [
            ExampleGroup(group.kind, [next(examples) for _ in group.positions], group.low, group.high, group.share, group.n)
            for group in groups
        ]
        or None
        for groups in choices
    ]


def _choose(activations: FeatureRange, corpus: Corpus, options: FactOptions) -> list[list[Choice]]:
    peaks = find_peaks(activations, corpus.context_length)
    n_bands = options.intervals if options.per_interval else 0
    bands = _bands(activations, activations.magnitudes, activations.rows, n_bands)
    n_in_band = np.bincount(activations.rows * max(n_bands, 1) + bands, minlength=len(activations) * max(n_bands, 1))
    peak_rows = np.repeat(np.arange(len(activations)), np.diff(peaks.feature_ptr))
    peak_bands = _bands(activations, peaks.magnitudes, peak_rows, n_bands)
    choices: list[list[Choice]] = []
    for row in range(len(activations)):
        entries = slice(int(peaks.feature_ptr[row]), int(peaks.feature_ptr[row + 1]))
        if entries.start == entries.stop:
            choices.append([])
            continue
        shown = Shown(corpus, options)
        groups = [choose_top(peaks, entries, shown, options.examples)] if options.examples else []
        order = sampling_order(peaks.positions[entries], activations.first + row)
        for group, band in _empty_bands(activations, row, n_bands, n_in_band):
            members = np.flatnonzero(peak_bands[entries] == band)
            choose_in_band(group, peaks.positions[entries][members], order[members], shown, options.per_interval)
            groups.append(group)
        choices.append(groups)
    return choices


def _bands(
    activations: FeatureRange, magnitudes: NDArray[np.float32], rows: NDArray[np.int64], n_bands: int
) -> NDArray[np.int64]:
    if n_bands == 0:
        return np.zeros(len(rows), np.int64)
    return bin_numbers(magnitudes, activations.low[rows], activations.high[rows], n_bands)


def _empty_bands(activations: FeatureRange, row: int, n_bands: int, n_in_band: NDArray[np.int64]) -> list[tuple[Choice, int]]:
    """Return the bands of a feature, highest first, without examples; one band where all its values are equal."""
    low, high, n_active = activations.low[row], activations.high[row], int(activations.n_active[row])
    if n_bands and low == high:
        value = significant_one(low)
        return [(Choice("interval", low=value, high=value, share=1.0, n=n_active), n_bands - 1)]
    edges = significant(low + np.arange(n_bands + 1) * (high - low) / max(n_bands, 1)).tolist()
    counts = n_in_band[row * n_bands : (row + 1) * n_bands]
    shares = significant(counts / n_active).tolist()
    return [
        (Choice("interval", low=edges[band], high=edges[band + 1], share=shares[band], n=int(counts[band])), band)
        for band in reversed(range(n_bands))
    ]


def _cut(
    activations: FeatureRange,
    corpus: Corpus,
    options: FactOptions,
    rows: NDArray[np.int64],
    positions: NDArray[np.int64],
    duplicates: list[int],
) -> list[Example]:
    """Return the example around each peak: `rows` is its feature within the range."""
    contexts, offsets = np.divmod(positions, corpus.context_length)
    firsts = np.maximum(offsets - options.before, 0)
    lengths = np.minimum(offsets - options.before + options.window, corpus.n_real[contexts]) - firsts
    begins = contexts * corpus.context_length + firsts
    columns = np.minimum(firsts[:, None] + np.arange(options.window), corpus.context_length - 1)
    tokens = corpus.tokens[contexts[:, None], columns].tolist()
    acts = _acts_within(activations, corpus, rows, begins, lengths)
    starts = corpus.dataset.document_offset(begins).tolist()
    documents = corpus.document[contexts].tolist()
    peaks = (offsets - firsts).tolist()
    return [
        Example(documents[i], starts[i], peaks[i], tokens[i][:length], acts[i], duplicates[i])
        for i, length in enumerate(lengths.tolist())
    ]


def _acts_within(
    activations: FeatureRange,
    corpus: Corpus,
    rows: NDArray[np.int64],
    begins: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> list[list[tuple[int, float]]]:
    """Return `(offset, activation)` of every activation of feature `rows[i]` at the positions `begins[i] + [0, lengths[i])`."""
    # Sorted by feature, then position: one search finds the window within the feature.
    n_positions = corpus.flat_tokens.size
    keys = activations.rows * n_positions + activations.positions
    lows = np.searchsorted(keys, rows * n_positions + begins)
    highs = np.searchsorted(keys, rows * n_positions + begins + lengths)
    counts = highs - lows
    ends = np.cumsum(counts)
    entries = np.arange(counts.sum()) + np.repeat(lows - (ends - counts), counts)
    offsets = (activations.positions[entries] - np.repeat(begins, counts)).tolist()
    values = significant(activations.values[entries]).tolist()
    pairs = list(zip(offsets, values, strict=True))
    return [pairs[end - count : end] for end, count in zip(ends.tolist(), counts.tolist(), strict=True)]
