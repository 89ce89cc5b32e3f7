"""Where SAEs read and write in a language model, and what they read of its activations."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_fast.config import SAEConfig
from sae_fast.errors import ArgumentError
from sae_fast.sae import SAE

SAEs = SAE | Sequence[SAE] | Mapping[str, SAE]
"""One SAE, several, or several by the hook where each reads (instead of the one that its configuration names); the hooks of a
crosscoder are joined by "+"."""

_NOT_IN_THE_STREAM = ("hook_z", "hook_pre", "hook_post", "hook_normalized")
"""Hooks in spaces of their own, which centring the weights that write to the residual stream leaves as they are."""


@dataclass(frozen=True, eq=False)
class Place:
    """An SAE and where it reads and writes."""

    sae: SAE
    reads: tuple[str, ...]
    """One hook, or those of a crosscoder in its order."""
    writes: tuple[str, ...]
    """One hook, those of a cross-layer transcoder in the order of its decoders, or those of a crosscoder."""

    @property
    def read(self) -> str:
        """One name for where it reads: the hook, or those of a crosscoder joined by "+"."""
        return "+".join(self.reads)

    @property
    def name(self) -> str:
        """What its entries of a cache are named after: the hook where it writes, or `read` if it writes at several."""
        return self.writes[0] if len(self.writes) == 1 else self.read

    @property
    def cross_layer(self) -> bool:
        """It writes through a decoder a hook, and others may write there too."""
        return bool(self.sae.cfg.hook_names_out)

    @property
    def crosscoder(self) -> bool:
        """It reads at several hooks and writes at the same, so that what it reads must be known before it writes."""
        return self.sae.cfg.crosscoder

    @property
    def widths(self) -> tuple[tuple[str, str, int], ...]:
        """(field of the configuration, hook, width that it asks for) of all its hooks."""
        cfg = self.sae.cfg
        if cfg.crosscoder:
            return tuple(("hook_widths", hook, width) for hook, width in zip(self.reads, cfg.hook_widths, strict=True))
        return ("d_in", self.read, cfg.d_in), *(("d_out", hook, cfg.d_out) for hook in self.writes)

    def is_at(self, hook_name: str) -> bool:
        """Whether a hook name means this SAE."""
        return hook_name in (self.read, self.name) or (self.crosscoder and hook_name in self.reads)

    def input(self, activations: Mapping[str, Tensor]) -> Tensor:
        """What it encodes, `[..., d_in]`, of the model's activations at its hooks; see `sae_input`."""
        parts = [sae_input(self.sae, activations[hook], hook) for hook in self.reads]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def places(saes: SAEs) -> tuple[Place, ...]:
    """Each SAE with its hooks.

    Raises:
        ArgumentError: an SAE without a hook name, or two that would write at one hook (of a cross-layer transcoder several
            may, for what they write is summed).
    """
    if isinstance(saes, SAE):
        saes = [saes]
    given: Iterable[tuple[str | None, SAE]] = saes.items() if isinstance(saes, Mapping) else ((None, sae) for sae in saes)
    found = tuple(_place(hook_name, sae) for hook_name, sae in given)
    for index, place in enumerate(found):
        for other in found[:index]:
            shared = set(place.writes) & set(other.writes)
            if shared and not (place.cross_layer and other.cross_layer and place.read != other.read):
                advice = "Run them one after the other, or give the second another hook"
                raise ArgumentError("saes", expected="one SAE a hook", got=f"two that write at {min(shared)}", advice=advice)
    return found


def sae_input(sae: SAE, activation: Tensor | Mapping[str, Tensor], hook_name: str | None = None) -> Tensor:
    """What an SAE reads, given the model's activation `[..., d]`: on the SAE's device, and centred if `cfg.centred`.

    An SAE that was trained on TransformerLens's processed weights has seen the residual stream, and whatever is added to it,
    without its mean over `d_model`. Activations inside attention, MLP and norms are the same with and without that processing.

    Args:
        sae: the SAE.
        activation: at the hook that it reads (of a crosscoder, side by side), or activations by hook.
        hook_name: the hook of a tensor, if not where the configuration says; for a crosscoder, which of its hooks that is.

    Raises:
        ArgumentError: activations by hook for an SAE that does not say where it reads.
    """
    if isinstance(activation, Mapping):
        return _place(None, sae).input(activation)
    if sae.cfg.crosscoder and hook_name is None:
        hooks: Sequence[str | None] = sae.cfg.hook_names or [None] * len(sae.cfg.hook_widths)
        return torch.cat([_at_hook(sae, x, hook) for hook, x in zip(hooks, sae.parts(activation), strict=True)], -1)
    return _at_hook(sae, activation, hook_name or sae.cfg.hook_name)


def in_stream(hook_name: str | None) -> bool:
    """Whether the activation is of the residual stream or added to it, and so loses its mean in processed weights."""
    return not (hook_name or "").endswith(_NOT_IN_THE_STREAM)


def _at_hook(sae: SAE, activation: Tensor, hook_name: str | None) -> Tensor:
    x = activation.to(sae.device)
    if not sae.cfg.centred or not in_stream(hook_name):
        return x
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide - wide.mean(-1, keepdim=True)


def _place(hook_name: str | None, sae: SAE) -> Place:
    cfg = sae.cfg
    reads = cfg.hooks_read if hook_name is None else tuple(hook_name.split("+")) if cfg.crosscoder else (hook_name,)
    if not reads or (cfg.crosscoder and len(reads) != len(cfg.hook_widths)):
        raise _unplaced(sae, cfg, hook_name)
    if cfg.crosscoder:
        return Place(sae, reads, reads)
    elsewhere = cfg.hook_name_out if cfg.hook_name_out != cfg.hook_name else None
    return Place(sae, reads, cfg.hook_names_out or (elsewhere or reads[0],))


def _unplaced(sae: SAE, cfg: SAEConfig, hook_name: str | None) -> ArgumentError:
    if models := cfg.metadata.get("models"):
        listed = ", ".join(map(str, models))
        advice = "Run each model by itself, join their activations in that order with torch.cat, and call encode and decode"
        return ArgumentError(f"{sae}", expected="hooks of one model", got=f"a crosscoder of several: {listed}", advice=advice)
    if cfg.crosscoder:
        advice = "Load it with hook_names=[…]"
        expected = f"the names of the {len(cfg.hook_widths)} hooks that it reads"
        return ArgumentError(f"{sae}", expected=expected, got=hook_name or "none", advice=advice)
    advice = "Give {hook name: SAE} instead"
    return ArgumentError(f"{sae}", expected="the name of the hook that it reads", got="none", advice=advice)
