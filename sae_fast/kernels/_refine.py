"""Single dot products in float32: the values of features that the matrix product could not settle."""

import torch
import triton
import triton.language as tl

from sae_fast.kernels._groups import group_feature, positive_bits


def refine_depth(dtype: torch.dtype) -> int:
    """Elements of a row that one program reads at a time, of each of 16 rows: 512 bytes."""
    return 512 // dtype.itemsize


@triton.jit
def dots(x_row, w_row, valid, d_in, E: tl.constexpr, BK: tl.constexpr):
    """Products of rows of x and of the weights, float32 [E]; `x_row` [E or 1, 1] and `w_row` [E, 1] point to their first."""
    depth = tl.arange(0, BK)[None, :]
    total = tl.zeros((E, BK), tl.float32)
    for k in tl.range(0, d_in, BK):
        inside = k + depth < d_in
        w = tl.load(w_row + k + depth, mask=valid[:, None] & inside, other=0.0).to(tl.float32)
        v = tl.load(x_row + k + depth, mask=inside, other=0.0).to(tl.float32)
        total += w * v
    return tl.sum(total, 1)


@triton.jit
def refine_candidates(
    x, rows, bias, features, bits, groups, counts, d_in, d_sae, SINGLES: tl.constexpr, SLOTS: tl.constexpr, BK: tl.constexpr
):
    """One program per row: bits of its flagged groups' features, computed anew, and with SINGLES of its other candidates."""
    row = tl.program_id(0).to(tl.int64)
    x_row = x + row * d_in + tl.zeros((1, 1), tl.int64)
    features, bits = features + row * SLOTS, bits + row * SLOTS
    step = tl.arange(0, 16)
    if SINGLES:
        n_single = tl.load(counts + row * 2)
        for first in tl.range(0, n_single, 16):
            valid = first + step < n_single
            feature = tl.load(features + first + step, mask=valid, other=0)
            h = dots(x_row, rows + feature.to(tl.int64)[:, None] * d_in, valid, d_in, 16, BK)
            h += tl.load(bias + feature, mask=valid, other=0.0)
            tl.store(bits + first + step, positive_bits(h), mask=valid)
    groups += row * (SLOTS // 16)
    for i in tl.range(0, tl.load(counts + row * 2 + 1)):
        feature = group_feature(tl.load(groups + i), step)
        valid = feature < d_sae
        h = dots(x_row, rows + feature.to(tl.int64)[:, None] * d_in, valid, d_in, 16, BK)
        h += tl.load(bias + feature, mask=valid, other=float("-inf"))
        place = SLOTS - 16 * (i + 1) + step
        tl.store(features + place, feature)
        tl.store(bits + place, positive_bits(h))
