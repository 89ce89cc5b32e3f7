"""Tensors of a file on another machine, read in as few and as short ranges as pay."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sae_fast.sources.layout import Ranges, Span, npz_layout, safetensors_layout
from sae_fast.sources.progress import Progress
from sae_fast.sources.tensor_files import TensorFile
from sae_fast.sources.torch_layout import torch_layout

GAP = 1 << 18
"""Bytes that are read for nothing rather than asking once more: what arrives in the time that a request takes its share of."""
BLOCK = 1 << 24
"""Longest range that is asked for at once, in bytes, unless a single piece is longer."""
CONNECTIONS = 8
"""Ranges under way at a time."""

P = TypeVar("P")


def open_ranged(file: Ranges) -> "RangedFile | None":
    """A tensor file by its header; None where its tensors cannot be read apart. Raises `FormatError`."""
    values: Mapping[str, Any] = {}
    if file.place.endswith(".safetensors"):
        layout = safetensors_layout(file)
    elif file.place.endswith(".npz"):
        layout = npz_layout(file)
    else:
        layout, values = torch_layout(file) or ({}, {})
    offsets = {key: span.offset for key, span in layout.items() if span.offset is not None}
    return RangedFile(file, layout, offsets, values) if layout and len(offsets) == len(layout) else None


class RangedFile(TensorFile):
    """A tensor file of which only what is asked for is read. What was read is not kept."""

    def __init__(self, file: Ranges, layout: Mapping[str, Span], offsets: Mapping[str, int], values: Mapping[str, Any]) -> None:
        self.place, self.values, self._file, self._layout, self._offsets = file.place, values, file, layout, offsets
        self.shapes = {key: span.shape for key, span in layout.items()}
        self.dtypes = {key: span.dtype for key, span in layout.items()}

    def read(self, key: str) -> Tensor:
        """See `TensorFile`."""
        span, offset = self._layout[key], self._offsets[key]
        starts = np.arange(0, span.n_bytes, BLOCK, dtype=np.int64)
        pieces = [np.append(starts, span.n_bytes)[i : i + 2] for i in range(len(starts))]
        values = np.empty(span.n_bytes, np.uint8)

        def put(ends: np.ndarray) -> int:
            start, stop = map(int, ends)
            values[start:stop] = np.frombuffer(self._file.read(offset + start, offset + stop), np.uint8)
            return stop - start

        self._in_parallel(put, pieces, f"reading {key} of {self.place}", span.n_bytes)
        return _tensor(values, span.shape, span.dtype)

    def read_along(self, key: str, axis: int, indices: Tensor) -> Tensor:
        """See `TensorFile`; neighbouring pieces are read together where that is cheaper."""
        span, offset = self._layout[key], self._offsets[key]
        shape = (*span.shape[:axis], len(indices), *span.shape[axis + 1 :])
        order = np.argsort(indices.numpy(), kind="stable")
        starts, length = piece_starts(span, axis, indices.numpy()[order])
        values = np.empty((len(starts), length), np.uint8)

        def put(ends: tuple[int, int]) -> int:
            first, last = ends
            begin, stop = int(starts[first]), int(starts[last - 1]) + length
            block = np.frombuffer(self._file.read(offset + begin, offset + stop), np.uint8)
            values[first:last] = np.lib.stride_tricks.sliding_window_view(block, length)[starts[first:last] - begin]
            return stop - begin

        groups = list(grouped(starts, length))
        n_bytes = sum(int(starts[last - 1] - starts[first]) + length for first, last in groups)
        self._in_parallel(put, groups, f"reading {len(indices):,} of {span.shape[axis]:,} in {key} of {self.place}", n_bytes)
        sorted_values = _tensor(values.reshape(-1), shape, span.dtype)
        return sorted_values.index_select(axis, torch.from_numpy(np.argsort(order, kind="stable")))

    def _in_parallel(self, put: Callable[[P], int], pieces: Sequence[P], what: str, n_bytes: int) -> None:
        pool = ThreadPoolExecutor(CONNECTIONS)
        try:
            with Progress(what, n_bytes) as progress:
                for done in pool.map(put, pieces):
                    progress.add(done)
        finally:
            pool.shutdown(cancel_futures=True)


def piece_starts(span: Span, axis: int, indices: np.ndarray) -> tuple[np.ndarray, int]:
    """(offsets within the tensor int64, ascending; length) in bytes of the pieces that ascending indices along an axis are."""
    length = int(np.prod(span.shape[axis + 1 :], dtype=np.int64)) * span.dtype.itemsize
    outer = int(np.prod(span.shape[:axis], dtype=np.int64))
    starts = np.arange(outer, dtype=np.int64)[:, None] * (span.shape[axis] * length) + indices.astype(np.int64) * length
    return starts.reshape(-1), length


def grouped(starts: np.ndarray, length: int) -> Iterator[tuple[int, int]]:
    """Runs (first, behind the last) of pieces that are read together: gaps up to `GAP`, blocks up to `BLOCK`."""
    is_apart = np.diff(starts) - length > GAP
    is_long = np.diff(starts // BLOCK) > 0
    cuts = np.flatnonzero(is_apart | is_long) + 1
    return pairwise([0, *cuts.tolist(), len(starts)])


def _tensor(values: np.ndarray, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if not values.size:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(values, dtype=torch.uint8).view(dtype).reshape(shape)
