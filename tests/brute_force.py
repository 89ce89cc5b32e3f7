"""Every fact of a feature, computed again from dense activations, the slow and obvious way.

`brute_force_record` follows the definitions of `docs/facts.md` in plain loops and shares no code with `sitegen.facts`;
`assert_record` compares a record with it. `write_index` turns dense activations into an activation index on disk.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sae_fast.corpus.tokens import COUNTED, PADDING, TokenDataset
from sitegen.activation_index import ActivationIndex, ActivationIndexWriter
from sitegen.facts import FactOptions
from sitegen.records import Example, FeatureRecord

ROUNDED = 5.001e-5
"""Relative error of five significant digits."""


@dataclass(frozen=True)
class Dense:
    """Dense activations over all positions, 0 where a token is not counted."""

    dataset: TokenDataset
    acts: np.ndarray
    """float32 `[n_positions, d_sae]`"""
    W_dec: np.ndarray
    W_U: np.ndarray

    @property
    def counted(self) -> np.ndarray:
        return np.asarray(self.dataset.kind).reshape(-1) == COUNTED


def write_index(folder: Path, acts: np.ndarray, dataset: TokenDataset, contexts_per_part: int) -> ActivationIndex:
    """Write the non-zero values of `acts [n_positions, d_sae]` at counted positions as an activation index."""
    length = dataset.context_length
    writer = ActivationIndexWriter(folder, acts.shape[1], length, dataset.n_positions, "dense")
    kind = np.asarray(dataset.kind).reshape(-1)
    for number, first in enumerate(range(0, dataset.n_positions, contexts_per_part * length)):
        block = acts[first : first + contexts_per_part * length]
        counted = kind[first : first + len(block)] == COUNTED
        features, positions = np.nonzero((block * counted[:, None]).T)
        pointer = np.searchsorted(features, np.arange(acts.shape[1] + 1))
        values = block[positions, features].astype(np.float32)
        writer.write_part(number, first, len(block), int(counted.sum()), pointer, positions.astype(np.int32), values)
    return writer.finish()


def brute_force_record(feature: int, dense: Dense, options: FactOptions) -> dict[str, Any]:
    """Return the expected fields of a feature's record: numbers unrounded, lists of pairs complete."""
    column = dense.acts[:, feature].astype(np.float64)
    active = [position for position in range(len(column)) if dense.counted[position] and column[position] != 0]
    magnitudes = np.abs(column[active])
    n_counted = int(dense.counted.sum())
    record: dict[str, Any] = {
        "id": feature,
        "density": len(active) / n_counted,
        "n_active": len(active),
        "logits": dense.W_dec[feature].astype(np.float64) @ dense.W_U.astype(np.float64),
        "cosines": _cosines(dense.W_dec, feature),
        "phi": _phi(dense, feature),
        "together": [(active_mask(dense, feature) & active_mask(dense, other)).sum() for other in range(dense.acts.shape[1])],
    }
    if active:
        record |= {
            "max_act": magnitudes.max(),
            "mean_act": magnitudes.sum() / len(active),
            "histogram": np.histogram(magnitudes, bins=options.bins, range=(magnitudes.min(), magnitudes.max()))[0].tolist(),
            "tokens": _token_mass(dense, active, magnitudes),
            "top": _top_examples(dense, column, active, options),
            "peaks": _peaks(dense, column, active),
            "magnitudes": magnitudes,
        }
    return record


def assert_record(record: FeatureRecord, dense: Dense, options: FactOptions) -> None:
    """Assert that every number of a record equals its recomputation, up to the stated rounding."""
    expected = brute_force_record(record.id, dense, options)
    _close(record.density, expected["density"])
    assert record.n_active == expected["n_active"]
    _assert_weights(record, dense, expected, options)
    if record.n_active == 0:
        assert (record.histogram, record.log_histogram, record.groups, record.top_tokens) == (None, None, None, None)
        assert (record.max_act, record.mean_act) == (0.0, 0.0)
        assert record.dead is not None
        assert record.dead.n_tokens == int(dense.counted.sum())
        return
    assert record.dead is None
    _close(record.max_act, expected["max_act"])
    _close(record.mean_act, expected["mean_act"])
    _assert_histograms(record, expected)
    _assert_tokens(record, expected, options)
    _assert_coactive(record, expected, options)
    _assert_groups(record, dense, expected, options)


def active_mask(dense: Dense, feature: int) -> np.ndarray:
    """Return `[n_positions]`: counted and active."""
    return dense.counted & (dense.acts[:, feature] != 0)


def example_at(dense: Dense, column: np.ndarray, position: int, options: FactOptions) -> dict[str, Any]:
    """Return the window around a position, token by token."""
    length = dense.dataset.context_length
    context, offset = position // length, position % length
    tokens: list[int] = []
    acts: list[tuple[int, float]] = []
    first = None
    for place in range(offset - options.before, offset - options.before + options.window):
        if not 0 <= place < length or dense.dataset.kind[context, place] == PADDING:
            continue
        first = place if first is None else first
        if column[context * length + place] != 0 and dense.dataset.kind[context, place] == COUNTED:
            acts.append((len(tokens), column[context * length + place]))
        tokens.append(int(dense.dataset.tokens[context, place]))
    assert first is not None
    return {
        "document": int(dense.dataset.document[context]),
        "start": int(dense.dataset.start[context]) + first - dense.dataset.n_prefix,
        "peak": offset - first,
        "tokens": tokens,
        "acts": acts,
        "ending": tuple(dense.dataset.tokens[context, offset - 15 : offset + 1].tolist()) if offset >= 15 else None,
    }


def _peaks(dense: Dense, column: np.ndarray, active: list[int]) -> list[int]:
    """Return the position of the largest |activation| of each context, best first."""
    best: dict[int, int] = {}
    for position in active:
        context = position // dense.dataset.context_length
        if context not in best or abs(column[position]) > abs(column[best[context]]):
            best[context] = position
    documents = dense.dataset.document
    return sorted(best.values(), key=lambda p: (-abs(column[p]), documents[p // dense.dataset.context_length], p))


def _top_examples(dense: Dense, column: np.ndarray, active: list[int], options: FactOptions) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    for position in _peaks(dense, column, active):
        if len(shown) == options.examples:
            break
        example = example_at(dense, column, position, options) | {"duplicates": 0}
        for earlier in shown:
            same_ending = example["ending"] is not None and example["ending"] == earlier["ending"]
            if same_ending or example["tokens"] == earlier["tokens"]:
                earlier["duplicates"] += 1
                break
        else:
            shown.append(example)
    return shown


def _token_mass(dense: Dense, active: list[int], magnitudes: np.ndarray) -> list[tuple[int, int, float]]:
    mass: dict[int, list[float]] = {}
    flat = np.asarray(dense.dataset.tokens).reshape(-1)
    for position, magnitude in zip(active, magnitudes, strict=True):
        mass.setdefault(int(flat[position]), []).append(float(magnitude))
    rows = [(token, len(values), sum(values) / magnitudes.sum()) for token, values in mass.items()]
    return sorted(rows, key=lambda row: (-row[2], row[0]))


def _phi(dense: Dense, feature: int) -> np.ndarray:
    firing = (dense.acts[dense.counted] != 0).astype(np.float64)
    centred = firing - firing.mean(axis=0)
    spread = np.sqrt((centred**2).sum(axis=0))
    scale = spread * spread[feature]
    return np.divide(centred.T @ centred[:, feature], scale, out=np.zeros_like(scale), where=scale > 0)


def _cosines(W_dec: np.ndarray, feature: int) -> np.ndarray:
    rows = W_dec.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    scale = norms * norms[feature]
    return np.divide(rows @ rows[feature], scale, out=np.full(len(rows), -np.inf), where=scale > 0)


def _close(value: float | None, expected: float, slack: float = 0.0) -> None:
    assert value is not None
    assert abs(value - expected) <= ROUNDED * abs(expected) + slack, (value, expected)


def _assert_ranked(pairs: list[tuple[int, float]], values: np.ndarray, k: int, slack: float) -> None:
    """Assert that `pairs` are the `k` largest finite entries of `values`, and that each entry has its own value."""
    largest = np.sort(values[np.isfinite(values)])[::-1][:k]
    assert len(pairs) == len(largest)
    assert len({index for index, _ in pairs}) == len(pairs)
    for (index, value), expected in zip(pairs, largest, strict=True):
        _close(value, expected, slack)
        _close(value, values[index], slack)


def _assert_weights(record: FeatureRecord, dense: Dense, expected: dict[str, Any], options: FactOptions) -> None:
    effects = expected["logits"]
    # fp32 products: an error of the order of eps times the norms.
    slack = 1e-6 * float(np.linalg.norm(dense.W_dec[record.id]) * np.linalg.norm(dense.W_U, axis=0).max()) + 1e-12
    assert record.logits is not None
    assert record.logits.histogram is not None
    assert record.neighbours is not None
    _assert_ranked(record.logits.top, effects, options.logits, slack)
    _assert_ranked([(token, -value) for token, value in record.logits.bottom], -effects, options.logits, slack)
    _close(record.logits.histogram.low, effects.min(), slack)
    _close(record.logits.histogram.high, effects.max(), slack)
    assert sum(record.logits.histogram.counts) == len(effects)
    counts = np.histogram(effects, bins=options.bins)[0]
    # fp32 and float64 may put an effect that lies on an edge on either side of it.
    assert effects.min() == effects.max() or np.abs(np.array(record.logits.histogram.counts) - counts).sum() <= 4
    cosines = expected["cosines"].copy()
    cosines[record.id] = -np.inf
    _assert_ranked(record.neighbours, cosines, options.neighbours, 1e-6)


def _assert_histograms(record: FeatureRecord, expected: dict[str, Any]) -> None:
    magnitudes = expected["magnitudes"]
    assert record.histogram is not None
    assert record.log_histogram is not None
    _close(record.histogram.low, magnitudes.min())
    _close(record.histogram.high, magnitudes.max())
    if magnitudes.min() < magnitudes.max():
        assert record.histogram.counts == expected["histogram"]
    else:
        assert record.histogram.counts == [0] * (len(expected["histogram"]) - 1) + [len(magnitudes)]
    logs = record.log_histogram
    assert len(logs.counts) == 40
    for number, count in enumerate(logs.counts):
        low = 10.0 ** (logs.low_decade + number / logs.per_decade)
        high = 10.0 ** (logs.low_decade + (number + 1) / logs.per_decade)
        assert count == int(((magnitudes >= low) & (magnitudes < high)).sum())


def _assert_tokens(record: FeatureRecord, expected: dict[str, Any], options: FactOptions) -> None:
    assert record.top_tokens is not None
    wanted = expected["tokens"][: options.top_tokens]
    assert len(record.top_tokens) == len(wanted)
    by_token = {token: (n, share) for token, n, share in expected["tokens"]}
    for (token, n, share), (_, _, ranked_share) in zip(record.top_tokens, wanted, strict=True):
        assert n == by_token[token][0]
        _close(share, by_token[token][1])
        _close(share, ranked_share)


def _assert_coactive(record: FeatureRecord, expected: dict[str, Any], options: FactOptions) -> None:
    phi = expected["phi"].copy()
    phi[[other for other, n in enumerate(expected["together"]) if n < options.min_together]] = -np.inf
    phi[record.id] = -np.inf
    phi[phi <= 1e-12] = -np.inf
    assert record.coactive is not None
    _assert_ranked([(other, value) for other, value, _ in record.coactive], phi, options.coactive, 1e-9)
    assert [n for _, _, n in record.coactive] == [expected["together"][other] for other, _, _ in record.coactive]


def _assert_groups(record: FeatureRecord, dense: Dense, expected: dict[str, Any], options: FactOptions) -> None:
    assert record.groups is not None
    top, *bands = record.groups
    assert top.kind == "top"
    assert len(top.examples) == len(expected["top"])
    for example, wanted in zip(top.examples, expected["top"], strict=True):
        _assert_example(example, wanted)
        assert example.duplicates == wanted["duplicates"]
    _assert_bands(record, bands, dense, expected, options)


def _assert_bands(
    record: FeatureRecord, bands: list[Any], dense: Dense, expected: dict[str, Any], options: FactOptions
) -> None:
    magnitudes, column = expected["magnitudes"], dense.acts[:, record.id].astype(np.float64)
    low, high = magnitudes.min(), magnitudes.max()
    n_bands = 1 if low == high else options.intervals
    assert len(bands) == n_bands
    assert sum(band.n for band in bands) == len(magnitudes)
    by_tokens = {}
    for position in expected["peaks"]:
        example = example_at(dense, column, position, options)
        by_tokens[(example["document"], example["start"], example["peak"])] = (example, abs(column[position]))
    for number, band in zip(reversed(range(n_bands)), bands, strict=True):
        begin, end = low + number * (high - low) / n_bands, low + (number + 1) * (high - low) / n_bands
        inside = (magnitudes >= begin) & ((magnitudes < end) | (number == n_bands - 1))
        assert (band.kind, band.n) == ("interval", int(inside.sum()))
        _close(band.low, begin)
        _close(band.high, end)
        _close(band.share, inside.mean())
        assert len(band.examples) <= options.per_interval
        places = [(example.document, example.start, example.peak) for example in band.examples]
        assert len(set(places)) == len(places)
        peaks_inside = [m for _, m in by_tokens.values() if begin <= m and (m < end or number == n_bands - 1)]
        assert bool(places) == bool(peaks_inside)
        for example, place in zip(band.examples, places, strict=True):
            wanted, magnitude = by_tokens[place]
            assert begin <= magnitude <= end
            _assert_example(example, wanted)


def _assert_example(example: Example, wanted: dict[str, Any]) -> None:
    assert (example.document, example.start, example.peak) == (wanted["document"], wanted["start"], wanted["peak"])
    assert example.tokens == wanted["tokens"]
    assert [offset for offset, _ in example.acts] == [offset for offset, _ in wanted["acts"]]
    for (_, value), (_, exact) in zip(example.acts, wanted["acts"], strict=True):
        _close(value, exact)
