"""From hit masks to compressed rows, in the order of features.

A row's entries are counted from its masks, the host reads the total, and `write_hits` puts every hit in its place: after those
of earlier blocks, and in its block after the hits of lower features, which its four masks tell. Values come from the words
where a group has one hit; the others, and all of them when screening, are computed by `refine_entries`.
"""

import triton
import triton.language as tl

from sae_fast.kernels._groups import count_bits
from sae_fast.kernels._refine import dots


@triton.jit
def count_hits(masks, counts, n_groups, LANES: tl.constexpr):
    """Number of hits of each row, int64 [n], from masks [n, n_groups]; one program per row."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)
    total = tl.zeros((LANES,), tl.int32)
    for start in tl.range(0, n_groups, LANES):
        total += count_bits(tl.load(masks + row * n_groups + start + lane, mask=start + lane < n_groups, other=0))
    tl.store(counts + row, tl.sum(total, 0).to(tl.int64))


@triton.jit
def write_hits(sums, masks, pointer, features, values, entry_rows, n_groups, VALUES: tl.constexpr, BLOCKS: tl.constexpr):
    """Features, rows and values of the hits, [nnz]; with VALUES those of single hits from `sums`, NaN for others."""
    row = tl.program_id(0).to(tl.int64)
    first = tl.load(pointer + row)
    quarter = tl.arange(0, 4)
    for start in tl.range(0, n_groups // 4, BLOCKS):
        block = start + tl.arange(0, BLOCKS)
        exists = (block < n_groups // 4)[:, None]
        group = row * n_groups + block[:, None] * 4 + quarter[None, :]
        mask = tl.load(masks + group, mask=exists, other=0)
        n_hits = count_bits(mask)
        if VALUES:
            single = tl.load(sums + group, mask=exists & (n_hits == 1), other=0).to(tl.float32, bitcast=True)
            value = tl.where(n_hits == 1, single, float("nan"))
        in_block = tl.sum(n_hits, 1)
        place_of_block = first + tl.cumsum(in_block, 0) - in_block
        first += tl.sum(in_block, 0)
        left = mask
        while tl.max(tl.max(left, 1), 0) > 0:
            lowest = left & -left
            code = count_bits(lowest - 1)
            # Codes of each group of the block whose features are lower: all of lower pairs, and some of the same pair.
            same_pair = tl.where(quarter[None, None, :] < quarter[None, :, None], 2, 0)
            same_pair = tl.where(quarter[None, None, :] == quarter[None, :, None], (code % 2)[:, :, None], same_pair)
            lower = (1 << ((code // 2 * 2)[:, :, None] + same_pair)) - 1
            rank = tl.sum(count_bits(mask[:, None, :] & lower), 2)
            place = place_of_block[:, None] + rank
            feature = block[:, None] * 64 + code // 2 * 8 + quarter[None, :] * 2 + code % 2
            tl.store(features + place, feature, mask=left != 0)
            tl.store(entry_rows + place, tl.zeros_like(feature) + tl.program_id(0), mask=left != 0)
            if VALUES:
                tl.store(values + place, value, mask=left != 0)
            left = left & (left - 1)


@triton.jit
def refine_entries(
    x, rows, bias, threshold, gain, offset, features, entry_rows, values, kept, nnz, d_in,
    ALL: tl.constexpr, GAIN: tl.constexpr, OFFSET: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Finish the values of 16 entries per program: compute those that are NaN, or ALL; then gain and offset.

    With ALL, `kept` says which entries fire after all.
    """
    entry = tl.program_id(0).to(tl.int64) * 16 + tl.arange(0, 16)
    exists = entry < nnz
    feature = tl.load(features + entry, mask=exists, other=0)
    if ALL:
        h = tl.zeros((16,), tl.float32)
        needed = exists
    else:
        h = tl.load(values + entry, mask=exists, other=0.0)
        needed = h != h
    if tl.max(needed.to(tl.int32), 0) > 0:
        row = tl.load(entry_rows + entry, mask=needed, other=0)
        # Entries that are not needed read some row that is read anyway.
        row = tl.where(needed, row, tl.max(row, 0)).to(tl.int64)[:, None]
        product = dots(x + row * d_in, rows + feature.to(tl.int64)[:, None] * d_in, needed, d_in, 16, BK)
        product += tl.load(bias + feature, mask=needed, other=0.0)
        if not ALL:
            # A hit stays one, however this sum was rounded.
            product = tl.maximum(product, tl.load(threshold + feature, mask=needed, other=0.0))
        h = tl.where(needed, product, h)
    if ALL:
        fires = h > tl.load(threshold + feature, mask=exists, other=0.0)
        tl.store(kept + entry, fires.to(tl.int8), mask=exists)
    if GAIN:
        h = h * tl.load(gain + feature, mask=exists, other=0.0)
    if OFFSET:
        h = h + tl.load(offset + feature, mask=exists, other=0.0)
    tl.store(values + entry, h, mask=exists)
