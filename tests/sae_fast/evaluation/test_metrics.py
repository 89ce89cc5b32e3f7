"""Accumulators against their definitions: far-off means, uneven batches, merging, chunked cross entropy."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sae_fast.errors import ShapeError
from sae_fast.evaluation import CrossEntropyStats, FeatureCounts, ReconstructionStats, metrics
from sae_fast.evaluation.metrics import recovered
from sae_fast.sparse import SparseActs

SIZES = (1, 40, 3, 0, 156)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def explained_variance(y: Tensor, y_hat: Tensor) -> float:
    """The definition, in float64 and in one piece."""
    y, y_hat = y.double(), y_hat.double()
    return float(1 - (y - y_hat).square().sum() / (y - y.mean(0)).square().sum())


def reconstruction(pairs: Sequence[tuple[Tensor, Tensor]], d: int) -> ReconstructionStats:
    stats = ReconstructionStats(d)
    for y, y_hat in pairs:
        stats.update(y, y_hat)
    return stats


@pytest.mark.parametrize("mean", [0.0, 3.0, 1e4])
def test_explained_variance_is_its_definition_wherever_the_mean_lies(mean: float, generator: torch.Generator) -> None:
    """With sd 1 and an error of sd 1/2 it is near 0.75 for any mean, over batches of uneven size and different means."""
    y = mean + torch.randn(200, 6, generator=generator)
    y[:40] += 0.3
    y_hat = y + 0.5 * torch.randn(200, 6, generator=generator)

    stats = reconstruction(list(zip(y.split(SIZES), y_hat.split(SIZES), strict=True)), 6)

    assert stats.explained_variance == pytest.approx(explained_variance(y, y_hat), rel=1e-12)
    assert stats.explained_variance == pytest.approx(0.75, abs=0.05)
    assert stats.mse == pytest.approx(float((y.double() - y_hat.double()).square().sum(1).mean()), rel=1e-12)
    assert torch.allclose(stats.mean, y.double().mean(0), rtol=1e-13)
    assert stats.n_tokens == 200


def test_merging_parts_in_any_order_equals_one_pass(generator: torch.Generator) -> None:
    """Halves, empty accumulators and a different order give the numbers of the whole, and a merged one is left alone."""
    y = 3 + torch.randn(200, 6, generator=generator)
    y_hat = y + 0.5 * torch.randn(200, 6, generator=generator)
    pairs = list(zip(y.split(SIZES), y_hat.split(SIZES), strict=True))
    whole = reconstruction(pairs, 6)
    for first, second in ((pairs[:2], pairs[2:]), (pairs[3:], pairs[:3]), ([], pairs), (pairs, [])):
        merged, other = reconstruction(first, 6), reconstruction(second, 6)
        before = copy.deepcopy(other)
        merged.merge(other)
        assert merged.explained_variance == pytest.approx(whole.explained_variance, rel=1e-12)
        assert merged.mse == pytest.approx(whole.mse, rel=1e-12)
        assert torch.allclose(merged.mean, whole.mean, rtol=1e-13)
        assert (other.n_tokens, other.squared_deviation) == (before.n_tokens, before.squared_deviation)
        assert torch.equal(other.mean, before.mean)


def test_what_is_undefined_is_none() -> None:
    """No tokens, and data that do not vary, give None instead of NaN or an exception."""
    assert ReconstructionStats(3).explained_variance is None
    assert ReconstructionStats(3).mse is None
    constant = reconstruction([(torch.full((4, 3), 2.0), torch.zeros(4, 3))], 3)
    assert constant.explained_variance is None
    assert constant.mse == 12.0
    assert FeatureCounts(3).l0 is None
    assert CrossEntropyStats().ce is None
    assert recovered(2.0, 1.0, 2.0) is None
    assert recovered(None, 1.0, 1.0) is None
    assert recovered(3.0, 1.5, 1.0) == 0.75


def test_shapes_that_do_not_fit_are_refused() -> None:
    """A reconstruction of another width or length, and activations of another d_sae, raise `ShapeError`."""
    with pytest.raises(ShapeError, match=r"expected both \[n, 3\], got \[4, 3\] and \[1, 3\]"):
        ReconstructionStats(3).update(torch.zeros(4, 3), torch.zeros(1, 3))
    with pytest.raises(ShapeError, match="d_sae = 5, got 6"):
        FeatureCounts(5).update(SparseActs.from_dense(torch.ones(2, 6)))


def test_feature_counts_and_l0_count_values_that_are_not_zero(generator: torch.Generator) -> None:
    """Stored zeros do not count, negative values do, and merging adds."""
    dense = torch.randn(50, 9, generator=generator) * (torch.rand(50, 9, generator=generator) < 0.3)
    with_zeros = SparseActs.from_topk(torch.tensor([[0, 3], [3, 8]]), torch.tensor([[0.0, 2.0], [-1.0, 0.0]]), 9)
    counts, other = FeatureCounts(9), FeatureCounts(9)

    counts.update(SparseActs.from_dense(dense))
    other.update(with_zeros)
    counts.merge(other)

    expected = (dense != 0).sum(0)
    expected[3] += 2
    assert torch.equal(counts.counts, expected)
    assert counts.l0 == int(expected.sum()) / 52


@pytest.mark.parametrize("chunk", [1, 77, 2**24])
def test_cross_entropy_and_kl_are_their_definitions(
    chunk: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums over the chosen positions, target one to the right, whatever the chunk, for float32 and bfloat16 logits."""
    monkeypatch.setattr(metrics, "_CHUNK_ELEMENTS", chunk)
    token_ids = torch.randint(0, 11, (4, 9), generator=generator)
    predicts = torch.rand(4, 9, generator=generator) < 0.6
    predicts[:, -1] = False
    for dtype in (torch.float32, torch.bfloat16):
        logits, clean = (4 * torch.randn(4, 9, 11, generator=generator).to(dtype) for _ in range(2))
        log_p, log_clean = (t.double().log_softmax(-1) for t in (logits, clean))
        places = [(b, p) for b in range(4) for p in range(9) if predicts[b, p]]
        losses = [-float(log_p[b, p, token_ids[b, p + 1]]) for b, p in places]
        divergences = [float((log_clean[b, p].exp() * (log_clean[b, p] - log_p[b, p])).sum()) for b, p in places]

        parts = [CrossEntropyStats(), CrossEntropyStats()]
        for part, rows in zip(parts, (slice(0, 1), slice(1, 4)), strict=True):
            part.update(logits[rows], token_ids[rows], predicts[rows], clean[rows])
        parts[0].merge(parts[1])

        assert parts[0].n_predictions == len(places)
        assert parts[0].ce == pytest.approx(sum(losses) / len(losses), rel=1e-6)
        assert parts[0].kl == pytest.approx(sum(divergences) / len(divergences), rel=1e-6)


def test_the_last_position_predicts_nothing() -> None:
    """A prediction asked for where no token follows is refused, not taken from the next row."""
    predicts = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ShapeError, match="false at the last position"):
        CrossEntropyStats().update(torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64), predicts)
