"""Checkpoints of a run: a safetensors file each, written whole or not at all, the newest two kept.

Its metadata hold the settings of the run, and the SHA-256 of settings and tensors: safetensors does not notice a changed bit.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

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
    tensors = {}
    for name, tensor in trainer.each_state():
        if trainer.layout.everyone.is_first:
            tensors[name] = tensor.detach().cpu().contiguous()
    if not trainer.layout.everyone.is_first:
        return file
    text = json.dumps(settings, sort_keys=True)
    # One entry: safetensors writes several in any order.
    about = json.dumps({"settings": text, "sha256": _digest(text, tensors)})
    write_whole(file, save(tensors, metadata={"run": about}))
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
            with safe_open(file, "pt") as content:
                metadata, tensors = json.loads(content.metadata()["run"]), _Stored(content)
                if metadata.get("sha256") != _digest(metadata["settings"], tensors):
                    raise ValueError("it is damaged: its checksum does not fit")
                _require_same(file, json.loads(metadata["settings"]), json.loads(json.dumps(settings)))
                trainer.load_state(tensors)
        except (SafetensorError, ValueError, KeyError, OSError) as error:
            reasons.append(f"{file.name}: {error}")
        else:
            return True
    if found:
        raise StoreError(f"{folder}: no checkpoint can be read ({'; '.join(reasons)})", advice="Remove them to begin anew")
    return False


class _Stored(Mapping[str, Tensor]):
    """The tensors of an open file, each read when it is asked for."""

    def __init__(self, content: Any) -> None:
        self.content, self.names = content, list(content.keys())

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self.content.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _digest(settings: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(settings.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _require_same(file: Path, there: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    differing = sorted(key for key in there.keys() | settings.keys() if there.get(key) != settings.get(key))
    if differing:
        changes = "; ".join(f"{key}: was {there.get(key)}, is {settings.get(key)}" for key in differing)
        raise MismatchError(
            f"{file}: the checkpoint belongs to a run with other settings ({changes})",
            advice="Restore them, or give the run another folder",
        )
