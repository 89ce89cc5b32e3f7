"""`decode`: each token's reconstruction, gathered from the decoder rows of its active features.

Three ways, chosen by sizes alone (no look at the device): one program to a token and slab; several, whose partial sums a second
kernel adds in a fixed order, where there are few tokens; and above the break-even L0 a dense product on matrix units, a bounded
block at a time. All sum in float32 and give the same bits when run again.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_fast.kernels import _dense
from sae_fast.kernels._card import card_of, on_card_of
from sae_fast.kernels._gather import Cut, cut, split_of, weighted_sum
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs

REDUCE_BLOCK = 1024


@triton.jit
def _decode(
    values, columns, pointer, rows, bias, out, n, d_out,
    BLOCK_D: tl.constexpr, IN_FLIGHT: tl.constexpr, PARTIAL: tl.constexpr,
):  # fmt: skip
    """Set out [n, d_out] to values @ rows + bias; where PARTIAL, out [splits, n, d_out] to its parts without the bias."""
    token = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    start, stop = tl.load(pointer + token), tl.load(pointer + token + 1)
    if PARTIAL:
        start, stop = split_of(start, stop, IN_FLIGHT)
        token += tl.program_id(2).to(tl.int64) * n
    x_hat = weighted_sum(values, columns, rows, start, stop, d_out, offsets, IN_FLIGHT, BLOCK_D)
    inside = offsets < d_out
    if not PARTIAL:
        x_hat += tl.load(bias + offsets, mask=inside, other=0).to(tl.float32)
    tl.store(out + token * d_out + offsets, x_hat, mask=inside, eviction_policy="evict_first")


@triton.jit
def _add_splits(partial, bias, out, size, d_out, n_splits, BLOCK: tl.constexpr):
    """Set out [n, d_out] to bias + partial [n_splits, n, d_out].sum(0), in the order of the splits; size = n * d_out."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    total = tl.load(bias + place % d_out, mask=inside, other=0).to(tl.float32)
    source = partial + place
    for _ in tl.range(0, n_splits):
        total += tl.load(source, mask=inside, other=0)
        source += size
    tl.store(out + place, total, mask=inside)


def decode(acts: SparseActs, W_dec: Prepared, b_dec: Tensor) -> Tensor:
    """See `sae_fast.reference.decode`. Float32 [n, d_out]."""
    (n, d_sae), d_out = acts.shape, W_dec.shape[1]
    if _dense.pays(n, acts.nnz, d_sae, W_dec.rows.dtype):
        return _dense.decode(acts, W_dec, b_dec)
    return gathered(acts, W_dec, b_dec, cut(n, acts.nnz, d_sae, d_out, W_dec.rows.element_size(), card_of(W_dec.rows)))


def gathered(acts: SparseActs, W_dec: Prepared, b_dec: Tensor, how: Cut) -> Tensor:
    """Decode by gathering rows, cut as told."""
    (n, _), (_, d_out), rows = acts.shape, W_dec.shape, W_dec.rows
    x_hat = torch.empty(n, d_out, dtype=torch.float32, device=rows.device)
    if x_hat.numel() == 0:
        return x_hat
    out = x_hat if how.splits == 1 else x_hat.new_empty(how.splits, n, d_out)
    with on_card_of(rows):
        _decode[n, triton.cdiv(d_out, how.block_d), how.splits](
            acts.values.contiguous(), acts.col_indices.contiguous(), acts.crow_indices.contiguous(), rows, b_dec.contiguous(),
            out, n, d_out, BLOCK_D=how.block_d, IN_FLIGHT=how.in_flight, PARTIAL=how.splits > 1, enable_fp_fusion=True,
        )  # fmt: skip
        if how.splits > 1:
            size = n * d_out
            _add_splits[(triton.cdiv(size, REDUCE_BLOCK),)](
                out, b_dec.contiguous(), x_hat, size, d_out, how.splits, BLOCK=REDUCE_BLOCK, enable_fp_fusion=True
            )
    return x_hat
