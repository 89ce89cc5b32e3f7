"""Train the three demo SAEs in one pass over the demo language model.

    python -m sitegen.demo.train_saes --lm sitegen/demo/lm --out sitegen/demo/saes

Activations come from random 128-token windows of the standard library's training files, each behind one BOS; the BOS position
itself is left out, as it is from every dashboard.
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import sae_fast.lm
from sae_fast.corpus import standard_library
from sae_fast.training import SAETrainer, ShuffleBuffer, StepMetrics, TrainConfig, train
from sitegen.demo.train_lm import token_stream

CONTEXT = 128
D_SAE = 4096
MODEL_NAME = "sitegen-demo-lm"
BLOCK_CONTEXTS = 64
BUFFER_TOKENS = 160_000
BATCH_TOKENS = 2048

RUNS = {
    "topk": dict(architecture="topk", hook_name="blocks.1.hook_resid_post", k=24),
    "jumprelu": dict(architecture="jumprelu", hook_name="blocks.2.hook_resid_post", k=24),
    "batchtopk": dict(architecture="batchtopk", hook_name="blocks.3.hook_resid_post", k=24),
}


def windows(stream: np.ndarray, bos: int, seed: int) -> Iterator[Tensor]:
    """Yield `[BLOCK_CONTEXTS, CONTEXT]` int64: BOS, then a random window of the stream."""
    rng = np.random.default_rng(seed)
    while True:
        starts = rng.integers(0, len(stream) - CONTEXT, size=BLOCK_CONTEXTS)
        yield contexts(stream, starts, bos)


def contexts(stream: np.ndarray, starts: np.ndarray, bos: int) -> Tensor:
    """Return `[len(starts), CONTEXT]` int64: BOS, then the `CONTEXT - 1` tokens from each start."""
    rows = stream[starts[:, None] + np.arange(CONTEXT - 1)].astype(np.int64)
    return torch.from_numpy(np.concatenate([np.full((len(starts), 1), bos), rows], axis=1))


def activation_blocks(lm: sae_fast.lm.LanguageModel, hooks: list[str], tokens: Iterator[Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield `{hook: [n, d]}` of all tokens but BOS."""
    for token_ids in tokens:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            activations = lm.activations(token_ids, hooks)
        keep = token_ids != lm.bos_token_id
        yield {hook: activations[hook][keep].float() for hook in hooks}


def held_out_activations(lm: sae_fast.lm.LanguageModel, hooks: list[str], stream: np.ndarray) -> dict[str, Tensor]:
    """Return `{hook: [n, d]}` of 512 contexts spread over the held-out stream."""
    assert lm.bos_token_id is not None
    token_ids = contexts(stream, np.linspace(0, len(stream) - CONTEXT, 512).astype(np.int64), lm.bos_token_id)
    parts = [lm.activations(block, hooks) for block in token_ids.split(BLOCK_CONTEXTS)]
    keep = token_ids != lm.bos_token_id
    return {hook: torch.cat([part[hook] for part in parts])[keep].float() for hook in hooks}


class Progress:
    """Prints, every hundred steps, what every SAE is at and how long the rest will take."""

    def __init__(self, n_steps: int) -> None:
        self.n_steps, self.started = n_steps, time.time()

    def __call__(self, metrics: Mapping[str, StepMetrics]) -> None:
        step = next(iter(metrics.values())).step
        if step % 100 and step != self.n_steps:
            return
        elapsed = time.time() - self.started
        parts = [f"{n} EV {m.explained_variance:.3f} L0 {m.l0:.1f} dead {m.n_dead}" for n, m in metrics.items()]
        rate, left = step * BATCH_TOKENS / elapsed, elapsed / step * (self.n_steps - step) / 60
        print(f"step {step}/{self.n_steps} {' · '.join(parts)} · {rate:,.0f} tokens/s {left:.0f} min left", flush=True)


def run(lm_folder: Path, out: Path, n_tokens: int, seed: int = 0, only: list[str] | None = None) -> None:
    runs = {name: settings for name, settings in RUNS.items() if only is None or name in only}
    lm = sae_fast.lm.load(lm_folder, dtype="float32")
    assert lm.bos_token_id is not None
    hooks = sorted({str(settings["hook_name"]) for settings in runs.values()})
    library = token_stream(lm.tokenizer, standard_library.documents("train"))
    held_out = held_out_activations(lm, hooks, token_stream(lm.tokenizer, standard_library.documents("held_out")))
    blocks = activation_blocks(lm, hooks, windows(library, lm.bos_token_id, seed))
    batches = iter(ShuffleBuffer(blocks, BUFFER_TOKENS, BATCH_TOKENS, seed))
    sample = next(batches)
    trainers = {}
    for name, settings in runs.items():
        config = TrainConfig(
            d_in=lm.d_hook(str(settings["hook_name"])),
            d_sae=D_SAE,
            n_tokens=n_tokens,
            batch_tokens=BATCH_TOKENS,
            model_name=MODEL_NAME,
            context_size=CONTEXT,
            seed=seed,
            **settings,  # type: ignore[arg-type]
        )
        trainers[name] = SAETrainer(config, sample[config.hook_name])
    train(trainers, batches, Progress(n_tokens // BATCH_TOKENS))
    for name, trainer in trainers.items():
        sae = trainer.to_sae(held_out[trainer.config.hook_name], dtype=torch.bfloat16)
        sae.save(out / name, format="saelens")
        print(f"wrote {out / name}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm", type=Path, required=True, help="folder of the demo LM")
    parser.add_argument("--out", type=Path, required=True, help="folder for the three SAE folders")
    parser.add_argument("--tokens", type=float, default=3e6, help="activation vectors to train on (default 3e6)")
    parser.add_argument("--only", nargs="*", choices=sorted(RUNS), help="train these alone")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    run(arguments.lm, arguments.out, int(arguments.tokens), arguments.seed, arguments.only)


if __name__ == "__main__":
    main()
