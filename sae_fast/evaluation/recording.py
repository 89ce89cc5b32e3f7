"""What is added to the sums of an evaluation for the counted tokens of a batch."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sae_fast.errors import NonFiniteError
from sae_fast.evaluation.batches import groupings
from sae_fast.evaluation.groupings import N_BLOCKS, TokenClasses
from sae_fast.evaluation.metrics import FeatureCounts, as_double
from sae_fast.evaluation.result import Evaluation, LayerSums, SaeSums
from sae_fast.evaluation.subjects import Reconstruction, Subject
from sae_fast.evaluation.sums import Cells, Grouping, Sums
from sae_fast.sparse import SparseActs

_TOTAL = {"block": Grouping(1, N_BLOCKS)}


def begin(found: list[Subject], means: Mapping[str, Tensor], classes: TokenClasses | None) -> Evaluation:
    """An evaluation of these before the first token."""
    groups = groupings(classes)
    targets = dict.fromkeys(target for subject in found for target in subject.targets())
    return Evaluation(
        means=dict(means),
        saes={name: one for subject in found for name, one in _begin(subject, groups).items()},
        targets={target: Sums(groups) for target in targets},
        clean=Sums(groups),
        ablated={hooks: Sums(groups) for hooks in dict.fromkeys(subject.writes for subject in found)},
        class_names=() if classes is None else classes.names,
    )


def add_target(
    result: Evaluation,
    subject: Subject,
    cells: Cells,
    wanted: Mapping[str, Tensor],
    references: Mapping[str, Tensor],
    seen: set[str],
) -> None:
    """Add what a subject is compared with, unless that is among `seen`. The spread is summed about `references`."""
    for target, hooks in subject.targets().items():
        if target in seen:
            continue
        seen.add(target)
        wide = [as_double(wanted[hook]) for hook in hooks]
        shifts = [y - as_double(references[subject.target_at(hook)]).to(y) for hook, y in zip(hooks, wide, strict=True)]
        energy, device = _squared(wide), wide[0].device
        values = {
            "n": torch.ones_like(energy),
            "n_directed": energy > 0,
            "deviation": _squared(shifts),
            "energy": energy,
            "norm_in": energy.sqrt(),
        }
        # Vectors are kept hook by hook; of several hooks, their squared norms add up.
        values |= {"shift": shifts[0]} if len(hooks) == 1 else {}
        result.targets[target].add(cells, **{name: value.to(device) for name, value in values.items()})


def add_reconstruction(one: SaeSums, made: Reconstruction, cells: Cells, wanted: Mapping[str, Tensor]) -> None:
    """Add a reconstruction, at all hooks together and at each. Raises `NonFiniteError` where it is not finite."""
    pairs = {hook: (as_double(wanted[hook].to(y_hat.device)), as_double(y_hat)) for hook, y_hat in made.y_hat.items()}
    together = _compared(list(pairs.values()))
    if not bool(together["error"].isfinite().all()):
        raise NonFiniteError(f"SAE {made.name!r}: its reconstruction has NaN or infinite values")
    device, sparsity = together["error"].device, [_sparsity(acts) for acts in made.acts]
    for layer, acts, own in zip(one.layers.values(), made.acts, sparsity, strict=True):
        layer.features.update(acts)
        if len(one.layers) > 1:
            layer.sums.add(cells, **own)
    total = {name: torch.stack([own[name].to(device) for own in sparsity]).sum(0) for name in ("l0", "l1")}
    one.sums.add(cells, **together, **total)
    for hook, (_, sums) in one.by_hook.items():
        sums.add(cells, **_compared([pairs[hook]]))


def _begin(subject: Subject, groups: Mapping[str, Grouping]) -> dict[str, SaeSums]:
    n_features = sum(sae.cfg.d_sae for sae in subject.layers.values())
    several = len(subject.writes) > 1
    return {
        name: SaeSums(
            hooks=subject.writes,
            target=subject.target,
            sums=Sums(groups),
            layers={layer: LayerSums(Sums(_TOTAL), FeatureCounts(sae.cfg.d_sae)) for layer, sae in subject.layers.items()},
            n_features=size,
            prefix_of=None if name == subject.name else subject.name,
            by_hook={hook: (subject.target_at(hook), Sums(_TOTAL)) for hook in subject.writes if several},
        )
        for name, size in zip(subject.names, (n_features, *subject.cuts), strict=True)
    }


def _compared(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Of y and ŷ `[n, d]` of each hook, float64 `[n]`: what reconstruction metrics are made of, over the hooks together."""
    energy_in, energy_out = _squared([y for y, _ in pairs]), _squared([y_hat for _, y_hat in pairs])
    dot = torch.stack([(y * y_hat).sum(1).to(energy_in.device) for y, y_hat in pairs]).sum(0)
    norm_in, norm_out = energy_in.sqrt(), energy_out.sqrt()
    both = norm_in * norm_out
    return {
        "error": _squared([y - y_hat for y, y_hat in pairs]),
        "dot": dot,
        "energy_out": energy_out,
        "norm_out": norm_out,
        "cosine": torch.where(both > 0, dot / both, 0.0),
        "norm_ratio": torch.where(norm_in > 0, norm_out / norm_in, 0.0),
    }


def _squared(parts: list[Tensor]) -> Tensor:
    """Squared norms `[n]` of vectors whose parts are `[n, d]` each."""
    device = parts[0].device
    return torch.stack([part.square().sum(1).to(device) for part in parts]).sum(0)


def _sparsity(acts: SparseActs) -> dict[str, Tensor]:
    return {"l0": _per_token(acts, acts.values != 0), "l1": _per_token(acts, as_double(acts.values).abs())}


def _per_token(acts: SparseActs, values: Tensor) -> Tensor:
    """float64 [n]: sums over the stored entries of each token."""
    running = torch.nn.functional.pad(as_double(values).cumsum(0), (1, 0))
    return running[acts.crow_indices[1:].to(running.device)] - running[acts.crow_indices[:-1].to(running.device)]
