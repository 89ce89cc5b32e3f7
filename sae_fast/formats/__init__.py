"""Published SAE formats: `load` finds out which one it has by content, `save` writes one.

One file per format, each with `describe` (what an SAE is, from headers and configuration alone) and some with `save`.
`_assemble` turns a description into an `SAE`; all checks of keys, shapes, dtypes and values are there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sae_fast.config import SAEConfig, tensor_shapes
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.formats import (
    circuit_tracer_clt,
    circuit_tracer_plt,
    connor_rob,
    crosscoder_learning,
    crosscoder_model_diff,
    deepseek,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    llama_scope,
    openai,
    openmoss,
    own,
    qwen_scope,
    saelens,
    sparsify,
    temporal,
)
from sae_fast.formats._assemble import assemble, check, dtype_of, features_of
from sae_fast.formats._description import Description, Given
from sae_fast.formats._fetching import bring
from sae_fast.formats._naming import open_named, with_known
from sae_fast.sae import SAE
from sae_fast.sources import Source

__all__ = ["READABLE", "WRITABLE", "SourceInfo", "fetch", "info", "load", "save", "with_hooks"]

_FORMATS: dict[str, ModuleType] = {
    own.NAME: own,
    "saelens": saelens,
    "gemma_scope": gemma_scope,
    "gemma_scope_2": gemma_scope_2,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
    "openai": openai,
    "llama_scope": llama_scope,
    "openmoss": openmoss,
    "qwen_scope": qwen_scope,
    "circuit_tracer_plt": circuit_tracer_plt,
    "circuit_tracer_clt": circuit_tracer_clt,
    "connor_rob": connor_rob,
    "deepseek": deepseek,
    "goodfire": goodfire,
    "temporal": temporal,
    "crosscoder_learning": crosscoder_learning,
    "crosscoder_model_diff": crosscoder_model_diff,
}

READABLE = tuple(_FORMATS)
"""Names of the formats that `load` recognises."""
WRITABLE = tuple(name for name, module in _FORMATS.items() if hasattr(module, "save"))
"""Names of the formats that `save` writes."""


@dataclass(frozen=True)
class SourceInfo:
    """What is known of an SAE without reading its weights."""

    path: str
    """What was named."""
    format: str
    """One of `READABLE`."""
    cfg: SAEConfig
    """Its configuration."""
    dtype: torch.dtype
    """dtype of its weights."""
    file_bytes: Mapping[str, int | None]
    """Length of each file of weights; None where a server does not tell."""
    is_to_be_fetched: bool
    """Some of these files are not on this machine yet."""

    @property
    def n_parameters(self) -> int:
        """Number of weights, biases and thresholds."""
        return sum(torch.Size(shape).numel() for shape in tensor_shapes(self.cfg).values())

    @property
    def memory_bytes(self) -> int:
        """Memory of the loaded SAE in its own dtype; vectors are held in float32 or wider."""
        return sum(
            torch.Size(shape).numel() * (self.dtype.itemsize if len(shape) > 1 else max(4, self.dtype.itemsize))
            for shape in tensor_shapes(self.cfg).values()
        )


def load(
    source: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    fold_decoder_norm: bool = False,
    *,
    features: Sequence[int] | Tensor | None = None,
    encoder_only: bool = False,
    hook_name: str | None = None,
    hook_names: Sequence[str] = (),
    model_name: str | None = None,
    norm_scaling_factor: float | None = None,
) -> SAE:
    """Read an SAE of any known format.

    Args:
        source: a folder or file on this machine, `hf://owner/repo/path@revision`, an address of a file server, or a name of
            `sae_fast.catalogue` such as `gpt2-small-res-jb/blocks.8.hook_resid_pre`.
        device: where its tensors go.
        dtype: of the weights (a torch dtype or its name); as stored if not given.
        fold_decoder_norm: give decoder rows norm one (`SAE.fold_decoder_norm`); by default the SAE is as published.
        features: read these features only, in this order; for architectures whose features do not compete.
        encoder_only: leave the decoder unread.
        hook_name: replaces what the files say, for formats that do not say it.
        hook_names: likewise, the hooks of a crosscoder in its order.
        model_name: likewise.
        norm_scaling_factor: the factor by which training scaled its inputs, for sources that need it and do not hold it.

    Raises:
        FormatError: naming the file, what was expected and what was found.
        SourceError: for names that lead nowhere, with the nearest ones; `UnreachableError` without a network, with what to
            fetch and where to put it.
        NonFiniteError: for NaN or infinite weights.
        ArgumentError: for an option that makes no sense for this SAE.
    """
    torch_dtype = _torch_dtype(dtype)
    opened, given = open_named(source, norm_scaling_factor)
    _, description = _detect(opened, given)
    if norm_scaling_factor is not None and not description.takes_scale:
        raise ArgumentError("norm_scaling_factor: this SAE needs none, or its files hold it")
    chosen = None if features is None else features_of(features, description.cfg.d_sae)
    if chosen is not None:
        # Where features compete, this is refused before anything is read.
        description.cfg.select(chosen.tolist())
    elif not encoder_only:
        opened.folder.bring(_files(description))
    sae = assemble(opened, description, chosen, encoder_only, device, torch_dtype)
    cfg = with_hooks(with_known(sae.cfg, given), hook_name, hook_names)
    sae = sae.replace(replace(cfg, model_name=model_name or cfg.model_name))
    if fold_decoder_norm:
        wider = torch.promote_types(sae.dtype, torch_dtype or sae.dtype)
        sae = sae.to(dtype=wider).fold_decoder_norm()
    return sae if torch_dtype is None else sae.to(dtype=torch_dtype)


def info(source: str | Path) -> SourceInfo:
    """What the headers of an SAE say; keys, shapes and dtypes are checked, weights are not read. Raises `FormatError`."""
    opened, given = open_named(source)
    name, description = _detect(opened, given if given.norm_scaling_factor else replace(given, norm_scaling_factor=1.0))
    check(opened, description)
    sizes = {file: opened.folder.size(file) for file in _files(description)}
    is_to_be_fetched = not all(map(opened.folder.is_here, sizes))
    cfg = with_known(description.cfg, given)
    return SourceInfo(opened.path, name, cfg, dtype_of(opened, description), sizes, is_to_be_fetched)


def fetch(source: str | Path, mirror: str | Path | None = None) -> list[Path]:
    """Bring the files of an SAE, and no others, onto this machine; returns where they are.

    They go into the cache, or with `mirror` into that folder as owner/repo/path, which is what `SAE_FAST_MIRROR` may name on a
    machine without a network. Raises as `load` does, but reads no weights.
    """
    opened, given = open_named(source)
    _, description = _detect(opened, given if given.norm_scaling_factor else replace(given, norm_scaling_factor=1.0))
    return bring(opened, _files(description), None if mirror is None else Path(mirror).expanduser())


def save(sae: SAE, folder: str | Path, format: str = "saelens") -> None:  # noqa: A002
    """Write `sae` into `folder`, which is made if need be, in one of the formats `WRITABLE`.

    Files appear whole or not at all, and the same SAE gives the same bytes. Raises `ArgumentError` for an unknown format, or
    for an SAE that the format cannot hold.
    """
    if format not in WRITABLE:
        raise ArgumentError("format", expected=f"one of {', '.join(WRITABLE)}", got=repr(format))
    target = Path(folder).expanduser()
    if target.exists() and not target.is_dir():
        raise ArgumentError(f"{target}", expected="a folder", got="a file")
    _FORMATS[format].save(sae, target)


def with_hooks(cfg: SAEConfig, hook_name: str | None = None, hook_names: Sequence[str] = ()) -> SAEConfig:
    """With the hooks that a caller names. Raises `ArgumentError` for one hook of a crosscoder, or several of another SAE."""
    if cfg.crosscoder and hook_name is not None:
        advice = f"Give hook_names, {len(cfg.hook_widths)} of them"
        raise ArgumentError("hook_name: a crosscoder reads at several hooks", got=repr(hook_name), advice=advice)
    if hook_names and not cfg.crosscoder:
        advice = "Give hook_name"
        raise ArgumentError("hook_names: this SAE is no crosscoder, it reads at one hook", got=list(hook_names), advice=advice)
    return replace(cfg, hook_name=hook_name or cfg.hook_name, hook_names=tuple(hook_names) or cfg.hook_names)


def _files(description: Description) -> list[str]:
    return sorted({stored.file for stored in description.tensors.values()})


def _detect(source: Source, given: Given) -> tuple[str, Description]:
    """(name, description) by the one format that knows the content. Raises `FormatError` where none does, or several do."""
    found = {name: module.describe(source, given) for name, module in _FORMATS.items()}
    known = {name: description for name, description in found.items() if description is not None}
    if len(known) > 1:
        raise FormatError(
            f"{source.path}: its content fits several formats ({', '.join(known)})", advice="Name the file that is meant"
        )
    if not known:
        raise FormatError(
            f"{source.path}: no SAE found",
            expected=f"a file or folder in one of the formats {', '.join(READABLE)}",
            got=", ".join(list(source.names())[:8]) or "an empty folder",
            advice="docs/formats.md says what each looks like",
        )
    return next(iter(known.items()))


def _torch_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if not isinstance(dtype, str):
        return dtype
    found: Any = getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ArgumentError("dtype", expected="float32, float64, float16 or bfloat16", got=repr(dtype))
    return found
