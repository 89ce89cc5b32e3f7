"""The tensors of one file, by key: shapes and dtypes from the header, values when asked for. Nothing in a file can run code."""

import mmap
import pickle
import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sae_fast.errors import FormatError
from sae_fast.sources.layout import SAFETENSORS_DTYPES, LocalRanges, npz_layout
from sae_fast.sources.torch_layout import declared_bytes, flattened

ENDINGS = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".ckpt")
"""Endings of tensor files."""


class TensorFile(ABC):
    """The tensors of one file by key."""

    place: str
    """The file as messages call it."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of each tensor."""
    dtypes: Mapping[str, torch.dtype]
    """dtype of each tensor."""
    values: Mapping[str, Any]
    """What a pickle holds beside its tensors (numbers, texts), by dotted key; empty for other files."""

    @abstractmethod
    def read(self, key: str) -> Tensor:
        """One tensor; memory-mapped where the file allows it, so do not write into it."""

    def read_along(self, key: str, axis: int, indices: Tensor) -> Tensor:
        """`read(key).index_select(axis, indices)`, reading no more than the file makes necessary."""
        return self.read(key).index_select(axis, indices)


def open_tensor_file(file: Path, place: str) -> TensorFile:
    """Open a file by the ending of its place. Raises `FormatError` where the content is something else."""
    ending = PurePosixPath(place).suffix
    if ending == ".safetensors":
        return SafetensorsFile(file, place)
    if ending == ".npz":
        return NpzFile(file, place)
    if ending in ENDINGS:
        return TorchFile(file, place)
    raise FormatError(place, expected=f"a file that ends in {', '.join(ENDINGS)}", got=ending or "no ending")


class SafetensorsFile(TensorFile):
    """A safetensors file, memory-mapped."""

    def __init__(self, file: Path, place: str) -> None:
        self.place, self.values = place, {}
        try:
            # Stays open for as long as this object: tensors are read later.
            self._opened = safe_open(file, framework="pt")
            slices = {key: self._opened.get_slice(key) for key in self._opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise FormatError(f"{place}: not a safetensors file ({error})") from error
        self.shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
        names = {key: part.get_dtype() for key, part in slices.items()}
        for key, name in names.items():
            if name not in SAFETENSORS_DTYPES:
                raise FormatError(f"{place}: dtype of {key}", expected=f"one of {', '.join(SAFETENSORS_DTYPES)}", got=name)
        self.dtypes = {key: SAFETENSORS_DTYPES[name] for key, name in names.items()}

    def read(self, key: str) -> Tensor:
        """See `TensorFile`."""
        return self._opened.get_tensor(key)


class NpzFile(TensorFile):
    """NumPy's archive of arrays; object arrays, which are pickles, are refused."""

    def __init__(self, file: Path, place: str) -> None:
        self.place, self.values, self._file = place, {}, file
        self._layout = npz_layout(LocalRanges(file, place))
        self.shapes = {key: span.shape for key, span in self._layout.items()}
        self.dtypes = {key: span.dtype for key, span in self._layout.items()}

    def read(self, key: str) -> Tensor:
        """See `TensorFile`."""
        try:
            with np.load(self._file, allow_pickle=False) as arrays:
                return torch.from_numpy(arrays[key])
        except (ValueError, OSError, zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise FormatError(f"{self.place}: {key} cannot be read ({error})") from error

    def read_along(self, key: str, axis: int, indices: Tensor) -> Tensor:
        """See `TensorFile`; an array that is not compressed is memory-mapped."""
        span = self._layout[key]
        if span.offset is None:
            return super().read_along(key, axis, indices)
        values = np.memmap(self._file, np.uint8, "r", span.offset, (span.n_bytes,))
        # NumPy, unlike torch, takes from where an archive happened to put an array, aligned or not.
        array = values.view(torch.empty(0, dtype=span.dtype).numpy().dtype).reshape(span.shape)
        return torch.from_numpy(np.take(array, indices.numpy(), axis))


class TorchFile(TensorFile):
    """What `torch.save` wrote, read with `weights_only`: nested dictionaries of tensors and values, keys joined by dots."""

    def __init__(self, file: Path, place: str) -> None:
        self.place = place
        try:
            flat = dict(flattened(_unpickled(file, place)))
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{place}: not tensors by name ({error})") from error
        self._tensors = {key: value.detach() for key, value in flat.items() if isinstance(value, Tensor)}
        for key, tensor in self._tensors.items():
            if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
                raise FormatError(f"{place}: {key} of shape {list(tensor.shape)} is more than what the file holds for it")
        self.values = {key: value for key, value in flat.items() if not isinstance(value, Tensor)}
        self.shapes = {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}
        self.dtypes = {key: tensor.dtype for key, tensor in self._tensors.items()}

    def read(self, key: str) -> Tensor:
        """See `TensorFile`."""
        return self._tensors[key]


def _unpickled(file: Path, place: str) -> Any:
    try:
        is_archive = zipfile.is_zipfile(file)
        if not is_archive:
            _check_declared_bytes(file)
        return torch.load(file, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        # Torch's message advises how to run the code nevertheless: only the name of what it met is passed on.
        if met := re.search(r"GLOBAL ([\w.]+)|^([\w.]+\.\w+)$", str(error)):
            raise FormatError(
                f"{place}: holds more than tensors and plain values ({met[1] or met[2]})",
                advice="Files that would run code are not read",
            ) from error
        raise FormatError(f"{place}: not a file of torch.save, or damaged (its pickle makes no sense)") from error
    except Exception as error:  # torch raises whatever its parsers meet in a damaged file
        raise FormatError(f"{place}: not a file of torch.save, or damaged ({type(error).__name__}: {error})") from error


def _check_declared_bytes(file: Path) -> None:
    # A mapped file: whatever length its index speaks of, no more is read than there is.
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        declared, there = declared_bytes(cast("BinaryIO", content)), len(content)
    if declared > there:
        raise ValueError(f"its index speaks of {declared} bytes of tensors in a file of {there}")
