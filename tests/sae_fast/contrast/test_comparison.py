"""Statistics of a contrast against brute force, and their error rates."""

from itertools import combinations, product
from math import comb

import numpy as np
import pytest
import torch

from sae_fast.contrast import Comparison, compare
from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.sparse import SparseActs


def pooled(n: int, d_sae: int, seed: int, share: float = 0.4) -> torch.Tensor:
    """Pooled values `[n, d_sae]`: mostly zero, the rest rounded, so that ties occur."""
    generator = torch.Generator().manual_seed(seed)
    values = (torch.randn(n, d_sae, generator=generator, dtype=torch.float64).abs() * 4).round() / 4
    return values * (torch.rand(n, d_sae, generator=generator) < share)


def run(a: torch.Tensor, b: torch.Tensor, **options: object) -> Comparison:
    """Compare dense pooled values, with few resamples unless more are asked for."""
    options = {"resamples": 20} | options
    return compare(SparseActs.from_dense(a), SparseActs.from_dense(b), **options)  # type: ignore[arg-type]


def by_feature(result: Comparison, name: str) -> dict[int, float]:
    return dict(zip(result.feature.tolist(), result.columns()[name].tolist(), strict=True))


def test_effects_equal_their_definitions() -> None:
    """Means, counts, Cohen's d and the AUC of every feature equal a loop over texts."""
    a, b = pooled(7, 40, seed=0), pooled(9, 40, seed=1) - 0.25 * (pooled(9, 40, seed=2) > 1)
    result = run(a, b)

    for place, feature in enumerate(result.feature):
        x, y = a[:, feature].numpy(), b[:, feature].numpy()
        variance = (6 * x.var(ddof=1) + 8 * y.var(ddof=1)) / 14
        auc = np.mean([(u > v) + 0.5 * (u == v) for u, v in product(x, y)])
        assert result.n_a[place] == (x != 0).sum()
        assert result.n_b[place] == (y != 0).sum()
        np.testing.assert_allclose(result.difference[place], x.mean() - y.mean(), atol=1e-12)
        np.testing.assert_allclose(result.d[place], (x.mean() - y.mean()) / np.sqrt(variance), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(result.auc[place], auc, rtol=1e-12)
        assert result.low[place] <= result.high[place]


def test_paired_effects_equal_their_definitions() -> None:
    """Paired, d is the mean difference over the deviation of differences, and the AUC a share of pairs."""
    a, b = pooled(8, 30, seed=3), pooled(8, 30, seed=4)
    result = run(a, b, paired=True)

    for place, feature in enumerate(result.feature):
        difference = (a - b)[:, feature].numpy()
        deviation = difference.std(ddof=1)
        expected = 0.0 if difference.mean() == 0 else difference.mean() / deviation
        np.testing.assert_allclose(result.d[place], expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(result.auc[place], np.mean((difference > 0) + 0.5 * (difference == 0)))


def test_p_values_approach_those_of_all_permutations() -> None:
    """Over C(9, 4) = 126 labellings, each p-value lies within the error of sampling of the exact one."""
    a, b = pooled(4, 25, seed=5, share=0.8), pooled(5, 25, seed=6, share=0.8)
    result = run(a, b, permutations=20_000)
    rows = torch.cat([a, b]).numpy()

    for feature, p in by_feature(result, "p").items():
        values = rows[:, feature]
        observed = abs(values[:4].mean() - values[4:].mean())
        differences = []
        for chosen in combinations(range(9), 4):
            others = [i for i in range(9) if i not in chosen]
            differences.append(abs(values[list(chosen)].mean() - values[others].mean()))
        exact = np.mean(np.array(differences) >= observed - 1e-9)
        assert len(differences) == comb(9, 4)
        # A feature that is decided at its 50th exceedance has a relative standard error of 1 / sqrt(50); five of them.
        assert abs(p - exact) <= 5 * exact / np.sqrt(50) + 1e-3


def test_sign_flips_are_those_of_pairs() -> None:
    """Paired p-values lie within the error of sampling of the exact ones over all 2^8 sign patterns."""
    a, b = pooled(8, 20, seed=7, share=0.7), pooled(8, 20, seed=8, share=0.7)
    signs = np.array(list(product([1, -1], repeat=8)))

    for feature, p in by_feature(run(a, b, paired=True, permutations=20_000), "p").items():
        difference = (a - b)[:, feature].numpy()
        exact = np.mean(np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9)
        assert abs(p - exact) <= 5 * exact / np.sqrt(50) + 1e-3


def test_a_planted_difference_ranks_first() -> None:
    """One shifted feature among 3,000 is the first, is found alone, and its interval excludes zero."""
    a, b = pooled(40, 3000, seed=9, share=0.2), pooled(40, 3000, seed=10, share=0.2)
    a[:, 1234] += 1.0
    result = run(a, b, resamples=200)

    assert result.feature[0] == 1234
    assert result.q[0] <= 0.05
    assert result.n_found() == 1
    assert result.p_max[0] < 0.01
    assert 0 < result.low[0] < result.difference[0] < result.high[0]
    assert 0 < result.d_low[0] < result.d[0] < result.d_high[0]


@pytest.mark.parametrize("paired", [False, True])
def test_false_discovery_rate_on_permuted_labels(paired: bool) -> None:
    """With labels permuted 200 times, the share of runs with any discovery is the stated 0.1 within sampling error."""
    a, b = pooled(12, 60, seed=11, share=0.6), pooled(12, 60, seed=12, share=0.6)
    a[:, :5] += 2.0
    rows, rng = torch.cat([a, b]), np.random.default_rng(0)
    n_false, n_family, shares = 0, 0, []
    for repetition in range(200):
        order = torch.from_numpy(rng.permutation(24))
        first, second = rows[order[:12]], rows[order[12:]]
        if paired:
            flip = torch.from_numpy(rng.random(12) < 0.5)[:, None]
            first, second = torch.where(flip, b, a), torch.where(flip, a, b)
        result = run(first, second, paired=paired, alpha=0.1, permutations=1_000, resamples=1, seed=repetition)
        n_false += result.n_found(0.1) > 0
        n_family += bool((result.p_max <= 0.1).any())
        shares.append((result.p <= 0.1).mean())

    # 200 runs at a rate of 0.1: 20 expected, at most 35 in all but one of a thousand such tests.
    assert n_false <= 35
    assert n_family <= 35
    # A procedure that never calls anything would pass the lines above.
    assert min(n_false, n_family) >= 3
    # A p-value is below 0.1 in a tenth of all cases.
    error = np.std(shares) / np.sqrt(len(shares))
    assert 0.08 - 3 * error <= np.mean(shares) <= 0.1 + 3 * error


def test_false_discoveries_beside_true_ones() -> None:
    """With 20 true differences among 120 features, the mean share of false ones among those called stays below the rate."""
    shares, powers = [], []
    for repetition in range(30):
        a, b = pooled(20, 120, seed=100 + repetition, share=0.7), pooled(20, 120, seed=300 + repetition, share=0.7)
        a[:, :20] += 1.5
        result = run(a, b, alpha=0.1, permutations=3_000, resamples=1, seed=repetition)
        called = result.feature[result.q <= 0.1]
        shares.append((called >= 20).mean() if len(called) else 0.0)
        powers.append((called < 20).sum() / 20)

    assert np.mean(shares) <= 0.1 + 3 * np.std(shares) / np.sqrt(len(shares))
    assert np.mean(powers) > 0.8


def test_pairs_find_what_differs_within_them() -> None:
    """A small shift under a large variation between pairs is found by the paired design and not by the other."""
    generator = torch.Generator().manual_seed(13)
    common = 10 * torch.rand(30, 50, generator=generator, dtype=torch.float64)
    a = common + 0.01 * torch.rand(30, 50, generator=generator, dtype=torch.float64)
    b = common + 0.01 * torch.rand(30, 50, generator=generator, dtype=torch.float64)
    a[:, 7] += 0.02

    assert run(a, b, paired=True).feature[0] == 7
    assert run(a, b, paired=True).n_found() == 1
    assert run(a, b).n_found() == 0


def test_the_seed_decides() -> None:
    """The same seed gives the same numbers, another one other p-values."""
    a, b = pooled(10, 50, seed=14), pooled(10, 50, seed=15)
    first, again, other = run(a, b, seed=1), run(a, b, seed=1), run(a, b, seed=2)

    assert all(np.array_equal(value, again.columns()[name]) for name, value in first.columns().items())
    assert not np.array_equal(np.sort(first.p), np.sort(other.p))


def test_features_that_never_fire_are_counted_not_tested() -> None:
    """Silent features and, if asked for, rare ones are left out, counted, and not corrected for."""
    a, b = pooled(10, 50, seed=16), pooled(10, 50, seed=17)
    a[:, 10:20] = b[:, 10:20] = 0
    a[:, 20] = b[:, 20] = 0
    a[3, 20] = 1.0
    result, without_rare = run(a, b), run(a, b, min_texts=2)

    assert (result.n_never, result.n_rare, len(result)) == (10, 0, 40)
    assert (without_rare.n_never, without_rare.n_rare, len(without_rare)) == (10, 1, 39)
    assert 20 not in without_rare.feature
    np.testing.assert_allclose(result.q.max(), min(1.0, result.p.max()))


def test_a_difference_without_spread_is_infinite() -> None:
    """Where both sets are constant and differ, d is infinite and p as small as it can be."""
    a, b = pooled(10, 5, seed=18), pooled(10, 5, seed=19)
    a[:, 2], b[:, 2] = 1.0, 0.1
    result = run(a, b)

    assert result.feature[0] == 2
    assert result.d[0] == np.inf
    assert result.auc[0] == 1.0


def test_wrong_arguments_are_refused() -> None:
    """Other widths, unequal pairs, a single text, and numbers out of range each give one clear error."""
    a, b = pooled(5, 6, seed=20), pooled(4, 6, seed=21)

    with pytest.raises(ShapeError, match="as many features as a"):
        run(a, b[:, :3])
    with pytest.raises(ShapeError, match="in pairs"):
        run(a, b, paired=True)
    with pytest.raises(ArgumentError, match="at least two texts"):
        run(a, b[:1])
    with pytest.raises(ArgumentError, match="min_texts: expected a positive integer, got 0"):
        run(a, b, min_texts=0)
    with pytest.raises(ArgumentError, match="alpha"):
        run(a, b, alpha=1.0)
