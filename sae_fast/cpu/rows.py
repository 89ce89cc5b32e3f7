"""Whole rows of pre-activations: a chunk of tokens at a time, all features, in the dtype of the results."""

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from sae_fast.cpu.threads import in_threads, row_blocks
from sae_fast.prepared import Prepared

T = TypeVar("T")

CHUNK_BYTES = 32 << 20
"""Largest buffer of pre-activations, of reconstructions, or of widened weights."""

BLOCK_ROWS, BLOCK_WIDTH = 512, 8192
"""Tokens and features of a block of scores, which stays in the cache."""


def chunk_rows(W: Prepared) -> int:
    """How many rows of results fit a chunk."""
    return max(1, CHUNK_BYTES // (W.shape[1] * W.wide.itemsize))


def chunk_features(W: Prepared) -> int:
    """How many features' weights fit a chunk once widened."""
    return max(1, CHUNK_BYTES // (W.rows.shape[1] * W.wide.itemsize))


class Widened:
    """Rows of weights in another dtype, some at a time, in one buffer: allocating each anew would fragment the heap."""

    def __init__(self, rows: Tensor, dtype: torch.dtype) -> None:
        self._rows, self._dtype = rows, dtype
        self._buffer = torch.empty(0, rows.shape[1], dtype=dtype, device=rows.device)

    def __getitem__(self, some: slice | Tensor) -> Tensor:
        """The rows; valid until the next are asked for."""
        rows = self._rows[some]
        if rows.dtype == self._dtype:
            return rows
        if len(self._buffer) < len(rows):
            self._buffer = torch.empty(rows.shape, dtype=self._dtype, device=rows.device)
        return self._buffer[: len(rows)].copy_(rows)


class Buffers(threading.local):
    """A buffer for the scores of one block, another in each thread."""

    def __init__(self, dtype: torch.dtype, device: torch.device | None = None) -> None:
        self._buffer = torch.empty(0, dtype=dtype, device=device)

    def product(self, bias: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """Return x @ rows.T + bias, valid until the thread asks for the next."""
        size = len(x) * len(rows)
        if len(self._buffer) < size:
            self._buffer = self._buffer.new_empty(size)
        return torch.addmm(bias, x, rows.T, out=self._buffer[:size].view(len(x), len(rows)))


def block_rows(width: int) -> int:
    """How many tokens make a block of `width` scores each: enough for the product to be efficient, few enough for the cache."""
    return max(1, min(BLOCK_ROWS, CHUNK_BYTES // (4 * width)))


def pre_act_chunks(x: Tensor, W_enc: Prepared, bias: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first row, x[rows] @ W_enc + bias), each in the same buffer: use it before asking for the next."""
    n = x.shape[0]
    bias = bias.to(W_enc.wide)
    rows = chunk_rows(W_enc)
    buffer = torch.empty(min(n, rows), W_enc.d_sae, dtype=W_enc.wide, device=x.device)
    weights = Widened(W_enc.rows, W_enc.wide)
    step = W_enc.d_sae if W_enc.rows.dtype == W_enc.wide else chunk_features(W_enc)
    for start in range(0, n, rows):
        stop = min(n, start + rows)
        x_rows, h = x[start:stop].to(W_enc.wide), buffer[: stop - start]
        for first in range(0, W_enc.d_sae, step):
            some = slice(first, first + step)
            torch.addmm(bias[some], x_rows, weights[some].T, out=h[:, some])
        yield start, h


def by_blocks(function: Callable[[int, int, Tensor], T], x: Tensor, W_enc: Prepared, bias: Tensor) -> list[T]:
    """`function(first row, first feature, h)` of each block `h` of x @ W_enc + bias, contiguous and lost afterwards.

    All rows of some features come before those of the next: weights are read, and widened, once.
    """
    width = min(BLOCK_WIDTH, chunk_features(W_enc), W_enc.d_sae)
    bias, wide_x, weights = bias.to(W_enc.wide), x.to(W_enc.wide), Widened(W_enc.rows, W_enc.wide)
    buffers = Buffers(W_enc.wide, x.device)
    results: list[T] = []
    for first in range(0, W_enc.d_sae, width):
        block, block_bias = weights[first : first + width], bias[first : first + width]

        def of(rows: slice, first: int = first, block: Tensor = block, block_bias: Tensor = block_bias) -> T:
            return function(rows.start, first, buffers.product(block_bias, wide_x[rows], block))

        results += in_threads(of, row_blocks(len(x), block_rows(width)))
    return results


def topk_indices(acts: Tensor, k: int) -> Tensor:
    """Ascending indices int64 [rows, k] of the k largest of each row of `acts`, ties to the lower index."""
    if k == acts.shape[1]:
        return torch.arange(k, device=acts.device).expand(len(acts), k)
    # torch.topk breaks ties as it likes; one value more shows which rows have a tie across the border.
    values, indices = acts.topk(k + 1, dim=1)
    chosen = indices[:, :k].sort(dim=1).values
    tied = (values[:, k - 1] == values[:, k]).nonzero()[:, 0]
    if tied.numel():
        candidates, lowest = acts[tied], values[tied, k - 1 : k]
        equal = candidates == lowest
        # "Not smaller, not equal" is "greater", and keeps NaN where topk puts it: first.
        greater = ~((candidates < lowest) | equal)
        room = k - greater.sum(1, keepdim=True)
        kept = greater | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
        chosen[tied] = kept.nonzero()[:, 1].view(-1, k)
    return chosen


def flat_entries(mask: Tensor) -> Tensor:
    """Flat positions, int64 ascending, where the contiguous `mask` is true."""
    if mask.device.type != "cpu":
        return mask.view(-1).nonzero()[:, 0]
    flat = mask.view(-1)
    whole = len(flat) // 64 * 64
    # Most groups of 64 hold nothing: eight 64-bit words of them are compared at once, and only the others are looked into.
    groups = np.flatnonzero(flat[:whole].view(torch.int64).view(-1, 8).amax(1).numpy())
    inside = np.flatnonzero(flat[:whole].view(-1, 64).numpy()[groups])
    places = groups[inside // 64] * 64 + inside % 64
    rest = np.flatnonzero(flat[whole:].numpy()) + whole
    return torch.from_numpy(np.concatenate([places, rest]) if len(rest) else places)


def largest(values: Tensor, count: int) -> Tensor:
    """Ascending positions of the `count` largest of `values`, ties to the lower position."""
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=values.device)
    lowest = values.kthvalue(len(values) - count + 1).values
    greater, equal = values > lowest, values == lowest
    return (greater | (equal & (equal.cumsum(0) <= count - greater.sum()))).nonzero()[:, 0]
