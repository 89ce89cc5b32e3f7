"""Runs under torchrun: `distributed_steps.py FOLDER` trains a few steps, by data and by features, and writes the results."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_fast.training.distributed import Ranks, joined, leave
from sae_fast.training.trainer import StepMetrics, Trainer, TrainOptions
from sae_fast.training.variants import VARIANTS, Start
from sae_fast.training.variants.sharded import sharded

D, D_SAE, BATCH, STEPS = 8, 32, 64, 12


def rows(n: int, seed: int) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) @ torch.diag(torch.linspace(0.5, 3, D)) + 1


def train(ranks: Ranks, by_features: bool) -> dict[str, Tensor]:
    """Losses, L0 and explained variance of each step, dead features, and the state at the end."""
    torch.set_num_threads(1)
    x = rows(500, 99)
    kind = VARIANTS["topk"]
    variant: Any = kind(kind.Options(hook_name="x", d_sae=D_SAE, k=3, dead_after_tokens=2 * BATCH), Start(x, x, 0.5, 0.5))
    with torch.no_grad():
        variant.b_enc[::3] = -3.0
    if by_features:
        variant = sharded(variant, ranks)
    options = TrainOptions(tokens=STEPS * BATCH, batch_tokens=BATCH, lr=1e-2, warmup=0.0, shard_features=by_features)
    trainer, seen = Trainer({"a": variant}, options, ranks), []
    own = slice(None) if by_features else slice(ranks.rank, None, ranks.size)

    def batches(first: int) -> Iterator[dict[str, Tensor]]:
        while True:
            yield {"x": rows(BATCH, first)[own]}
            first += 1

    def note(metrics: Any) -> None:
        found: StepMetrics = metrics["a"]
        seen.append([found.loss, found.l0, found.explained_variance, float(found.n_dead), found.terms.get("aux", 0.0)])

    trainer.run(batches, report=note)
    state = {key: value.clone().contiguous() for key, value in trainer.state().items()}
    again = Trainer({"a": variant}, options, ranks)
    again.load_state(state)
    taken_up = again.state()
    assert all(torch.equal(value, taken_up[key]) for key, value in state.items())
    return {"curve": torch.tensor(seen, dtype=torch.float64), **state}


if __name__ == "__main__":
    with joined("cpu") as (ranks, _):
        for spread in ("data", "features"):
            answer = train(ranks, spread == "features")
            if ranks.is_first:
                save_file(answer, Path(sys.argv[1]) / f"{spread}.safetensors")
    leave()
