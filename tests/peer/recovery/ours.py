"""Training by sae_fast, with the settings that peers get."""

from typing import Any

import torch
from peer.recovery.planted import BATCH, DEAD_STEPS, LR, Planted, Trained, side_by_side
from torch import Tensor

from sae_fast.sae import SAE
from sae_fast.training.trainer import Trainer, TrainOptions
from sae_fast.training.variants import VARIANTS, Start


def train(architecture: str, options: dict[str, Any], planted: Planted, seed: int) -> Trained:
    """The variant, trained on the run's stream at a constant learning rate."""
    kind = VARIANTS[architecture]
    shared = {"d_sae": planted.n_features, "seed": seed, "dead_after_tokens": DEAD_STEPS * BATCH}
    sample = planted.sample(8192, 10**6 + 1)
    x, y = (side_by_side(sample, hooks) for hooks in (planted.reads, planted.writes))
    widths = tuple(sample[hook].shape[1] for hook in planted.writes)
    variant = kind(kind.Options(**(shared | _hooks(architecture, planted) | options)), Start(x, y, 1.0, 1.0, widths))
    run = TrainOptions(tokens=planted.steps * BATCH, batch_tokens=BATCH, lr=LR, warmup=0.0, schedule="constant")
    Trainer({"sae": variant}, run).run(lambda first: iter(planted.stream(seed)[first:]))
    variant.eval()
    saes = list(variant.to_saes(lambda: [(x, y)]).values())
    return of_sae(saes[0]) if len(saes) == 1 else of_layers(saes)


def of_sae(sae: SAE) -> Trained:
    """A finished SAE, whoever trained it."""
    assert sae.W_dec is not None

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        return sae.encode(x).to_dense(), sae(x)

    return Trained(run, sae.W_dec, sae.W_skip)


def of_layers(saes: list[SAE]) -> Trained:
    """The layers of a cross-layer transcoder as one: what they write is added up, nothing of it at earlier layers."""

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        inputs = x.split([sae.cfg.d_in for sae in saes], dim=1)
        acts = [sae.encode(own).to_dense() for sae, own in zip(saes, inputs, strict=True)]
        written = (sae.decode(own).flatten(1) for sae, own in zip(saes, acts, strict=True))
        return torch.cat(acts, dim=1), torch.stack([_right(out, width) for out in written]).sum(0)

    first = saes[0].W_dec
    assert first is not None
    width = first.shape[1] * first.shape[2]
    return Trained(run, torch.cat([_right(sae.W_dec.flatten(1), width) for sae in saes if sae.W_dec is not None]))


def _right(rows: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(rows, (width - rows.shape[1], 0))


def _hooks(architecture: str, planted: Planted) -> dict[str, Any]:
    if architecture == "clt":
        return {"hook_names": planted.reads, "hook_names_out": planted.writes, "d_sae": planted.n_features // 2}
    if "crosscoder" in architecture:
        return {"hook_names": planted.reads}
    is_transcoder = planted.reads != planted.writes
    return {"hook_name": planted.reads[0]} | ({"hook_name_out": planted.writes[0]} if is_transcoder else {})
