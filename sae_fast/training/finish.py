"""The end of a run: SAEs with thresholds and names, their files, and what they measure on held-out tokens."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError
from sae_fast.evaluation.metrics import FeatureCounts, ReconstructionStats
from sae_fast.sae import SAE
from sae_fast.sparse import SparseActs
from sae_fast.training.config import RunConfig
from sae_fast.training.data import Activations
from sae_fast.training.trainer import side_by_side
from sae_fast.training.variants import Variant

OWN_FORMAT = "sae_fast"
DENSITY_DECADES = (-6, 0)
DENSITY_BINS = 48


def finish(config: RunConfig, variant: Variant, data: Activations, prepend_bos: bool) -> dict[str, SAE]:
    """The finished SAEs of a variant by suffix (`""` where it is one), with the names that belong to them."""
    variant.eval()
    device = next(variant.parameters()).device
    saes = variant.to_saes(lambda: _pairs(variant, data, device), getattr(torch, config.output.dtype))
    name = config.model.name or config.model.source.rstrip("/").rpartition("/")[2]
    context = config.corpus.context_length
    return {
        suffix: sae.replace(replace(sae.cfg, model_name=name, context_size=context, prepend_bos=prepend_bos))
        for suffix, sae in saes.items()
    }


def save(sae: SAE, folder: Path, wanted: str) -> str:
    """Write the SAE in the wanted format or, where that cannot hold it, in our own; returns which."""
    try:
        sae.save(folder, wanted)
    except ArgumentError:
        if wanted == OWN_FORMAT:
            raise
        sae.save(folder, OWN_FORMAT)
        return OWN_FORMAT
    return wanted


def measure(saes: Mapping[str, SAE], variant: Variant, data: Activations) -> dict[str, Any]:
    """Reconstruction and sparsity of one variant on held-out tokens; `sae-fast eval` measures what splicing it in costs.

    SAEs that write at the same hook are added up, as the layers of a cross-layer transcoder are meant to be.
    """
    widths = {hook: data.hooks[hook] for hook in variant.options.writes}
    stats = {hook: ReconstructionStats(width) for hook, width in widths.items()}
    counts = {suffix: FeatureCounts(sae.cfg.d_sae) for suffix, sae in saes.items()}
    device = next(variant.parameters()).device
    for on_cpu in data.held_out(_hooks(variant)):
        batch = {hook: x.to(device) for hook, x in on_cpu.items()}
        y_hat = {hook: torch.zeros_like(batch[hook]) for hook in widths}
        for suffix, sae in saes.items():
            acts, written = outputs(sae, batch)
            counts[suffix].update(acts)
            for hook, part in written.items():
                y_hat[hook] = y_hat[hook] + part
        for hook, one in stats.items():
            one.update(batch[hook], y_hat[hook])
    error, deviation = (sum(getattr(one, key) for one in stats.values()) for key in ("squared_error", "squared_deviation"))
    n_tokens = next(iter(stats.values())).n_tokens
    fired = torch.cat([one.counts for one in counts.values()])
    return {
        "n_tokens": n_tokens,
        "explained_variance": 1 - error / deviation if deviation else None,
        "mse": error / n_tokens,
        "l0": float(fired.sum()) / n_tokens,
        "never_active": int((fired == 0).sum()),
        "n_features": len(fired),
        "density": density_histogram(fired, n_tokens),
    }


def density_histogram(fired: Tensor, n_tokens: int) -> list[int]:
    """Features by log10 of the share of tokens on which they are active: 8 bins a decade, 1e-6 to 1."""
    low, high = DENSITY_DECADES
    logs = (fired[fired > 0].double() / n_tokens).log10().clamp(low, high - 1e-9)
    return torch.histc(logs, DENSITY_BINS, low, high).long().tolist()


def outputs(sae: SAE, batch: Mapping[str, Tensor]) -> tuple[SparseActs, dict[str, Tensor]]:
    """(activations, what it writes by hook)."""
    x = side_by_side(batch, sae.cfg.hooks_read)
    acts, skipped = sae.encode(x), sae.skip(x)
    y_hat = sae.decode(acts)
    y_hat = y_hat if skipped is None else y_hat + skipped
    return acts, dict(zip(sae.cfg.hooks_written, sae.parts(y_hat), strict=True))


def _hooks(variant: Variant) -> list[str]:
    return list(dict.fromkeys((*variant.options.reads, *variant.options.writes)))


def _pairs(variant: Variant, data: Activations, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    reads, writes = variant.options.reads, variant.options.writes
    batches: Iterable[Mapping[str, Tensor]] = data.held_out(_hooks(variant))
    for batch in batches:
        yield side_by_side(batch, reads).to(device), side_by_side(batch, writes).to(device)
