"""Where the tensors of a file lie in it: byte offset, shape and dtype, found in the header alone."""

import io
import json
import math
import struct
import tokenize
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import torch

from sae_fast.errors import FormatError

SAFETENSORS_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""dtype names of safetensors headers that are read."""

LARGEST_HEADER = 100_000_000
"""Largest header of a safetensors file, in bytes, as its own library has it."""
LARGEST_RATIO = 1033
"""Bytes that one compressed byte of an archive can stand for; an archive that claims more lies."""
FIRST_READ = 1 << 12
"""Bytes read at once in the hope that the header is among them."""
BLOCK = 1 << 15
"""Bytes that reading an archive's directory takes at a time."""


class Ranges(Protocol):
    """A file that is read in ranges."""

    @property
    def place(self) -> str:
        """As messages call it."""

    @property
    def size(self) -> int | None:
        """Bytes."""

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start:stop`."""


@dataclass(frozen=True)
class LocalRanges:
    """A file on this machine."""

    path: Path
    place: str

    @property
    def size(self) -> int:
        """See `Ranges`."""
        return self.path.stat().st_size

    def read(self, start: int, stop: int) -> bytes:
        """See `Ranges`."""
        with self.path.open("rb") as opened:
            opened.seek(start)
            return opened.read(stop - start)


@dataclass(frozen=True)
class Span:
    """One tensor in a file."""

    offset: int | None
    """Its first byte in the file; None where it is compressed or in Fortran order."""
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def n_bytes(self) -> int:
        """Its length in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def safetensors_layout(file: Ranges) -> Mapping[str, Span]:
    """From the JSON header behind its length (8 bytes, little-endian)."""
    size = file.size or 0
    try:
        beginning = file.read(0, min(size, FIRST_READ))
        (length,) = struct.unpack("<Q", beginning[:8])
        if not 0 < length <= min(LARGEST_HEADER, size - 8):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        text = beginning[8 : 8 + length]
        text += file.read(8 + len(text), 8 + length) if len(text) < length else b""
        header = json.loads(text)
        ends = {key: _ends(key, value) for key, value in header.items() if key != "__metadata__"}
        end = 8 + length + _contiguous(ends.values())
        if end != size:
            raise ValueError(f"its header speaks of {end} bytes, there are {size}")
        return {key: _span(header[key], 8 + length + start) for key, (start, _) in ends.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, struct.error) as error:
        raise FormatError(f"{file.place}: not a safetensors file ({error})") from error


def npz_layout(file: Ranges) -> Mapping[str, Span]:
    """From the archive's directory and the header of each array; object arrays, which are pickles, are refused."""
    try:
        with zipfile.ZipFile(cast("BinaryIO", Blocks(file))) as archive:
            return {member.filename.removesuffix(".npy"): _array_span(file, archive, member) for member in archive.infolist()}
    except (
        ValueError,
        TypeError,
        OSError,
        zipfile.BadZipFile,
        NotImplementedError,
        SyntaxError,
        EOFError,
        RecursionError,
        struct.error,
        tokenize.TokenError,
    ) as error:
        raise FormatError(f"{file.place}: not an npz file ({error})") from error


def _array_span(file: Ranges, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Span:
    with archive.open(member) as opened:
        shape, is_fortran, dtype = _npy_header(cast("BinaryIO", opened))
        header_bytes = opened.tell()
    n_bytes = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or n_bytes != member.file_size - header_bytes:
        raise ValueError(f"{member.filename}: {dtype} {list(shape)} does not fit its {member.file_size} bytes")
    if member.file_size > LARGEST_RATIO * max(member.compress_size, 1):
        raise ValueError(f"{member.filename}: {member.file_size} bytes out of {member.compress_size}")
    torch_dtype = torch.from_numpy(np.empty(0, dtype)).dtype
    if member.compress_type != zipfile.ZIP_STORED or (is_fortran and len(shape) > 1):
        return Span(None, shape, torch_dtype)
    if member.compress_size != member.file_size:
        raise ValueError(f"{member.filename}: {member.file_size} bytes stored in {member.compress_size}")
    return Span(data_offset(file, member) + header_bytes, shape, torch_dtype)


def data_offset(file: Ranges, member: zipfile.ZipInfo) -> int:
    """Where the content of an archive's member begins. Raises `ValueError` unless all of it is there."""
    local = file.read(member.header_offset, member.header_offset + 30)
    start = member.header_offset + 30 + sum(struct.unpack("<HH", local[26:]))
    if start + member.compress_size > (file.size or 0):
        raise ValueError(f"{member.filename}: goes on behind the end of the file")
    return start


def _npy_header(opened: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran order, dtype)."""
    read = np.lib.format.read_array_header_1_0
    if np.lib.format.read_magic(opened) != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(opened)
    return tuple(shape), is_fortran, dtype


def _ends(key: str, entry: Mapping[str, Any]) -> tuple[int, int]:
    """(first byte, byte behind the last) within the data, found to fit shape and dtype."""
    if entry["dtype"] not in SAFETENSORS_DTYPES:
        raise ValueError(f"dtype of {key}: {entry['dtype']} is not one of {', '.join(SAFETENSORS_DTYPES)}")
    start, stop = entry["data_offsets"]
    if not all(isinstance(number, int) and number >= 0 for number in (*entry["shape"], start, stop)):
        raise ValueError(f"{key}: shape {entry['shape']} at {entry['data_offsets']}")
    if math.prod(entry["shape"]) * SAFETENSORS_DTYPES[entry["dtype"]].itemsize != stop - start:
        raise ValueError(f"{key}: {entry['dtype']} {entry['shape']} does not fit its {stop - start} bytes")
    return start, stop


def _contiguous(ends: Iterable[tuple[int, int]]) -> int:
    """The byte behind the last tensor, each found to begin where another ends."""
    behind = 0
    for start, stop in sorted(ends):
        if start != behind:
            raise ValueError(f"a tensor begins at {start} where {behind} is next")
        behind = stop
    return behind


def _span(entry: Mapping[str, Any], offset: int) -> Span:
    return Span(offset, tuple(entry["shape"]), SAFETENSORS_DTYPES[entry["dtype"]])


@dataclass
class Blocks(io.RawIOBase):
    """A file in ranges as a file object, keeping what was read."""

    file: Ranges
    position: int = 0
    blocks: dict[int, bytes] = field(default_factory=dict)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.file.size or 0}[whence]
        if base + offset < 0:
            raise ValueError(f"a position of {base + offset}")
        self.position = base + offset
        return self.position

    def read(self, amount: int | None = -1) -> bytes:
        size = self.file.size or 0
        stop = size if amount is None or amount < 0 else min(self.position + amount, size)
        parts = []
        while self.position < stop:
            number, skip = divmod(self.position, BLOCK)
            if number not in self.blocks:
                self.blocks[number] = self.file.read(number * BLOCK, min((number + 1) * BLOCK, size))
            parts.append(self.blocks[number][skip : skip + stop - self.position])
            self.position += len(parts[-1])
        return b"".join(parts)
