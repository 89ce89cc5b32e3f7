"""The trainer on planted data: it must find the dictionary, stay in the LM's units, and be reproducible."""

import pytest
import torch

from sae_fast.training import SAETrainer, ShuffleBuffer, TrainConfig, train

D_IN, N_TRUE = 16, 24


def planted(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return activations `[n, D_IN]` that are sums of two of `N_TRUE` unit directions, and the directions."""
    directions = torch.nn.functional.normalize(torch.randn(N_TRUE, D_IN, generator=torch.Generator().manual_seed(5)), dim=-1)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(n, N_TRUE, generator=generator).topk(2).indices
    strengths = 5 + 5 * torch.rand(n, 2, generator=generator)
    return (directions[chosen] * strengths[..., None]).sum(1) + 3.0, directions


def trained(architecture: str, n_steps: int = 300) -> SAETrainer:
    config = TrainConfig(
        architecture=architecture,  # type: ignore[arg-type]
        d_in=D_IN,
        d_sae=48,
        k=2,
        hook_name="hook",
        n_tokens=n_steps * 512,
        batch_tokens=512,
        lr=5e-3,
        dead_after_tokens=20_000,
    )
    trainer = SAETrainer(config, planted(2048, 0)[0])
    train({"sae": trainer}, ({"hook": planted(512, step + 1)[0]} for step in range(n_steps)))
    return trainer


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu"])
def test_training_recovers_a_planted_dictionary(architecture: str) -> None:
    """Most planted directions have a feature within cosine 0.9, and held-out data are explained at the wanted L0."""
    trainer = trained(architecture)
    x, directions = planted(4096, 9999)
    sae = trainer.to_sae(x)
    acts = sae.encode(x)
    x_hat = sae.decode(acts)
    explained = 1 - ((x - x_hat).pow(2).sum() / (x - x.mean(0)).pow(2).sum()).item()
    cosine = torch.nn.functional.normalize(sae.W_dec, dim=-1) @ directions.T

    assert explained > 0.85
    assert abs(acts.l0 - 2) < 0.6
    assert (cosine.max(0).values > 0.9).float().mean() > 0.7


def test_batchtopk_threshold_makes_the_held_out_l0_equal_k() -> None:
    """The saved threshold is the one at which mean L0 on the held-out tokens is k."""
    trainer = trained("batchtopk", n_steps=60)
    x = planted(4096, 77)[0]

    assert trainer.to_sae(x).encode(x).l0 == pytest.approx(2, abs=2 / 4096)


def test_same_seed_same_weights() -> None:
    """Two runs of the same configuration end with identical weights."""
    first, second = trained("topk", 20), trained("topk", 20)

    assert torch.equal(first.W_enc, second.W_enc)
    assert torch.equal(first.W_dec, second.W_dec)


def test_buffer_serves_rows_once_and_keeps_hooks_aligned() -> None:
    """Rows of two hooks stay the same token, no row is served twice, and batches mix blocks."""

    def blocks():  # type: ignore[no-untyped-def]
        for first in range(0, 2000, 50):
            rows = torch.arange(first, first + 50, dtype=torch.float32)[:, None]
            yield {"a": rows % 251, "b": -(rows % 251)}

    served_a, first_batch = [], None
    for batch in ShuffleBuffer(blocks(), n_tokens=400, batch_tokens=40):
        assert torch.equal(batch["a"], -batch["b"])
        served_a += batch["a"].flatten().tolist()
        first_batch = batch["a"] if first_batch is None else first_batch

    assert first_batch is not None
    assert first_batch.max() - first_batch.min() > 150
    assert 1600 <= len(served_a) <= 2000
    assert max(served_a.count(value) for value in set(served_a)) <= 8
