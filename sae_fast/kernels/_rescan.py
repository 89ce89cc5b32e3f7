"""The last resort of TopK: whole rows of pre-activations, for rows whose candidates outnumber their slots.

The rows are a list on the device, of a length that only the device knows. `products` computes the first n_rows of them
together, reading the weights once; `select_rows` takes the k largest of each, and computes any further rows itself, one program
to a row. Both return at once where the list is empty. The same two serve k too large for groups, with all rows listed.
"""

import triton
import triton.language as tl

from sae_fast.kernels._groups import positive_bits
from sae_fast.kernels._refine import dots


@triton.jit
def products(
    x, rows, bias, listed, count, h_rows, d_in, d_sae, n_rows, BN: tl.constexpr, BK: tl.constexpr, INTERPRET: tl.constexpr
):
    """h_rows [n_rows, d_sae] float32: pre-activations of the first n_rows listed rows, one program to BN features."""
    feature = tl.program_id(0) * BN + tl.arange(0, BN)
    exists = feature < d_sae
    depth = tl.arange(0, BK)
    w_tile = rows + tl.minimum(feature, d_sae - 1).to(tl.int64)[:, None] * d_in + depth[None, :]
    n_listed = tl.minimum(tl.load(count), n_rows)
    for first in tl.range(0, n_listed, 16):
        place = first + tl.arange(0, 16)
        row = tl.load(listed + place, mask=place < n_listed, other=0)
        x_tile = x + row.to(tl.int64)[:, None] * d_in + depth[None, :]
        h = tl.zeros((16, BN), tl.float32)
        for k in tl.range(0, d_in, BK):
            inside = (k + depth < d_in)[None, :]
            a = tl.load(x_tile + k, mask=inside, other=0.0)
            b = tl.load(w_tile + k, mask=inside, other=0.0)
            if INTERPRET:
                a, b = a.to(tl.float32), b.to(tl.float32)
            h = tl.dot(a, tl.trans(b), h, input_precision="ieee")
        h += tl.load(bias + feature, mask=exists, other=0.0)[None, :]
        stored = (place < n_listed)[:, None] & exists[None, :]
        tl.store(h_rows + place.to(tl.int64)[:, None] * d_sae + feature[None, :], h, mask=stored)


@triton.jit
def select_rows(
    x, rows, bias, listed, count, h_rows, out_features, out_values, d_in, d_sae, k,
    n_rows, LANES: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """n_rows programs: the k largest of each listed row, ties to the lower feature, sorted by feature."""
    n_listed = tl.load(count)
    h_row = h_rows + tl.program_id(0).to(tl.int64) * d_sae
    step = tl.arange(0, 16)
    for i in tl.range(tl.program_id(0), n_listed, n_rows):
        row = tl.load(listed + i).to(tl.int64)
        if i >= n_rows:
            x_row = x + row * d_in + tl.zeros((1, 1), tl.int64)
            for first in tl.range(0, d_sae, 16):
                feature = first + step
                valid = feature < d_sae
                h = dots(x_row, rows + feature.to(tl.int64)[:, None] * d_in, valid, d_in, 16, BK)
                tl.store(h_row + feature, h + tl.load(bias + feature, mask=valid, other=0.0), mask=valid)
            tl.debug_barrier()
        _select_row(h_row, out_features + row * k, out_values + row * k, d_sae, k, LANES)
        tl.debug_barrier()


@triton.jit
def _select_row(h_row, out_features, out_values, d_sae, k, LANES: tl.constexpr):
    """The k largest of relu(h_row) [d_sae], where zeros count as equal."""
    lane = tl.arange(0, LANES)
    level = 0
    # Two of the 31 bits at a time, so that the row is read half as often; the last step repeats one.
    for i in tl.range(0, 16):
        shift = tl.maximum(29 - 2 * i, 0)
        reach_1 = tl.zeros((LANES,), tl.int32)
        reach_2 = tl.zeros((LANES,), tl.int32)
        reach_3 = tl.zeros((LANES,), tl.int32)
        for start in tl.range(0, d_sae, LANES):
            bits = positive_bits(tl.load(h_row + start + lane, mask=start + lane < d_sae, other=0.0))
            reach_1 += (bits >= (level | (1 << shift))).to(tl.int32)
            reach_2 += (bits >= (level | (2 << shift))).to(tl.int32)
            reach_3 += (bits >= (level | (3 << shift))).to(tl.int32)
        step = tl.where(tl.sum(reach_1, 0) >= k, 1, 0)
        step = tl.where(tl.sum(reach_2, 0) >= k, 2, step)
        step = tl.where(tl.sum(reach_3, 0) >= k, 3, step)
        level = level | (step << shift)
    greater = tl.zeros((LANES,), tl.int32)
    for start in tl.range(0, d_sae, LANES):
        h = tl.load(h_row + start + lane, mask=start + lane < d_sae, other=0.0)
        greater += (positive_bits(h) > level).to(tl.int32)
    room = k - tl.sum(greater, 0)
    n_tied = 0
    n_chosen = 0
    for start in tl.range(0, d_sae, LANES):
        feature = start + lane
        exists = feature < d_sae
        bits = positive_bits(tl.load(h_row + feature, mask=exists, other=0.0))
        tied = ((bits == level) & exists).to(tl.int32)
        chosen = ((bits > level) | ((tied > 0) & (n_tied + tl.cumsum(tied, 0) <= room))).to(tl.int32)
        place = n_chosen + tl.cumsum(chosen, 0) - 1
        tl.store(out_features + place, feature, mask=chosen > 0)
        tl.store(out_values + place, bits.to(tl.float32, bitcast=True), mask=chosen > 0)
        n_tied += tl.sum(tied, 0)
        n_chosen += tl.sum(chosen, 0)
