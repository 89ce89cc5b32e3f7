"""`sampled_dot`: products of a token's vector with the rows of its active features; the gradient of `decode` by its values.

A program reads IN_FLIGHT rows at a time, slab by slab beside the token's vector. A sum belongs to one program, so that several
can share a token's entries without meeting.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_fast.kernels._card import Card, card_of, on_card_of
from sae_fast.kernels._gather import ELEMENTS
from sae_fast.sparse import SparseActs

BLOCK_D = 256


def in_flight(d: int) -> int:
    """Rows read at a time; half as many where rows are not aligned, whose loads take more registers."""
    return ELEMENTS // BLOCK_D // (1 if d % 16 == 0 else 2)


@triton.jit
def _sampled_dot(columns, pointer, a, rows, out, d, BLOCK_D: tl.constexpr, IN_FLIGHT: tl.constexpr):
    """Set out [nnz] to a[t] @ rows[f] for the entries (t, f) of one token, of which this program takes every so many."""
    token = tl.program_id(0).to(tl.int64)
    start, stop = tl.load(pointer + token), tl.load(pointer + token + 1)
    for first in range(start + tl.program_id(1) * IN_FLIGHT, stop, tl.num_programs(1) * IN_FLIGHT):
        entries = first + tl.arange(0, IN_FLIGHT)
        exists = entries < stop
        column = tl.load(columns + entries, mask=exists, other=0).to(tl.int64)
        total = tl.zeros((IN_FLIGHT, BLOCK_D), tl.float32)
        for left in range(0, d, BLOCK_D):
            offsets = left + tl.arange(0, BLOCK_D)
            inside = offsets < d
            vector = tl.load(a + token * d + offsets, mask=inside, other=0).to(tl.float32)
            places = rows + column[:, None] * d + offsets[None, :]
            tile = tl.load(places, mask=exists[:, None] & inside[None, :], other=0)
            total += tile.to(tl.float32) * vector[None, :]
        tl.store(out + entries, tl.sum(total, axis=1), mask=exists)


def sampled_dot(acts: SparseActs, a: Tensor, rows: Tensor) -> Tensor:
    """See `sae_fast.reference.sampled_dot`. Float32 [nnz]."""
    (n, _), d = acts.shape, rows.shape[1]
    out = torch.empty(acts.nnz, dtype=torch.float32, device=rows.device)
    if out.numel():
        with on_card_of(rows):
            _sampled_dot[n, programs_per_token(n, acts.nnz, d, card_of(rows))](
                acts.col_indices.contiguous(), acts.crow_indices.contiguous(), a.contiguous(), rows.contiguous(), out, d,
                BLOCK_D=BLOCK_D, IN_FLIGHT=in_flight(d), enable_fp_fusion=True,
            )  # fmt: skip
    return out


def programs_per_token(n: int, nnz: int, d: int, card: Card) -> int:
    """One, or where there are few tokens as many as keep the card busy and have a tile each."""
    tiles = triton.cdiv(triton.cdiv(nnz, n), in_flight(d))
    return max(1, min(tiles, triton.cdiv(8 * card.n_multiprocessors, n)))
