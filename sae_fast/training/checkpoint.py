"""Checkpoints of a run: a file each, written whole or not at all, the newest two kept."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from sae_fast.errors import MismatchError, StoreError
from sae_fast.files import write_whole
from sae_fast.training.trainer import Trainer

KEPT = 2
_NAME = re.compile(r"checkpoint-(\d+)\.safetensors")


def save_checkpoint(folder: Path, trainer: Trainer, settings: Mapping[str, Any]) -> Path:
    """Write `checkpoint-<step>.safetensors` and remove the oldest beyond two. `settings` (JSON) say which run it is of.

    Raises `DiskFullError`, with the checkpoints that are there left in place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"checkpoint-{trainer.step:08}.safetensors"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trainer.state().items()}
    write_whole(file, save(tensors, metadata={"settings": json.dumps(settings, sort_keys=True)}))
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink()
    return file


def checkpoints(folder: Path) -> list[Path]:
    """Those of a folder, the newest last."""
    return sorted(path for path in folder.glob("checkpoint-*.safetensors") if _NAME.fullmatch(path.name))


def resume(folder: Path, trainer: Trainer, settings: Mapping[str, Any]) -> bool:
    """Take up the newest checkpoint that is whole; False where there is none.

    Raises `MismatchError` where it belongs to a run with other settings, naming them, and `StoreError` where there are
    checkpoints and none can be read.
    """
    found = checkpoints(folder)
    reasons = []
    for file in reversed(found):
        try:
            with safe_open(file, framework="pt") as opened:
                there = json.loads((opened.metadata() or {}).get("settings", "{}"))
            _require_same(file, there, json.loads(json.dumps(settings)))
            trainer.load_state(load_file(file))
        except (SafetensorError, ValueError, OSError) as error:
            reasons.append(f"{file.name}: {error}")
        else:
            return True
    if found:
        raise StoreError(f"{folder}: no checkpoint can be read ({'; '.join(reasons)})", advice="Remove them to begin anew")
    return False


def _require_same(file: Path, there: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    differing = sorted(key for key in there.keys() | settings.keys() if there.get(key) != settings.get(key))
    if differing:
        changes = "; ".join(f"{key}: was {there.get(key)}, is {settings.get(key)}" for key in differing)
        raise MismatchError(
            f"{file}: the checkpoint belongs to a run with other settings ({changes})",
            advice="Restore them, or give the run another folder",
        )
