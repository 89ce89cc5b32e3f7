"""The training losses against their definitions, written out a second time."""

import pytest
import torch

from sae_fast.training import losses


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_reconstruction_sums_dimensions_and_averages_tokens() -> None:
    """The loss is the squared norm of the error, averaged over tokens alone."""
    x, x_hat = random(5, 3), random(5, 3, seed=1)

    expected = sum(sum((x_hat[t, d] - x[t, d]) ** 2 for d in range(3)) for t in range(5)) / 5

    torch.testing.assert_close(losses.reconstruction(x_hat, x), expected)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_topk_keeps_the_k_largest_positive_entries(k: int) -> None:
    """Entries outside a row's k largest, and entries that are not positive, become zero; the rest stay."""
    pre_acts = random(6, 8)
    kept = losses.topk(pre_acts, k)

    for row, before in zip(kept, pre_acts, strict=True):
        largest = set(before.argsort(descending=True)[:k].tolist())
        expected = [v.item() if i in largest and v > 0 else 0.0 for i, v in enumerate(before)]
        assert expected == row.tolist()


def test_batch_topk_keeps_k_per_token_on_average() -> None:
    """The whole batch keeps its k·n largest entries, and the smallest of them is returned."""
    pre_acts = random(10, 16).abs()
    acts, threshold = losses.batch_topk(pre_acts, 3)

    expected = pre_acts.flatten().sort(descending=True).values[29]
    assert 30 == int((acts != 0).sum())
    assert expected == threshold


def test_auxiliary_loss_reads_dead_features_alone() -> None:
    """Only dead features' activations and rows enter, and the error is relative to the residual's power."""
    pre_acts, W_dec, residual = random(4, 6), random(6, 3, seed=1), random(4, 3, seed=2)
    dead = torch.tensor([True, False, True, False, True, False])
    acts = losses.topk(pre_acts[:, dead], 2)
    expected = (acts @ W_dec[dead] - residual).pow(2).sum() / residual.pow(2).sum()

    torch.testing.assert_close(losses.auxiliary(pre_acts, W_dec, residual, dead, 2), expected)
    assert 0 == losses.auxiliary(pre_acts, W_dec, residual, torch.zeros(6, dtype=torch.bool), 2)


def test_jumprelu_gradient_follows_the_paper() -> None:
    """The input's gradient passes where x > θ; the threshold's is -(θ/ε) Σ 1[|x - θ| < ε/2] · gradient."""
    x = torch.tensor([[0.9, 1.05, 3.0], [0.2, 0.96, 1.2]], dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    weight = random(2, 3)
    (losses.JumpReLU.apply(x, threshold, 0.2) * weight).sum().backward()

    torch.testing.assert_close(x.grad, weight * (x > 1))
    near = (x.detach() - 1).abs() < 0.1
    torch.testing.assert_close(threshold.grad, -(1.0 / 0.2) * (near * weight).sum(0))
    assert near.any()
    assert not near.all()


def test_jumprelu_threshold_gradient_is_the_smoothed_objective_s() -> None:
    """Averaged over a dense spread of inputs, the estimate equals the finite difference of the true mean."""
    x = torch.linspace(-1, 3, 400_001, dtype=torch.float64)[:, None]
    threshold = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    losses.JumpReLU.apply(x, threshold, 0.05).mean().backward()

    def mean(t: float) -> float:
        return float((x * (x > t)).mean())

    torch.testing.assert_close(threshold.grad.item(), (mean(1.01) - mean(0.99)) / 0.02, rtol=1e-3, atol=0)


def test_quadratic_penalty_vanishes_at_the_target() -> None:
    """`(L0 / target - 1)²`: zero at the target, one at an L0 of zero."""
    pre_acts = torch.tensor([[2.0, 2.0, 0.0], [2.0, 0.0, 0.0]])
    threshold = torch.ones(3)

    assert 0.0 == losses.quadratic_l0(pre_acts, threshold, 1.5, 0.1).item()
    assert 1.0 == losses.quadratic_l0(pre_acts, threshold + 2, 1.5, 0.1).item()
    torch.testing.assert_close(losses.quadratic_l0(pre_acts, threshold, 3.0, 0.1), torch.tensor(0.25))


def test_dead_pre_activation_loss_pulls_only_dead_features() -> None:
    """The gradient is -1/n for dead features below threshold and zero elsewhere."""
    pre_acts = torch.tensor([[0.5, -1.0], [2.0, -3.0]], requires_grad=True)
    losses.dead_pre_activation(pre_acts, torch.ones(2), torch.tensor([True, False])).backward()

    assert [[-0.5, 0.0], [0.0, 0.0]] == pre_acts.grad.tolist()
