"""Writing the files of any format: the same bytes for the same content, and no half-written result."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_fast.errors import ArgumentError

Writer = Callable[[Path], object]
"""Writes one file, given where."""


def json_writer(content: Mapping[str, Any]) -> Writer:
    """JSON with sorted keys. Raises `ArgumentError` for what JSON cannot hold, before anything is written."""
    try:
        text = json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"metadata cannot be written as JSON ({error})") from error
    return lambda file: file.write_text(text, encoding="utf-8")


def safetensors_writer(tensors: Mapping[str, Tensor]) -> Writer:
    """A safetensors file."""
    return lambda file: save_file(_plain(tensors), file)


def pickle_writer(tensors: Mapping[str, Tensor]) -> Writer:
    """What `torch.load` reads, a plain dictionary of tensors."""

    def write(file: Path) -> None:
        # Given an open file, torch does not write the file's name into it.
        with file.open("wb") as opened:
            torch.save(_plain(tensors), opened)

    return write


def write_files(folder: Path, writers: Mapping[str, Writer]) -> None:
    """Write the files of `folder` under other names and rename them when all are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[Path, Path] = {}
    try:
        for name, write in writers.items():
            handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
            os.close(handle)
            written[Path(temporary)] = folder / name
            write(Path(temporary))
            _give_ordinary_permissions(Path(temporary))
        for source, target in written.items():
            source.replace(target)
    finally:
        for source in written:
            with suppress(FileNotFoundError):
                source.unlink()


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, each with memory of its own: views would be written with all that they view."""
    plain = {}
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        plain[name] = tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
    return plain


def _give_ordinary_permissions(file: Path) -> None:
    """Mkstemp makes a file that only its owner reads; give it what the umask allows instead."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)
