"""The heart of decoding: a weighted sum of rows chosen by index, and how the work on many such sums is cut.

A sum is cut by columns into slabs of BLOCK_D. Programs run token by token through one slab before the next begins, so that the
slab of the matrix stays in the L2 cache and memory is read about once. Within a program, IN_FLIGHT rows are read at a time by
loads that do not depend on each other; their indices are one vector load.
"""

from dataclasses import dataclass
from functools import cache

import triton
import triton.language as tl

from sae_fast.kernels._card import Card

ELEMENTS = 4096
"""Of a tile: 32 float32 sums a thread with four warps, so that a multiprocessor holds many programs."""


@triton.jit
def weighted_sum(values, columns, rows, start, stop, d, offsets, IN_FLIGHT: tl.constexpr, BLOCK_D: tl.constexpr):
    """Sum of `values[e] * rows[columns[e], offsets]` over start <= e < stop: float32 [BLOCK_D]."""
    inside = offsets < d
    total = tl.zeros((IN_FLIGHT, BLOCK_D), tl.float32)
    for first in range(start, stop, IN_FLIGHT):
        entries = first + tl.arange(0, IN_FLIGHT)
        exists = entries < stop
        column = tl.load(columns + entries, mask=exists, other=0).to(tl.int64)
        value = tl.load(values + entries, mask=exists, other=0).to(tl.float32)
        places = rows + column[:, None] * d + offsets[None, :]
        tile = tl.load(places, mask=exists[:, None] & inside[None, :], other=0, eviction_policy="evict_last")
        total += value[:, None] * tile.to(tl.float32)
    return tl.sum(total, axis=0)


@triton.jit
def split_of(start, stop, IN_FLIGHT: tl.constexpr):
    """The part of a row's entries that falls to this program of axis 2: whole tiles, in order."""
    tiles = tl.cdiv(stop - start, IN_FLIGHT)
    step = tl.cdiv(tiles, tl.num_programs(2)) * IN_FLIGHT
    begin = start + tl.program_id(2) * step
    return begin, tl.minimum(begin + step, stop)


@dataclass(frozen=True)
class Cut:
    """How sums are cut into programs."""

    block_d: int
    """Columns of a slab."""
    splits: int
    """Programs that share one sum; more than one only where there would be too few otherwise."""

    @property
    def in_flight(self) -> int:
        """Rows read at a time."""
        return ELEMENTS // self.block_d


BLOCKS = (512, 256, 128)
"""Widths of slabs that `cut` chooses from."""

MAX_SPLITS = 32


@cache
def cut(n: int, nnz: int, n_rows: int, d: int, element_size: int, card: Card) -> Cut:
    """How to compute n sums of nnz entries together from a matrix [n_rows, d].

    The widest slab of which a good half of the L2 cache holds all rows, and that d fills to seven eighths. Where that leaves
    multiprocessors idle (few tokens), narrower slabs; and where it still does, several programs to a sum.
    """
    block_d = _slab(n_rows, d, element_size, card.l2_bytes)
    wanted = 4 * card.n_multiprocessors
    while block_d > BLOCKS[-1] and n * triton.cdiv(d, block_d) < wanted:
        block_d //= 2
    programs = max(1, n * triton.cdiv(d, block_d))
    tiles = triton.cdiv(triton.cdiv(nnz, max(1, n)), ELEMENTS // block_d)
    splits = min(MAX_SPLITS, triton.cdiv(wanted, programs), tiles)
    return Cut(block_d, 1 << (max(1, splits).bit_length() - 1))


def _slab(n_rows: int, d: int, element_size: int, l2_bytes: int) -> int:
    full = [block for block in BLOCKS if triton.cdiv(d, block) * block * 7 <= 8 * d] or [BLOCKS[-1]]
    fitting = [block for block in full if n_rows * block * element_size <= 0.7 * l2_bytes]
    # Where no slab fits the cache, long contiguous reads are all that can be had.
    return fitting[0] if fitting else full[0]
