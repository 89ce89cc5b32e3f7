"""What a run will need, told before it begins."""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

import sae_fast.lm
from sae_fast.activations.writing import store_bytes
from sae_fast.corpus import open_corpus
from sae_fast.corpus.tokens import TokenDataset
from sae_fast.errors import ArgumentError
from sae_fast.progress import duration, size
from sae_fast.training.config import RunConfig
from sae_fast.training.distributed import local
from sae_fast.training.trainer import Trainer
from sae_fast.training.variants import VARIANTS, Start, Variant

BYTES_PER_WEIGHT = 16
"""Weight, gradient and two moments of Adam, float32 each."""
TIMED_STEPS = 3


@dataclass(frozen=True)
class Estimate:
    """Sizes in bytes, times in seconds."""

    corpus_tokens: int | None
    """counted tokens; None where the corpus has not been tokenised and no limit is given"""
    training_tokens: int
    store_bytes: int | None
    """None for what is streamed, or where the tokens are not known"""
    memory_bytes: Mapping[str, int]
    """by SAE"""
    step_s: float
    """of all SAEs, on noise: less once few features are active"""
    n_steps: int

    def table(self) -> str:
        """For people."""
        rows = [
            (
                "tokens of the corpus",
                "not known before they are made" if self.corpus_tokens is None else f"{self.corpus_tokens:,}",
            )
        ]
        epochs = f" ({self.training_tokens / self.corpus_tokens:.3g} epochs)" if self.corpus_tokens else ""
        rows += [
            ("tokens of training", f"{self.training_tokens:,}{epochs}"),
            ("activation store", "none, or not known yet" if self.store_bytes is None else size(self.store_bytes)),
            *((f"memory of {name}", size(n)) for name, n in self.memory_bytes.items()),
            ("memory in all", f"{size(sum(self.memory_bytes.values()))} of {size(machine_bytes())}"),
            ("time of a step", f"{self.step_s * 1e3:.3g} ms"),
            ("training", f"{duration(self.step_s * self.n_steps)} for {self.n_steps:,} steps, without the LM's pass"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def estimate(config: RunConfig) -> Estimate:
    """Load the LM for its widths and time a few steps on noise; nothing is written."""
    model, options = config.model, config.train
    lm = sae_fast.lm.load(model.source, backend=model.backend, device=model.device, dtype=model.dtype, **model.arguments)
    variants = {name: _on_noise(config, lm, name) for name in config.sae}
    hooks = list(dict.fromkeys(hook for v in variants.values() for hook in (*v.options.reads, *v.options.writes)))
    n_tokens = _corpus_tokens(config)
    trainer = Trainer(variants, options)
    memory = {name: memory_bytes(variant, options.batch_tokens // options.accumulate) for name, variant in variants.items()}
    noise = {hook: torch.randn(options.batch_tokens, lm.d_hook(hook), device=model.device) for hook in hooks}
    begun = []
    trainer.run(
        lambda _: iter([noise] * TIMED_STEPS), min(TIMED_STEPS, options.n_steps), lambda _: begun.append(time.monotonic())
    )
    per_step = (begun[-1] - begun[0]) / max(len(begun) - 1, 1)
    stored = config.activations
    on_disk = store_bytes(n_tokens, [lm.d_hook(hook) for hook in hooks], stored.dtype) if n_tokens and stored.on_disk else None
    return Estimate(n_tokens, options.tokens, on_disk, memory, per_step, options.n_steps)


def _on_noise(config: RunConfig, lm: "sae_fast.lm.LanguageModel", name: str) -> Variant:
    kind, options = config.sae[name]
    widths = tuple(lm.d_hook(hook) for hook in options.writes)
    x = torch.randn(256, sum(lm.d_hook(hook) for hook in options.reads))
    y = x if options.reads == options.writes else torch.randn(256, sum(widths))
    return VARIANTS[kind](options, Start(x, y, 1.0, 1.0, widths)).to(config.model.device)


def _corpus_tokens(config: RunConfig) -> int | None:
    folder = Path(config.output.folder) / "tokens"
    if (folder / "dataset.json").exists():
        return TokenDataset.open(folder).n_counted
    open_corpus(config.corpus)
    return config.corpus.max_tokens


def memory_bytes(variant: Variant, tokens: int) -> int:
    """Weights, gradients, optimizer, and what a part of a batch of so many tokens needs beside them, in this process."""
    weights = sum(local(parameter).numel() for parameter in variant.parameters())
    return BYTES_PER_WEIGHT * weights + 4 * tokens * (variant.d_in + 3 * variant.d_out)


def require_memory(variants: Iterable[Variant], batch_tokens: int) -> None:
    """Raise `ArgumentError` where weights, gradients and optimizer do not fit in the memory of the device they are on."""
    variants = list(variants)
    needed = sum(memory_bytes(variant, batch_tokens) for variant in variants)
    device = next(variants[0].parameters()).device
    there = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else machine_bytes()
    if needed > there:
        raise ArgumentError(
            f"the run needs {size(needed)} for weights, gradients and optimizer, and there are {size(there)} on {device}",
            advice="Train fewer SAEs at once, or smaller ones",
        )


def machine_bytes() -> int:
    """Main memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
