"""The loop: parts of a batch, schedules, several SAEs at once, and its state."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_fast.training.schedules import lr_factor
from sae_fast.training.trainer import StepMetrics, Trainer, TrainOptions
from sae_fast.training.variants import VARIANTS, Start, Variant

D, D_SAE, BATCH = 8, 32, 64
ALL: dict[str, dict[str, Any]] = {
    "standard": dict(l1_coefficient=0.3),
    "gated": dict(l1_coefficient=0.3),
    "topk": dict(k=3),
    "abstopk": dict(k=3),
    "batchtopk": dict(k=3),
    "matryoshka": dict(k=3, group_sizes=(8.0, 24.0)),
    "jumprelu": dict(target_l0=3.0),
    "matching_pursuit": dict(max_iterations=3),
}


def rows(n: int, seed: int) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) @ torch.diag(torch.linspace(0.5, 3, D)) + 1


def variant(name: str, seed: int = 0, **options: Any) -> Variant:
    x = rows(500, 99)
    kind = VARIANTS[name]
    return kind(kind.Options(hook_name="x", d_sae=D_SAE, seed=seed, **ALL[name] | options), Start(x, x, 0.5, 0.5))


def batches(first: int) -> Iterator[Mapping[str, Tensor]]:
    while True:
        yield {"x": rows(BATCH, first)}
        first += 1


def options(**given: Any) -> TrainOptions:
    return TrainOptions(**{"tokens": 20 * BATCH, "batch_tokens": BATCH, "lr": 1e-3, **given})


def trained(variants: dict[str, Variant], steps: int = 6, **given: Any) -> tuple[Trainer, list[Mapping[str, StepMetrics]]]:
    trainer, seen = Trainer(variants, options(**given)), []
    trainer.run(batches, steps, seen.append)
    return trainer, seen


@pytest.mark.parametrize("name", ["topk", "standard", "gated"])
def test_parts_of_a_batch_add_up_to_the_whole(name: str) -> None:
    """With losses that are means over tokens, accumulation changes nothing but rounding."""
    whole, in_whole = trained({"a": variant(name)})
    parts, in_parts = trained({"a": variant(name)}, accumulate=4)

    for a, b in zip(whole.variants["a"].parameters(), parts.variants["a"].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for one, other in zip(in_whole, in_parts, strict=True):
        assert one["a"].loss == pytest.approx(other["a"].loss, rel=1e-4)
        assert one["a"].l0 == pytest.approx(other["a"].l0, rel=1e-3)


def test_several_saes_at_once_are_those_of_each_alone() -> None:
    """Bit for bit."""
    together, _ = trained({name: variant(name) for name in ALL})

    for name in ALL:
        alone, _ = trained({name: variant(name)})
        for key, value in alone.state().items():
            assert torch.equal(value, together.state()[key]), key


@pytest.mark.parametrize("name", ALL)
def test_a_state_taken_up_goes_on_to_the_same_bits(name: str) -> None:
    """After any steps, into fresh objects."""
    whole, _ = trained({"a": variant(name, dead_after_tokens=2 * BATCH)}, 9)
    first, _ = trained({"a": variant(name, dead_after_tokens=2 * BATCH)}, 4)
    second = Trainer({"a": variant(name, seed=1, dead_after_tokens=2 * BATCH)}, options())
    second.load_state({key: value.clone() for key, value in first.state().items()})
    second.run(batches, 9)

    for key, value in whole.state().items():
        assert torch.equal(value, second.state()[key]), key


@pytest.mark.parametrize("name", ALL)
def test_training_lowers_the_error(name: str) -> None:
    """Explained variance rises."""
    _, seen = trained({"a": variant(name)}, 20, lr=1e-2)

    assert seen[-1]["a"].explained_variance > seen[0]["a"].explained_variance


def test_a_power_below_one_trains() -> None:
    """Its gradient is not bounded at zero, and activations of zero have none."""
    _, seen = trained({"a": variant("standard", lp_norm=0.5)}, 20, lr=1e-2)

    assert seen[-1]["a"].explained_variance > seen[0]["a"].explained_variance


def test_metrics_say_what_a_step_saw() -> None:
    """Step, tokens, learning rate by its schedule, exact L0 of topk."""
    _, seen = trained({"a": variant("topk")}, 20, warmup=0.25, decay=0.5)

    assert [m["a"].step for m in seen] == list(range(1, 21))
    assert seen[3]["a"].tokens == 4 * BATCH
    assert seen[0]["a"].lr == pytest.approx(1e-3 / 5)
    assert seen[7]["a"].lr == pytest.approx(1e-3)
    assert seen[-1]["a"].lr == pytest.approx(1e-3 / 10)
    assert seen[0]["a"].l0 == pytest.approx(3, abs=0.2)
    assert seen[0]["a"].terms.keys() == {"mse"}


def test_features_that_never_fire_are_counted_and_come_back() -> None:
    """Dead features are reported, and the auxiliary loss moves them; without it nothing does."""

    def last(coefficient: float) -> tuple[Variant, list[Mapping[str, StepMetrics]]]:
        sae = variant("topk", dead_after_tokens=2 * BATCH, aux_coefficient=coefficient)
        with torch.no_grad():
            sae.b_enc[:16] = -1.0
        return sae, trained({"a": sae}, 20, lr=3e-2, warmup=0.0)[1]

    revived, seen = last(1 / 32)
    left, _ = last(0.0)

    assert seen[1]["a"].n_dead >= 8
    assert "aux" in seen[2]["a"].terms
    assert int(revived.dead[:16].sum()) < int(left.dead[:16].sum())


def test_bfloat16_products_stay_close() -> None:
    """Weights stay float32, and the loss is that of float32 but for rounding."""
    _, a = trained({"a": variant("topk")})
    rough, b = trained({"a": variant("topk")}, precision="bfloat16")

    assert rough.variants["a"].W_dec.dtype == torch.float32
    assert b[-1]["a"].loss == pytest.approx(a[-1]["a"].loss, rel=0.03)
    assert b[-1]["a"].loss != a[-1]["a"].loss


def test_an_sae_may_have_its_own_learning_rate() -> None:
    """Beside that of the run; thresholds of jumprelu have twenty times the weights'."""
    trainer = Trainer({"a": variant("topk", lr=5e-4), "b": variant("jumprelu")}, options(warmup=0.0))
    trainer.run(batches, 1)

    assert [group["lr"] for group in trainer.optimizers["a"].param_groups] == [pytest.approx(5e-4)]
    assert [group["lr"] for group in trainer.optimizers["b"].param_groups] == [pytest.approx(1e-3), pytest.approx(2e-2)]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_schedules_rise_and_fall(schedule: Any) -> None:
    """From a part of the peak to the peak, and down unless constant; never above one or below zero."""
    factors = [lr_factor(step, 100, 0.1, 0.3, schedule) for step in range(100)]

    assert factors[0] == pytest.approx(0.1)
    assert factors[:10] == sorted(factors[:10])
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == pytest.approx({"linear": 1 / 30, "cosine": 0.0003046, "constant": 1.0}[schedule], rel=1e-3)
