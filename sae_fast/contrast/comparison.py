"""Two sets of pooled activations, feature by feature: sizes, intervals, p-values, false-discovery rate."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from math import ceil

import numpy as np
from numpy.typing import NDArray

from sae_fast.contrast import effects, permutation
from sae_fast.contrast.designs import Columns, Design, Floats, Pairs, TwoSamples
from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.progress import Advance, step
from sae_fast.sparse import SparseActs


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found, one entry per tested feature in every array; the most certain difference first.

    `a` and `b` are the first and the second set. Definitions and formulas: `docs/contrast.md`.
    """

    feature: NDArray[np.int64]
    """`[m]`, by ascending p, then descending |t|."""
    mean_a: Floats
    mean_b: Floats
    """Mean over the texts of the set of the pooled value, texts without the feature included."""
    n_a: NDArray[np.int64]
    n_b: NDArray[np.int64]
    """Texts of the set in which the feature is active."""
    difference: Floats
    """`mean_a - mean_b`."""
    low: Floats
    high: Floats
    """95 % bootstrap interval of the difference."""
    d: Floats
    """Cohen's d: difference over the pooled standard deviation (paired: over that of the differences). May be infinite."""
    d_low: Floats
    d_high: Floats
    """95 % bootstrap interval of d."""
    auc: Floats
    """Probability that a text of `a` has a larger value than one of `b` (paired: than its partner), ties counted half."""
    p: Floats
    """Two-sided permutation p-value."""
    q: Floats
    """p adjusted by Benjamini-Hochberg."""
    p_max: Floats
    """Family-wise permutation p-value (single-step max-T)."""
    n_texts: tuple[int, int]
    """Texts of `a` and of `b`."""
    n_never: int
    """Features that are active in no text: not tested, not corrected for."""
    n_rare: int
    """Features left out because they are active in fewer texts than was asked for."""
    permutations: int
    """Drawn for the features that took most."""
    paired: bool

    def __len__(self) -> int:
        return len(self.feature)

    def columns(self) -> dict[str, NDArray[np.int64] | Floats]:
        """The arrays by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}

    def n_found(self, alpha: float = 0.05) -> int:
        """Features with `q <= alpha`: at most a share `alpha` of them is expected to be false."""
        return int((self.q <= alpha).sum())


def compare(
    a: SparseActs,
    b: SparseActs,
    *,
    paired: bool = False,
    permutations: int | None = None,
    resamples: int = 1000,
    min_texts: int = 1,
    seed: int = 0,
    alpha: float = 0.05,
    progress: bool = False,
) -> Comparison:
    """Compare pooled activations `a [n_a, d_sae]` and `b [n_b, d_sae]`, one row per text (see `pool`).

    Args:
        a: pooled activations of the first set.
        b: of the second.
        paired: row `i` of `a` and of `b` belong together; signs of the differences are flipped instead of labels permuted.
        permutations: most for one feature; None: enough for one feature alone to pass Benjamini-Hochberg at `alpha`
            (m / alpha, at least 10,000), fewer where many features stay undecided.
        resamples: bootstrap samples of texts for the intervals.
        min_texts: test only features that are active in so many texts of both sets together.
        seed: of permutations and resamples; the same seed gives the same numbers.
        alpha: the false-discovery rate that `permutations=None` is chosen for.
        progress: show progress on standard error.

    Raises:
        ShapeError: `a` and `b` have other numbers of features, or are paired and have other numbers of texts.
        ArgumentError: fewer than two texts on a side, or a number that is not positive.
    """
    _check(a, b, paired, permutations, resamples, min_texts, alpha)
    n_a, n_b, d_sae = a.shape[0], b.shape[0], a.shape[1]
    active_a, active_b = _n_active(a), _n_active(b)
    in_texts = active_a + active_b
    tested = np.flatnonzero(in_texts >= min_texts)
    design: Design = Pairs(n_a) if paired else TwoSamples(n_a, n_b)
    columns = _columns([(a, 0, 1.0), (b, 0 if paired else n_a, -1.0 if paired else 1.0)], tested, design.n, d_sae)
    rng_permutation, rng_bootstrap = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    limit = permutations or max(permutation.AT_LEAST, ceil(len(tested) / alpha))
    with _steps(len(tested), progress) as (advance_p, advance_d):
        p, p_max, drawn = permutation.p_values(columns, design, rng_permutation, limit, permutations is None, advance_p)
        if isinstance(design, Pairs):
            found = effects.paired_effects(columns, design, rng_bootstrap, resamples, advance_d)
            auc = effects.paired_superiority(columns)
        else:
            assert isinstance(design, TwoSamples)
            found = effects.two_sample_effects(columns, design, rng_bootstrap, resamples, advance_d)
            auc = effects.probability_of_superiority(columns, n_a)
    spread = design.spread(columns.sums(), columns.sums(2))
    correlation = np.divide(found.difference**2, spread, out=np.zeros_like(spread), where=spread > 0)
    order = np.lexsort((tested, -correlation, p))
    per_feature = {
        "feature": tested,
        "mean_a": _means(a)[tested],
        "mean_b": _means(b)[tested],
        "n_a": active_a[tested],
        "n_b": active_b[tested],
        **found._asdict(),
        "auc": auc,
        "p": p,
        "q": permutation.benjamini_hochberg(p),
        "p_max": p_max,
    }
    n_never = int((in_texts == 0).sum())
    return Comparison(
        **{name: values[order] for name, values in per_feature.items()},
        n_texts=(n_a, n_b),
        n_never=n_never,
        n_rare=d_sae - len(tested) - n_never,
        permutations=drawn,
        paired=paired,
    )


def _check(
    a: SparseActs, b: SparseActs, paired: bool, permutations: int | None, resamples: int, min_texts: int, alpha: float
) -> None:
    if a.shape[1] != b.shape[1]:
        raise ShapeError("b", expected=f"[n_b, {a.shape[1]}], as many features as a", got=list(b.shape))
    if paired and a.shape[0] != b.shape[0]:
        raise ShapeError("b", expected=f"{a.shape[0]} texts, as many as a, in pairs", got=b.shape[0])
    for name, acts in (("a", a), ("b", b)):
        if acts.shape[0] < 2:
            raise ArgumentError(name, expected="at least two texts, to know how much texts vary", got=acts.shape[0])
    for name, number in (("permutations", permutations), ("resamples", resamples), ("min_texts", min_texts)):
        if number is not None and number < 1:
            raise ArgumentError(name, expected="a positive integer", got=number)
    if not 0 < alpha < 1:
        raise ArgumentError("alpha", expected="a number between 0 and 1", got=alpha)


def _columns(parts: list[tuple[SparseActs, int, float]], tested: NDArray[np.int64], n: int, d_sae: int) -> Columns:
    """Entries of the tested features by feature, parts put one below the other (or added, where their rows begin alike)."""
    place = np.full(d_sae, -1)
    place[tested] = np.arange(len(tested))
    keys, values = [], []
    for acts, first_row, sign in parts:
        feature = place[acts.col_indices.cpu().numpy()]
        here = feature >= 0
        keys.append(feature[here] * n + acts.row_indices().cpu().numpy()[here] + first_row)
        values.append(sign * acts.values.cpu().numpy().astype(np.float64)[here])
    cells, cell = np.unique(np.concatenate(keys), return_inverse=True)
    summed = np.bincount(cell, np.concatenate(values), minlength=len(cells))
    cells, summed = cells[summed != 0], summed[summed != 0]
    pointer = np.r_[0, np.cumsum(np.bincount(cells // n, minlength=len(tested)))]
    return Columns(pointer, cells % n, summed, n)


def _n_active(acts: SparseActs) -> NDArray[np.int64]:
    return np.bincount(acts.col_indices.cpu().numpy()[(acts.values != 0).cpu().numpy()], minlength=acts.shape[1])


def _means(acts: SparseActs) -> Floats:
    sums = np.bincount(acts.col_indices.cpu().numpy(), acts.values.cpu().numpy(), minlength=acts.shape[1])
    return sums / acts.shape[0]


@contextmanager
def _steps(m: int, enabled: bool) -> Iterator[tuple[Advance, Advance]]:
    with (
        step("permutations", m, "features decided", enabled) as permuted,
        step("bootstrap", m, "features", enabled) as resampled,
    ):
        yield permuted, resampled
