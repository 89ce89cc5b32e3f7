"""A run from a configuration to finished SAEs: tokens, activations, training, thresholds, files. What is done is kept.

run/
tokens/           the TokenDataset
activations/      the store (or wherever `[activations] folder` says)
checkpoints/      the newest two
metrics.jsonl     a line for each logged step and SAE
saes/<name>/      the finished SAEs
run.json          what it was made from, and what came out
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sae_fast.lm
from sae_fast.activations import ActivationStore, Permutation, Split, write_store
from sae_fast.corpus import corpus_fingerprint, open_corpus
from sae_fast.corpus.tokenise import Tokeniser, choose_prefix, write_tokens
from sae_fast.corpus.tokens import TokenDataset
from sae_fast.errors import ArgumentError, MismatchError
from sae_fast.evaluation.metrics import FeatureCounts, ReconstructionStats
from sae_fast.files import fingerprint, source_fingerprint, write_whole
from sae_fast.lm.interface import LanguageModel
from sae_fast.progress import step as progress_step
from sae_fast.sae import SAE
from sae_fast.training.checkpoint import resume, save_checkpoint
from sae_fast.training.config import RunConfig
from sae_fast.training.metrics_log import MetricsLog
from sae_fast.training.trainer import StepMetrics, Trainer
from sae_fast.training.variants import VARIANTS, Start, Variant

SAMPLE_TOKENS = 8192
"""Activations from which the initial weights are made."""
HELD_OUT_TOKENS = 65536
"""Held-out activations that thresholds are set on, and results measured on, at most."""


@dataclass(frozen=True)
class Data:
    """What the SAEs learn from."""

    store: ActivationStore
    training: Split
    held_out: Split
    dataset: TokenDataset
    prepend_bos: bool


def train(config: RunConfig, show_progress: bool = True) -> dict[str, SAE]:
    """Carry out a run, or go on with it, and return its SAEs by name.

    Raises:
        ArgumentError: the run needs more memory than this machine has.
        MismatchError: the folder holds a run with other settings.
        DiskFullError, NonFiniteError, StoreError, CorpusError, HookNotFoundError: with what is finished kept.
    """
    folder = Path(config.output.folder)
    lm = load_lm(config)
    data = collect(config, lm, show_progress)
    variants = make_variants(config, data.store)
    require_memory(variants.values(), config.train.batch_tokens)
    trainer = Trainer(variants, config.train)
    settings = {**config.as_dict(), "store": data.store.info}
    resume(folder / "checkpoints", trainer, settings)
    log = MetricsLog(folder / "metrics.jsonl", trainer.step)
    _train(config, trainer, data, log, settings, show_progress)
    saes = {name: finish(config, variant, data) for name, variant in trainer.variants.items()}
    for name, sae in saes.items():
        sae.save(folder / "saes" / name, config.output.format)
    results = {name: measure(sae, data) for name, sae in saes.items()}
    content = {"config": config.as_dict(), "n_steps": trainer.step, "results": results}
    write_whole(folder / "run.json", (json.dumps(content, indent=1) + "\n").encode())
    return saes


def load_lm(config: RunConfig) -> LanguageModel:
    """The language model of a configuration."""
    model = config.model
    return sae_fast.lm.load(model.source, backend=model.backend, device=model.device, dtype=model.dtype, **model.arguments)


def collect(config: RunConfig, lm: LanguageModel, show_progress: bool = True) -> Data:
    """Tokens and activations, made or taken up again."""
    dataset, prefix = tokens(config, lm, show_progress)
    stored = config.activations
    store = write_store(
        stored.folder or Path(config.output.folder) / "activations",
        lm,
        dataset,
        hooks_of(config),
        stored.dtype,
        stored.batch_size,
        stored.shard_tokens,
        model_fingerprint=source_fingerprint(config.model.source),
        show_progress=show_progress,
    )
    training, held_out = store.split_by_document(dataset, stored.held_out)
    return Data(store, training, held_out, dataset, prefix is not None)


def tokens(config: RunConfig, lm: LanguageModel, show_progress: bool = True) -> tuple[TokenDataset, int | None]:
    """(the dataset, id of the BOS that begins its contexts).

    Raises `MismatchError` where the folder holds the tokens of another corpus.
    """
    folder, options = Path(config.output.folder) / "tokens", config.corpus
    corpus = open_corpus(options)
    prefix = choose_prefix(lm.tokenizer, options.prepend_bos, (), corpus.is_chat)
    made_from = fingerprint(
        {"corpus": corpus_fingerprint(options), "options": vars(options) | {"source": None}, "prefix": prefix}
    )
    if (folder / "dataset.json").exists():
        dataset = TokenDataset.open(folder)
        if (dataset.info or {}).get("made_from", {}).get("fingerprint") != made_from:
            raise MismatchError(
                f"{folder}: holds the tokens of another corpus, or of other options",
                advice="Name another [output] folder, or remove this one",
            )
        return dataset, prefix
    tokeniser = Tokeniser(lm.tokenizer, options.context_length, prefix, options.count_special, options.roles)
    with progress_step("tokens", corpus.n_documents or 0, "documents", enabled=show_progress) as advance:
        return write_tokens(folder, corpus, tokeniser, options.max_tokens, advance, fingerprint=made_from), prefix


def hooks_of(config: RunConfig) -> list[str]:
    """Every hook that an SAE of the run reads or writes at."""
    names = [name for _, options in config.sae.values() for name in (options.hook_name, options.hook_name_out)]
    return list(dict.fromkeys(name for name in names if name is not None))


def make_variants(config: RunConfig, store: ActivationStore) -> dict[str, Variant]:
    """The SAEs before their first step."""
    order = Permutation(store.n_rows, config.train.seed)
    rows = np.sort(order[: min(SAMPLE_TOKENS, store.n_rows)])
    samples = {hook: store.rows(hook, rows).float() for hook in store.hooks}
    made = {}
    for name, (kind, options) in config.sae.items():
        hook_in, hook_out = options.hook_name, options.hook_name_out or options.hook_name
        start = Start(samples[hook_in], samples[hook_out], store.norm_scale(hook_in), store.norm_scale(hook_out))
        made[name] = VARIANTS[kind](options, start)
    return made


def require_memory(variants: Iterable[Variant], batch_tokens: int) -> None:
    """Raise `ArgumentError` where weights, gradients and optimizer do not fit in this machine's memory."""
    needed = 0
    for variant in variants:
        weights = sum(parameter.numel() for parameter in variant.parameters())
        needed += 16 * weights + 4 * batch_tokens * (variant.d_in + 3 * variant.d_out)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > total:
        raise ArgumentError(
            f"the run needs {needed / 1e9:.1f} GB for weights, gradients and optimizer, and this machine has "
            f"{total / 1e9:.1f} GB",
            advice="Train fewer SAEs at once, or smaller ones",
        )


def held_out_batches(data: Data, variant_options: Any, limit: int = HELD_OUT_TOKENS) -> Iterator[tuple[Tensor, Tensor]]:
    """`(x, y)` of held-out tokens, spread over the held-out documents, at most `limit` of them."""
    n = len(data.held_out)
    places = np.unique(np.linspace(0, n - 1, min(n, limit)).astype(np.int64))
    hook_in, hook_out = variant_options.hook_name, variant_options.hook_name_out or variant_options.hook_name
    for part in np.array_split(places, max(1, len(places) // 4096)):
        rows = data.held_out.rows(part)
        x = data.store.rows(hook_in, rows).float()
        yield x, x if hook_in == hook_out else data.store.rows(hook_out, rows).float()


def finish(config: RunConfig, variant: Variant, data: Data) -> SAE:
    """The finished SAE, with thresholds set where they are set, and the names that belong to it."""
    variant.eval()
    sae = variant.to_sae(lambda: held_out_batches(data, variant.options), getattr(torch, config.output.dtype))
    name = config.model.name or config.model.source.rstrip("/").rpartition("/")[2]
    context = config.corpus.context_length
    return sae.replace(replace(sae.cfg, model_name=name, context_size=context, prepend_bos=data.prepend_bos))


def measure(sae: SAE, data: Data) -> dict[str, float | None]:
    """Reconstruction and sparsity on held-out tokens; `sae-fast eval` measures what splicing it in costs."""
    stats, counts = ReconstructionStats(sae.cfg.d_out), FeatureCounts(sae.cfg.d_sae)
    for x, y in held_out_batches(data, sae.cfg):
        acts = sae.encode(x)
        y_hat, skipped = sae.decode(acts), sae.skip(x)
        stats.update(y, y_hat if skipped is None else y_hat + skipped)
        counts.update(acts)
    return {
        "n_tokens": stats.n_tokens,
        "explained_variance": stats.explained_variance,
        "mse": stats.mse,
        "l0": counts.l0,
        "never_active": int((counts.counts == 0).sum()),
    }


def _train(
    config: RunConfig, trainer: Trainer, data: Data, log: MetricsLog, settings: Mapping[str, Any], show_progress: bool
) -> None:
    options, output = config.train, config.output
    every = max(1, output.checkpoint_tokens // options.batch_tokens)
    folder = Path(output.folder) / "checkpoints"

    def batches(first_step: int) -> Iterator[Mapping[str, Tensor]]:
        return data.store.batches(options.batch_tokens, options.seed, first_step, data.training)

    remaining = options.n_steps - trainer.step
    with progress_step("training", remaining * options.batch_tokens, "tokens", enabled=show_progress) as advance:

        def report(metrics: Mapping[str, StepMetrics]) -> None:
            advance(options.batch_tokens)
            if trainer.step % output.log_steps == 0 or trainer.step == options.n_steps:
                log.write(metrics)
            if trainer.step % every == 0 or trainer.step == options.n_steps:
                save_checkpoint(folder, trainer, settings)

        trainer.run(batches, report=report)
