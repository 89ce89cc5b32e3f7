"""Runs inside sae-lens's environment: `run_saelens_recovery.py ANSWER [VARIANT …]` trains by both libraries on planted data.

The same synthetic activations, tokens, batches, rate of Adam and sparsity settings; three seeds. ANSWER is JSON: of each
variant and library a list by seed of the recovery of the planted dictionary, L0 and explained variance on fresh tokens.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

import sae_fast
from sae_fast.evaluation.synthetic import SyntheticData, SyntheticOptions, recovery
from sae_fast.training.trainer import Trainer, TrainOptions
from sae_fast.training.variants import VARIANTS, Start

D, N_FEATURES, ACTIVE = 48, 128, 6.0
STEPS, BATCH, LR = 1000, 1024, 1e-3
SEEDS = (11, 12, 13)
"""Not that of the planted dictionary: random directions from one seed would be the answer."""
DEAD_STEPS = 100

OURS: dict[str, dict[str, Any]] = {
    "topk": {"k": 6},
    "batchtopk": {"k": 6.0},
    "standard": {"l1_coefficient": 2.0},
    "gated": {"l1_coefficient": 2.0},
    "jumprelu": {"penalty": "step", "l0_coefficient": 1.0, "bandwidth": 0.05},
}
THEIRS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig, {"k": 6}),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"k": 6.0}),
    "standard": (StandardTrainingSAE, StandardTrainingSAEConfig, {"l1_coefficient": 2.0, "l1_warm_up_steps": 50}),
    "gated": (GatedTrainingSAE, GatedTrainingSAEConfig, {"l1_coefficient": 2.0, "l1_warm_up_steps": 50}),
    "jumprelu": (
        JumpReLUTrainingSAE,
        JumpReLUTrainingSAEConfig,
        {"l0_coefficient": 1.0, "l0_warm_up_steps": 300, "jumprelu_bandwidth": 0.05},
    ),
}
Batches = Callable[[int], Iterator[Tensor]]


def main(answer: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    data = SyntheticData(SyntheticOptions(d=D, n_features=N_FEATURES, active=ACTIVE, noise=0.02))
    x, _ = data.sample(BATCH, 10**6)
    scale = D**0.5 / float(x.norm(dim=1).mean())
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for name in names or OURS:
        found[name] = {"sae_fast": [], "sae-lens": []}
        for seed in SEEDS:
            for who, train in (("sae_fast", _ours), ("sae-lens", _theirs)):
                measured = recovery(train(name, seed, data, scale), _scaled(data, scale))
                numbers = {key: float(getattr(measured, key)) for key in ("mean_max_cosine", "f1", "l0", "explained_variance")}
                found[name][who].append(numbers)
                sys.stdout.write(f"{name} {seed} {who} { {key: round(value, 3) for key, value in numbers.items()} }\n")
    answer.write_text(json.dumps(found, indent=1))


def _scaled(data: SyntheticData, scale: float) -> SyntheticData:
    """The same directions; SAEs here read scaled activations."""
    copy = SyntheticData(data.options)
    plain = data.sample

    def sample(n: int, seed: int) -> tuple[Tensor, Tensor]:
        x, codes = plain(n, seed)
        return x * scale, codes

    copy.sample = sample  # type: ignore[method-assign]
    return copy


def _batches(data: SyntheticData, seed: int, scale: float) -> Iterator[Tensor]:
    for step in range(STEPS):
        yield data.sample(BATCH, 1 + step + seed * STEPS)[0] * scale


def _ours(name: str, seed: int, data: SyntheticData, scale: float) -> sae_fast.SAE:
    kind = VARIANTS[name]
    options: Any = {"hook_name": "x", "d_sae": N_FEATURES, "seed": seed, "dead_after_tokens": DEAD_STEPS * BATCH, **OURS[name]}
    sample = data.sample(8192, 10**6 + 1)[0] * scale
    variant = kind(kind.Options(**options), Start(sample, sample, 1.0, 1.0))
    train = TrainOptions(tokens=STEPS * BATCH, batch_tokens=BATCH, lr=LR, warmup=0.0, schedule="constant")
    Trainer({"x": variant}, train).run(lambda _: ({"x": x} for x in _batches(data, seed, scale)))
    variant.eval()
    return variant.to_sae(lambda: [(sample, sample)])


def _theirs(name: str, seed: int, data: SyntheticData, scale: float) -> sae_fast.SAE:
    kind, config, options = THEIRS[name]
    torch.manual_seed(seed)
    sae = kind(config(d_in=D, d_sae=N_FEATURES, device="cpu", **options))
    settings = SAETrainerConfig(
        total_training_samples=STEPS * BATCH,
        train_batch_size_samples=BATCH,
        lr=LR,
        lr_end=LR,
        dead_feature_window=DEAD_STEPS,
    )
    trainer: Any = SAETrainer(cfg=settings, sae=sae, data_provider=iter(()))
    for x in _batches(data, seed, scale):
        trainer.step(x)
        trainer.n_training_steps += 1
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return sae_fast.load(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
