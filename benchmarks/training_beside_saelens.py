"""Training steps of sae-lens and sae_fast on the same activations, in turns, in the environment that has sae-lens.

    .venv-peers/sae-lens/bin/python -m benchmarks.training_beside_saelens

d_in 256, d_sae 8192, batches of 4,096, float32 on the CPU. Each round times a step of one after one of the other, so that what
else the machine does falls on both; the ratio of medians is what counts. Target: at least 2.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from sae_fast.training.trainer import Trainer, TrainOptions
from sae_fast.training.variants import VARIANTS, Start, Variant

D_IN, D_SAE, BATCH = 256, 8192, 4096
K = 32
ROUNDS = 7
TARGET = 2.0
JUMPRELU_L0 = 100
"""From what sparsity on JumpReLU is timed: it begins dense."""


def activations(n_batches: int = 8) -> list[Tensor]:
    """Sparse sums of directions that a dictionary of the size could learn, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(1024, D_IN, generator=generator), dim=1)
    found = []
    for _ in range(n_batches):
        chosen = torch.randint(0, len(directions), (BATCH, 24), generator=generator)
        strengths = torch.rand(BATCH, 24, generator=generator) * 6
        noise = 0.1 * torch.randn(BATCH, D_IN, generator=generator)
        found.append((directions[chosen] * strengths[..., None]).sum(1) + noise)
    return found


def main(answer: Path | None) -> int:
    """Time both architectures; the exit status says whether the target was reached."""
    batches = activations()
    ratios = {}
    for name, measure in (("topk", _topk), ("jumprelu", _jumprelu)):
        ratios[name] = found = measure(batches)
        ours, theirs = BATCH / found["sae_fast"], BATCH / found["sae-lens"]
        print(f"{name:9} sae_fast {ours:9,.0f} tokens/s, sae-lens {theirs:9,.0f}: {found['ratio']:.2f} times", flush=True)
    if answer is not None:
        answer.write_text(
            json.dumps({"d_in": D_IN, "d_sae": D_SAE, "batch": BATCH, "seconds_per_step": ratios}, indent=1) + "\n"
        )
    return 0 if min(found["ratio"] for found in ratios.values()) >= TARGET else 1


def _topk(batches: list[Tensor]) -> dict[str, float]:
    ours = _ours("topk", batches, k=K)
    theirs = _theirs(TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K, device="cpu")), _scale(batches))
    return _in_turns(ours, theirs, batches)


def _jumprelu(batches: list[Tensor]) -> dict[str, float]:
    """Both with thresholds from which L0 is at most 100, as training has it after its beginning."""
    variant = _variant("jumprelu", batches, target_l0=float(K))
    peer = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, device="cpu"))
    x = batches[0]
    with torch.no_grad():
        scaled = variant.scaled(x)
        variant.log_threshold.fill_(_level(variant.pre_acts(variant.centred(scaled)))).log_()
        h = peer.process_sae_in(scaled) @ peer.W_enc + peer.b_enc
        peer.threshold.fill_(_level(h))
    ours = _trained(variant)
    ours(x)
    print(f"jumprelu: L0 of sae_fast {float(variant.density) * D_SAE:.0f}, of sae-lens {_l0(peer, scaled):.0f}")
    return _in_turns(ours, _theirs(peer, _scale(batches)), batches)


def _scale(batches: list[Tensor]) -> float:
    return D_IN**0.5 / float(batches[0].norm(dim=1).mean())


def _level(h: Tensor) -> float:
    return float(h.flatten()[::7].kthvalue(int(len(h.flatten()[::7]) * (1 - 0.7 * JUMPRELU_L0 / D_SAE))).values.clamp(min=1e-3))


def _l0(peer: Any, x: Tensor) -> float:
    with torch.no_grad():
        return float((peer.encode(x) != 0).sum(1).float().mean())


def _variant(kind: str, batches: list[Tensor], **options: Any) -> Any:
    x = batches[0]
    scale = _scale(batches)
    made: Variant = VARIANTS[kind](VARIANTS[kind].Options(hook_name="x", d_sae=D_SAE, **options), Start(x, x, scale, scale))
    return made


def _ours(kind: str, batches: list[Tensor], **options: Any) -> Callable[[Tensor], None]:
    return _trained(_variant(kind, batches, **options))


def _trained(variant: Variant) -> Callable[[Tensor], None]:
    trainer = Trainer({"x": variant}, TrainOptions(tokens=10**9, batch_tokens=BATCH))
    return lambda x: trainer.run(lambda _: iter([{"x": x}]), trainer.step + 1)


def _theirs(sae: Any, scale: float) -> Callable[[Tensor], None]:
    """A step of sae-lens's own SAETrainer, logging off, on inputs scaled beforehand as its scaler does."""
    config = SAETrainerConfig(total_training_samples=10**9, train_batch_size_samples=BATCH, lr_end=3e-4)
    trainer: Any = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))

    def step(x: Tensor) -> None:
        trainer.step(x * scale)
        trainer.n_training_steps += 1

    return step


def _in_turns(ours: Callable[[Tensor], None], theirs: Callable[[Tensor], None], batches: list[Tensor]) -> dict[str, float]:
    contenders = {"sae_fast": ours, "sae-lens": theirs}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for step in contenders.values():
        step(batches[0])
    for number in range(ROUNDS):
        for name, step in contenders.items():
            begun = time.perf_counter()
            step(batches[number % len(batches)])
            times[name].append(time.perf_counter() - begun)
    medians = {name: median(found) for name, found in times.items()}
    return medians | {"ratio": medians["sae-lens"] / medians["sae_fast"]}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
