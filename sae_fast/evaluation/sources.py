"""What `sae-fast eval` is given: an SAE, or a folder with the layers of a cross-layer transcoder."""

import re
from pathlib import Path

import sae_fast
from sae_fast.errors import ArgumentError
from sae_fast.evaluation.subjects import Measured
from sae_fast.sae import SAE

_LAYERS = (re.compile(r"layer-(\d+)"), re.compile(r"W_enc_(\d+)\.safetensors"))
"""Folders as `sae-fast train` writes them; files of circuit-tracer."""


def load_measured(source: str | Path, device: str = "cpu", hook_name: str | None = None) -> Measured:
    """Load an SAE; or all layers of a cross-layer transcoder, `{"layer-0": …, "layer-1": …}`, from the folder that holds them.

    With `hook_name` one SAE is meant, the one that reads there; the hooks of a crosscoder are joined by "+". Errors as of
    `sae_fast.load`, and:

    Raises:
        ArgumentError: the folder holds SAEs that are not the layers of one cross-layer transcoder.
    """
    layers = {} if hook_name is not None else _layers(Path(source))
    if hook_name is not None and "+" in hook_name:
        return sae_fast.load(source, device=device, hook_names=hook_name.split("+"))
    if not layers:
        return sae_fast.load(source, device=device, hook_name=hook_name)
    found = {f"layer-{number}": sae_fast.load(path, device=device) for number, path in sorted(layers.items())}
    strangers = [name for name, sae in found.items() if not sae.cfg.hook_names_out]
    if strangers:
        got = f"{strangers[0]} writes at one hook of its own"
        advice = "Give each SAE of the folder as a --sae of its own"
        raise ArgumentError(f"{source}", expected="layers of one cross-layer transcoder", got=got, advice=advice)
    return found


def single(saes: dict[str, Measured]) -> dict[str, SAE]:
    """Every SAE by itself, layers as `name/layer`."""
    found: dict[str, SAE] = {}
    for name, given in saes.items():
        found |= {name: given} if isinstance(given, SAE) else {f"{name}/{layer}": sae for layer, sae in given.items()}
    return found


def _layers(folder: Path) -> dict[int, Path]:
    """The layers in a folder, by number; none where there is only one, which `load` reads by itself."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    for pattern in _LAYERS:
        found = {int(match[1]): path for path in inside if (match := pattern.fullmatch(path.name))}
        if len(found) > 1 or (found and next(iter(found.values())).is_dir()):
            return found
    return {}
