"""Ground truth: what the samples are, exact matching, and scores of SAEs whose recovery is known."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from sae_fast.config import SAEConfig
from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.evaluation import matching
from sae_fast.evaluation.synthetic import SyntheticData, SyntheticOptions, chance_cosine, recovery
from sae_fast.sae import SAE


def make_sae(W_dec: torch.Tensor, W_enc: torch.Tensor | None = None, bias: float = 0.0) -> SAE:
    d_sae, d = W_dec.shape
    cfg = SAEConfig(architecture="standard", d_in=d, d_sae=d_sae)
    W_enc = W_dec.T.contiguous() if W_enc is None else W_enc
    return SAE(cfg, W_enc=W_enc, W_dec=W_dec, b_enc=torch.full((d_sae,), bias), b_dec=torch.zeros(d))


def orthogonal(**options: Any) -> SyntheticData:
    """True features that do not overlap, so that an SAE can be perfect."""
    data = SyntheticData(SyntheticOptions(**{"d": 24, "n_features": 16, "active": 3.0} | options))
    data.dictionary = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(5)))[0][:16].contiguous()
    return data


def test_a_perfect_sae_scores_one() -> None:
    """Every score is 1, in any order of its features; what it explains is everything."""
    data = orthogonal()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    found = recovery(make_sae(3 * data.dictionary[order], data.dictionary[order].T / 3, bias=-1e-6), data, 2000)

    for name in (
        "mean_max_cosine",
        "matched_cosine",
        "recall",
        "precision",
        "uniqueness",
        "firing_recall",
        "firing_precision",
        "f1",
    ):
        assert getattr(found, name) == pytest.approx(1.0, abs=1e-3), name
    assert found.explained_variance == pytest.approx(1.0, abs=1e-6)
    assert found.l0 == pytest.approx(found.true_l0, rel=1e-3)
    assert found.n_live == 16


def test_a_random_sae_scores_what_chance_gives() -> None:
    """Its mean max cosine is the expected maximum of random cosines, and it finds nothing."""
    data = SyntheticData(SyntheticOptions(d=48, n_features=300, active=6.0))
    rows = torch.nn.functional.normalize(torch.randn(400, 48, generator=torch.Generator().manual_seed(7)), dim=1)

    found = recovery(make_sae(rows), data, 2000)

    assert found.n_live == 400
    assert found.mean_max_cosine == pytest.approx(found.chance_cosine, abs=0.005)
    assert (found.recall, found.precision, found.f1) == (0.0, 0.0, 0.0)


def test_chance_is_the_mean_of_a_simulation() -> None:
    """For a few widths and numbers of directions."""
    generator = torch.Generator().manual_seed(0)
    for d, n in ((3, 1), (3, 50), (16, 10), (64, 500)):
        directions = torch.nn.functional.normalize(torch.randn(400, n, d, generator=generator, dtype=torch.float64), dim=2)
        largest = directions[..., 0].max(1).values
        assert chance_cosine(d, n) == pytest.approx(float(largest.mean()), abs=4 * float(largest.std()) / 20)


def test_half_a_dictionary_is_half_recalled() -> None:
    """Missing, doubled and dead features each lower the score that is about them."""
    data = orthogonal()
    half = data.dictionary[:8]
    doubled = make_sae(torch.cat([half, half, half[:1]]), bias=-1e-6)
    doubled.tensors()["b_enc"][-1] = -1e9

    found = recovery(make_sae(half, bias=-1e-6), data, 2000)
    twice = recovery(doubled, data, 2000)

    assert (found.recall, found.precision, found.uniqueness) == (0.5, 1.0, 1.0)
    assert found.matched_cosine == pytest.approx(0.5)
    assert (twice.recall, twice.precision, twice.n_live) == (0.5, 0.5, 16)
    assert twice.uniqueness == 0.5
    assert twice.f1 == pytest.approx(0.5, abs=1e-3)


def test_samples_are_what_the_options_say() -> None:
    """Seeded; firing probabilities as given, magnitudes, activations made of the dictionary, bias and noise."""
    data = SyntheticData(SyntheticOptions(active=10, zipf=1.0, bias=3.0, noise=0.1))
    x, codes = data.sample(20_000, seed=3)
    again = SyntheticData(SyntheticOptions(active=10, zipf=1.0, bias=3.0, noise=0.1)).sample(20_000, seed=3)

    assert torch.equal(x, again[0])
    assert torch.equal(codes, again[1])
    assert not torch.equal(x, data.sample(20_000, seed=4)[0])
    rates = (codes != 0).double().mean(0)
    assert float((rates - data.probability).abs().max()) < 5 * 0.5 / 20_000**0.5
    assert float(data.probability.sum()) == pytest.approx(10)
    assert float(codes[codes > 0].mean()) == pytest.approx(1.0, abs=0.01)
    rest = x - codes @ data.dictionary - data.bias
    assert float(rest.std()) == pytest.approx(0.1, rel=0.01)
    assert float(data.bias.norm()) == pytest.approx(3.0)


@pytest.mark.parametrize("exclusive", [True, False])
def test_children_fire_with_their_parents_only(exclusive: bool) -> None:
    """And, where they exclude each other, one at a time."""
    options = SyntheticOptions(n_features=40, children=3, active=12, exclusive_children=exclusive)
    data = SyntheticData(options)
    fires = data.sample(5000, seed=1)[1] > 0
    children = (data.parent >= 0).nonzero()[:, 0]

    assert len(children) == 30
    assert bool(fires[:, children].any())
    assert not bool((fires[:, children] & ~fires[:, data.parent[children]]).any())
    most = int(fires[:, children].reshape(5000, 10, 3).sum(2).max())
    assert most == 1 if exclusive else most > 1


def test_correlated_features_fire_together_as_often_as_before() -> None:
    """Common factors correlate firing and leave its probabilities alone."""
    options = {"n_features": 30, "active": 6.0, "zipf": 0.0, "n_factors": 1}
    apart, together = (
        (SyntheticData(SyntheticOptions(**options, correlation=c)).sample(20_000, seed=2)[1] != 0).double() for c in (0.0, 0.8)
    )
    off = ~torch.eye(30, dtype=torch.bool)

    assert float((together.mean(0) - 0.2).abs().max()) < 5 * 0.4 / 20_000**0.5
    assert float(torch.corrcoef(apart.T)[off].abs().mean()) < 0.02
    assert float(torch.corrcoef(together.T)[off].abs().mean()) > 0.2


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (3, 6), (6, 4)])
def test_assignment_is_the_best_of_all(shape: tuple[int, int]) -> None:
    """Against every possible assignment, ties and negative costs included."""
    for seed in range(20):
        cost = np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float64)
        wide = cost if shape[0] <= shape[1] else cost.T
        best = min(
            sum(wide[i, j] for i, j in enumerate(columns))
            for columns in itertools.permutations(range(wide.shape[1]), wide.shape[0])
        )
        rows, columns = matching.assign(cost)
        assert len(set(columns.tolist())) == len(rows) == min(shape)
        assert rows.tolist() == sorted(rows.tolist())
        assert cost[rows, columns].sum() == best


def test_assignment_without_and_with_scipy_agree() -> None:
    """On a larger matrix."""
    scipy = pytest.importorskip("scipy.optimize")
    scores = torch.randn(120, 90, generator=torch.Generator().manual_seed(0))
    rows, columns = matching.assign(-scores.double().numpy())
    expected = scipy.linear_sum_assignment(-scores.double().numpy())

    assert float(scores.double()[rows, columns].sum()) == pytest.approx(float(scores.double()[expected].sum()), rel=1e-12)


def test_options_that_make_no_sense_are_refused() -> None:
    """One clear error each."""
    with pytest.raises(ArgumentError, match="active: expected more than 0 and at most n_features = 128, got 200"):
        SyntheticOptions(active=200)
    with pytest.raises(ArgumentError, match="correlation"):
        SyntheticOptions(correlation=1.0)
    with pytest.raises(ShapeError, match="reads and writes 64 numbers, got 24"):
        recovery(make_sae(torch.eye(24)), SyntheticData())
