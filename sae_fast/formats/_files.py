"""Reading and writing the local files of any format: clear errors, and no half-written result."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_fast.errors import FormatError, NonFiniteError


def local_path(source: str | Path) -> Path:
    """The existing file or folder that `source` names; names on a hub and missing paths raise `FormatError`."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    text = str(source)
    if text.startswith(("hf:", "http:", "https:")) or (":" in text and "/" in text.split(":")[0]):
        raise FormatError(
            f"{text}: names a place on a hub, and this version reads local files only",
            advice="Download the folder and load it by its path",
        )
    raise FormatError(f"{text}: no such file or folder")


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`."""
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise FormatError(f"{file}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise FormatError(f"{file}", expected="a JSON object", got=type(content).__name__)
    return content


def require_tensors(file: Path, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `FormatError` unless `shapes`, found in `file`, are exactly those of `expected`."""
    missing, unknown = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
    if missing or unknown:
        parts = [f"{word} tensors {', '.join(names)}" for word, names in (("missing", missing), ("unknown", unknown)) if names]
        raise FormatError(f"{file}: {' and '.join(parts)}", expected=", ".join(sorted(expected)))
    for name, shape in expected.items():
        if tuple(shapes[name]) != shape:
            raise FormatError(f"{file}: {name}", expected=list(shape), got=list(shapes[name]))


def require_finite(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise `NonFiniteError` naming the first tensor that holds NaN, or infinity where it makes no sense."""
    for name, tensor in tensors.items():
        low, high = torch.aminmax(tensor)
        # A threshold of infinity is a feature that was switched off.
        if not torch.isfinite(low) or not (torch.isfinite(high) or (name == "threshold" and not torch.isnan(high))):
            raise NonFiniteError(
                f"{file}: {name} holds NaN or infinite values", advice="The file is damaged or training diverged"
            )


def write_files(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> None:
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


def _give_ordinary_permissions(file: Path) -> None:
    """Mkstemp makes a file that only its owner reads; give it what the umask allows instead."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)
