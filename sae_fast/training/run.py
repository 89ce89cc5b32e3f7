"""A run from a configuration to finished SAEs: tokens, activations, training, thresholds, files. What is done is kept.

run/
    tokens/           the TokenDataset
    activations/      the store (or wherever `[activations] folder` says)
    checkpoints/      the newest two; of fine-tuning in finetune/
    metrics.jsonl     a line for each logged step and SAE
    report.html       the same as curves
    saes/<name>/      the finished SAEs
    run.json          what it was made from, and what came out
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sae_fast.lm
from sae_fast.corpus.tokens import TokenDataset
from sae_fast.errors import ArgumentError, StoppedError
from sae_fast.files import write_whole
from sae_fast.lm.interface import LanguageModel
from sae_fast.progress import step as progress_step
from sae_fast.sae import SAE
from sae_fast.training.checkpoint import resume, save_checkpoint
from sae_fast.training.collect import collect, load_tokens
from sae_fast.training.config import RunConfig
from sae_fast.training.data import SAMPLE_TOKENS, Activations
from sae_fast.training.distributed import Ranks, joined, require_even
from sae_fast.training.estimate import require_memory
from sae_fast.training.finetune import FineTuner
from sae_fast.training.finish import finish, measure, save
from sae_fast.training.layout import ALONE, Layout, layout
from sae_fast.training.metrics_log import MetricsLog
from sae_fast.training.report import write_report
from sae_fast.training.signals import stopping_on_request
from sae_fast.training.sinks import Sinks
from sae_fast.training.trainer import StepMetrics, Trainer
from sae_fast.training.variants import VARIANTS, Start, Variant


@dataclass(frozen=True)
class Data:
    """What the SAEs learn from."""

    activations: Activations
    dataset: TokenDataset
    training_contexts: np.ndarray[Any, np.dtype[np.int64]]
    prepend_bos: bool


def train(config: RunConfig, show_progress: bool = True) -> dict[str, SAE]:
    """Carry out a run, or go on with it, and return its SAEs by name. Under torchrun, call it in every process.

    Raises:
        StoppedError: SIGINT or SIGTERM came; a checkpoint is written.
        ArgumentError: the run needs more memory than this machine has.
        MismatchError: the folder holds a run with other settings.
        DiskFullError, NonFiniteError, StoreError, CorpusError, HookNotFoundError: with what is finished kept.
    """
    with joined(config.model.device) as (ranks, device):
        config = replace(config, model=replace(config.model, device=device))
        return _train_all(config, ranks, show_progress and ranks.is_first)


def _train_all(config: RunConfig, ranks: Ranks, show_progress: bool) -> dict[str, SAE]:
    options, folder = config.train, Path(config.output.folder)
    place = layout(ranks, options.shard_features, config.model.device)
    require_even(place.rows, "[train] batch_tokens / accumulate", options.batch_tokens // options.accumulate)
    if ranks.is_first:
        Sinks(config.output, {}).require()
    lm = load_lm(config)
    data = prepare(config, lm, ranks, show_progress)
    variants = make_variants(config, data.activations, place)
    require_memory(variants.values(), options.batch_tokens)
    trainer = Trainer(variants, options)
    settings = {**config.as_dict(), "activations_of": dict(data.activations.about)}
    resume(folder / "checkpoints", trainer, settings)
    with Loop(config, ranks, settings, show_progress) as loop:
        loop.run(
            trainer, lambda first: data.activations.batches(options, first, place.rows), folder / "checkpoints", "training"
        )
        if config.finetune.tokens:
            tuner = FineTuner(variants, config.finetune, options, lm, data.dataset, data.training_contexts)
            resume(folder / "finetune", tuner, settings)
            loop.offset = options.n_steps
            loop.run(tuner, tuner.batches, folder / "finetune", "fine-tuning")
        saes = _finish_all(config, variants, data, ranks)
        loop.report()
    return saes


def load_lm(config: RunConfig) -> LanguageModel:
    """The language model of a configuration."""
    model = config.model
    return sae_fast.lm.load(model.source, backend=model.backend, device=model.device, dtype=model.dtype, **model.arguments)


def prepare(config: RunConfig, lm: LanguageModel, ranks: Ranks, show_progress: bool) -> Data:
    """Tokens and activations; the first process makes them, the others wait."""
    if not ranks.is_first:
        ranks.wait()
    dataset, prefix = load_tokens(config, lm, show_progress)
    activations, contexts = collect(config, lm, dataset, hooks_of(config), show_progress)
    if ranks.is_first:
        ranks.wait()
    return Data(activations, dataset, contexts, prefix is not None)


def hooks_of(config: RunConfig) -> list[str]:
    """Every hook that an SAE of the run reads or writes at."""
    return list(dict.fromkeys(hook for _, options in config.sae.values() for hook in (*options.reads, *options.writes)))


def make_variants(config: RunConfig, activations: Activations, place: Layout = ALONE) -> dict[str, Variant]:
    """The SAEs before their first step, on the device of the run; of features in parts, this process's."""
    for name, (kind, _) in config.sae.items():
        if place.mesh is not None and (why := VARIANTS[kind].why_whole):
            raise ArgumentError(
                f"[train] shard_features: {name} ({kind})", expected="another architecture", advice=f"For it, {why}"
            )
    samples = activations.sample(SAMPLE_TOKENS, config.train.seed)
    made: dict[str, Variant] = {}
    for name, (kind, options) in config.sae.items():
        x, scale_in, _ = _joined(samples, activations, options.reads)
        y, scale_out, widths = _joined(samples, activations, options.writes)
        variant = VARIANTS[kind](options, Start(x, y, scale_in, scale_out, widths, place))
        made[name] = variant.to(config.model.device).distributed()
    return made


def _joined(
    samples: Mapping[str, Tensor], activations: Activations, hooks: tuple[str, ...]
) -> tuple[Tensor, float | Tensor, tuple[int, ...]]:
    """(sample, scale, widths) of some hooks side by side."""
    scales = [activations.norm_scale(hook) for hook in hooks]
    widths = tuple(activations.hooks[hook] for hook in hooks)
    if len(hooks) == 1:
        return samples[hooks[0]], scales[0], widths
    scale = torch.cat([torch.full((width,), one, dtype=torch.float64) for width, one in zip(widths, scales, strict=True)])
    return torch.cat([samples[hook] for hook in hooks], dim=1), scale, widths


class Loop:
    """Steps with metrics, checkpoints, reports and an end on request."""

    def __init__(self, config: RunConfig, ranks: Ranks, settings: Mapping[str, Any], show_progress: bool) -> None:
        self.config, self.ranks, self.settings, self.show_progress = config, ranks, settings, show_progress
        self.offset = 0
        """steps of what came before"""
        self.folder, self.sinks = Path(config.output.folder), Sinks(config.output, config.as_dict())

    def __enter__(self) -> "Loop":
        if self.ranks.is_first:
            self.sinks.open(self.folder)
        return self

    def __exit__(self, *error: object) -> None:
        self.sinks.close()

    def run(self, trainer: Trainer, batches: Callable[[int], Iterator[Any]], folder: Path, title: str) -> None:
        """Go on to the last step. Raises `StoppedError` when asked to end, with a checkpoint written."""
        output, options = self.config.output, trainer.options
        every = max(1, output.checkpoint_tokens // options.batch_tokens)
        device = torch.device(self.config.model.device)
        remaining = (options.n_steps - trainer.step) * options.batch_tokens
        if remaining <= 0:
            return
        log = MetricsLog(self.folder / "metrics.jsonl", self.offset + trainer.step) if self.ranks.is_first else None
        with (
            stopping_on_request() as stop,
            progress_step(title, remaining, "tokens", enabled=self.show_progress) as advance,
        ):

            def after(metrics: Mapping[str, StepMetrics]) -> None:
                advance(options.batch_tokens)
                is_last = trainer.step == options.n_steps
                if log is not None and (trainer.step % output.log_steps == 0 or is_last):
                    shifted = {name: replace(m, step=m.step + self.offset) for name, m in metrics.items()}
                    log.write(shifted)
                    self.sinks.write(shifted)
                ends = self.ranks.any(stop.requested, device)
                if trainer.step % every == 0 or is_last or ends:
                    save_checkpoint(folder, trainer, self.settings)
                    self.report()
                if ends and not is_last:
                    raise _stopped(trainer, self.folder)

            trainer.run(lambda first: _on(device, batches(first)), report=after)

    def report(self) -> None:
        """Write report.html anew."""
        if self.ranks.is_first:
            write_report(self.folder)


def _stopped(trainer: Trainer, folder: Path) -> StoppedError:
    step, n_steps = trainer.step, trainer.options.n_steps
    return StoppedError(
        f"stopped after step {step:,} of {n_steps:,}; a checkpoint is in {folder}", advice="The same command goes on from there"
    )


def _on(device: torch.device, batches: Iterator[Any]) -> Iterator[Any]:
    """Activations moved to a device and widened there; batches of tokens as they are."""
    for batch in batches:
        yield {hook: x.to(device, non_blocking=True).float() for hook, x in batch.items()} if isinstance(batch, dict) else batch


def _finish_all(config: RunConfig, variants: Mapping[str, Variant], data: Data, ranks: Ranks) -> dict[str, SAE]:
    folder, found, results, formats = Path(config.output.folder), {}, {}, {}
    for name, variant in variants.items():
        whole = variant.whole()
        if whole is None or not ranks.is_first:
            continue
        saes = finish(config, whole, data.activations, data.prepend_bos)
        for suffix, sae in saes.items():
            path = f"{name}/{suffix}".rstrip("/")
            found[path] = sae.to("cpu")
            formats[path] = save(found[path], folder / "saes" / path, config.output.format)
        results[name] = measure(saes, whole, data.activations)
    if ranks.is_first:
        content = {"config": config.as_dict(), "n_steps": config.train.n_steps, "formats": formats, "results": results}
        write_whole(folder / "run.json", (json.dumps(content, indent=1) + "\n").encode())
    return found
