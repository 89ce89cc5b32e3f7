"""Published SAE formats: `load` finds out which one it has by content, `save` writes one.

One file per format, each with `find`, `read_header`, `load` and `save`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from sae_fast.errors import ArgumentError, FormatError
from sae_fast.formats import gemma_scope, saelens
from sae_fast.formats._files import local_path
from sae_fast.sae import SAE, VECTORS_OF, SAEConfig

__all__ = ["SourceInfo", "info", "load", "save"]

_FORMATS: dict[str, ModuleType] = {"saelens": saelens, "gemma_scope": gemma_scope}


@dataclass(frozen=True)
class SourceInfo:
    """What is known of an SAE on disk without reading its weights."""

    path: Path
    """The folder or file that holds it."""
    format: str
    """`saelens` or `gemma_scope`."""
    cfg: SAEConfig
    """Its configuration."""
    dtype: torch.dtype
    """dtype of its weights."""

    @property
    def n_parameters(self) -> int:
        """Number of weights, biases and thresholds."""
        cfg = self.cfg
        return cfg.d_sae * (cfg.d_in + cfg.d_out + len(VECTORS_OF[cfg.architecture])) + cfg.d_out

    @property
    def memory_bytes(self) -> int:
        """Memory of the loaded SAE in its own dtype; vectors are held in float32 or wider."""
        cfg = self.cfg
        matrices = cfg.d_sae * (cfg.d_in + cfg.d_out)
        return matrices * self.dtype.itemsize + (self.n_parameters - matrices) * max(4, self.dtype.itemsize)


def load(
    source: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    fold_decoder_norm: bool = False,
    *,
    hook_name: str | None = None,
    model_name: str | None = None,
    norm_scaling_factor: float | None = None,
) -> SAE:
    """Read an SAE from a local folder or file of any known format.

    `dtype` (a torch dtype or its name) is that of the weights, by default as stored. `fold_decoder_norm` gives decoder rows
    norm one (`SAE.fold_decoder_norm`); by default the SAE is as published. `hook_name` and `model_name` replace what the files
    say, for formats that do not say it. `norm_scaling_factor` is the factor by which training scaled its inputs, for SAELens
    folders that need it and do not hold it.

    Raises `FormatError` naming the file and what was expected, and `NonFiniteError` for NaN or infinite weights.
    """
    torch_dtype = _torch_dtype(dtype)
    _, module, place = _detect(source)
    sae: SAE = module.load(place, device, norm_scaling_factor)
    cfg = replace(sae.cfg, hook_name=hook_name or sae.cfg.hook_name, model_name=model_name or sae.cfg.model_name)
    sae = replace(sae, cfg=cfg)
    if fold_decoder_norm:
        wider = torch.promote_types(sae.dtype, torch_dtype or sae.dtype)
        sae = sae.to(dtype=wider).fold_decoder_norm()
    return sae if torch_dtype is None else sae.to(dtype=torch_dtype)


def info(source: str | Path) -> SourceInfo:
    """What the headers of an SAE on disk say. Raises `FormatError`."""
    name, module, place = _detect(source)
    cfg, dtype = module.read_header(place)
    return SourceInfo(place, name, cfg, dtype)


def save(sae: SAE, folder: str | Path, format: str = "saelens") -> None:  # noqa: A002
    """Write `sae` into `folder`, which is made if need be, as "saelens" or "gemma_scope".

    Files appear whole or not at all, and the same SAE gives the same bytes. Raises `ArgumentError` for an unknown format, or
    for an SAE that the format cannot hold.
    """
    if format not in _FORMATS:
        raise ArgumentError("format", expected=f"one of {', '.join(_FORMATS)}", got=repr(format))
    target = Path(folder).expanduser()
    if target.exists() and not target.is_dir():
        raise ArgumentError(f"{target}", expected="a folder", got="a file")
    _FORMATS[format].save(sae, target)


def _detect(source: str | Path) -> tuple[str, ModuleType, Path]:
    """(name, module, place to read) of the format of `source`."""
    path = local_path(source)
    for name, module in _FORMATS.items():
        place = module.find(path)
        if place is not None:
            return name, module, place
    found = sorted(entry.name for entry in path.iterdir())[:8] if path.is_dir() else [path.name]
    raise FormatError(
        f"{path}: no SAE found",
        expected=f"{saelens.CONFIG} with {saelens.WEIGHTS} (SAELens), or {gemma_scope.PARAMS} (Gemma Scope)",
        got=", ".join(found) or "an empty folder",
    )


def _torch_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if not isinstance(dtype, str):
        return dtype
    found: Any = getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ArgumentError("dtype", expected="float32, float64, float16 or bfloat16", got=repr(dtype))
    return found
