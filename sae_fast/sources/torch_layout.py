"""Where the tensors of a `torch.save` archive lie in it, from its index alone.

The index is a pickle; it is read by an unpickler that knows containers and the description of a tensor and nothing else, so
that nothing in it can run. What needs more is left to whoever reads the whole file.
"""

import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import torch

from sae_fast.sources.layout import Blocks, Ranges, Span, data_offset

LARGEST_INDEX = 1 << 26
"""Largest index that is read, in bytes."""
MOST_ENTRIES = 1 << 16
"""Most tensors and other values of a file."""
MOST_DEPTH = 32
"""Most dictionaries around one of them."""

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
"""dtypes by the names that the index has for what holds numbers."""

UNREADABLE = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, RecursionError, NotImplementedError,
    OverflowError, MemoryError, zipfile.BadZipFile, pickle.UnpicklingError, struct.error,
)  # fmt: skip
"""What a damaged or unfamiliar archive makes its readers raise."""


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str
    numel: int


@dataclass(frozen=True)
class _Stored:
    """A tensor as the index describes it."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def torch_layout(file: Ranges) -> tuple[Mapping[str, Span], Mapping[str, Any]] | None:
    """(tensors, other values) by keys joined with dots; None where this is no archive as `torch.save` makes them now."""
    try:
        with zipfile.ZipFile(cast("BinaryIO", Blocks(file))) as archive:
            (index,) = (member for member in archive.infolist() if member.filename.endswith("/data.pkl"))
            folder = index.filename.removesuffix("data.pkl")
            order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in archive.namelist() else b"little"
            if index.file_size > LARGEST_INDEX or order != b"little":
                return None
            flat = dict(flattened(_Index(io.BytesIO(archive.read(index))).load()))
            stored = {key: value for key, value in flat.items() if isinstance(value, _Stored)}
            spans = {key: _span(file, archive, folder, value) for key, value in stored.items()}
    except UNREADABLE:
        return None
    return spans, {key: value for key, value in flat.items() if key not in spans}


def flattened(value: Any) -> list[tuple[str, Any]]:
    """The leaves of nested dictionaries, by their keys joined with dots.

    Raises `ValueError` for dictionaries that hold themselves, or one another over and over.
    """
    pairs: list[tuple[str, Any]] = []
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    for _ in range(MOST_ENTRIES):
        if not waiting:
            return pairs
        path, inner = waiting.pop()
        if not isinstance(inner, Mapping):
            pairs.append((".".join(path), inner))
        elif len(path) < MOST_DEPTH:
            waiting += [((*path, str(key)), inner[key]) for key in reversed(inner)]
        else:
            raise ValueError(f"dictionaries inside one another to more than {MOST_DEPTH} levels")
    raise ValueError(f"more than {MOST_ENTRIES} entries")


def declared_bytes(file: BinaryIO) -> int:
    """Bytes of all tensors by the index of a file that is no archive, as `torch.save` made them before version 1.6.

    Torch takes that much memory before it reads any of it. Raises whatever a damaged index makes of itself.
    """
    for index in (parts := [_Index(file) for _ in range(4)]):
        index.load()
    index = parts[-1]
    return sum(storage.numel * storage.dtype.itemsize for storage in index.storages.values())


class _Index(pickle._Unpickler):
    """Knows what an index of tensors is made of.

    The unpickler in Python: the one in C takes memory for whatever number of remembered objects an index speaks of.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        found = _KNOWN.get((module, name)) or (STORAGES.get(name) if module in {"torch", "torch.storage"} else None)
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return found

    def persistent_load(self, reference: Any) -> _Storage:
        kind, dtype, key, _, numel, *_ = reference
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"a reference to {kind}")
        storage = _Storage(dtype, str(key), int(numel))
        return self.storages.setdefault(storage.key, storage)


def _stored(storage: _Storage, offset: int, shape: Sequence[int], stride: Sequence[int], *_: Any) -> _Stored:
    return _Stored(storage, int(offset), tuple(map(int, shape)), tuple(map(int, stride)))


def _parameter(data: _Stored, *_: Any) -> _Stored:
    return data


_KNOWN: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _stored,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


def _span(file: Ranges, archive: zipfile.ZipFile, folder: str, tensor: _Stored) -> Span:
    storage, member = tensor.storage, archive.getinfo(f"{folder}data/{tensor.storage.key}")
    span = Span(None, tensor.shape, storage.dtype)
    n_before = tensor.offset * storage.dtype.itemsize
    is_plain = tensor.stride == _c_order(tensor.shape) and member.compress_type == zipfile.ZIP_STORED
    is_inside = n_before + span.n_bytes <= min(member.file_size, member.compress_size)
    if min(tensor.offset, *tensor.shape, 0) < 0 or (is_plain and not is_inside):
        raise ValueError(f"{tensor.shape} does not fit {member.file_size} bytes")
    return Span(data_offset(file, member) + n_before, tensor.shape, storage.dtype) if is_plain else span


def _c_order(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
