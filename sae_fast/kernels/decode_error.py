"""`decode_error`: each token's squared error, reduced where the reconstruction is summed, so that it is never written.

Exceptions are bounded: where a token's sum is split among programs (few tokens), and the dense product's block of tokens.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_fast.kernels import _dense
from sae_fast.kernels._card import card_of, on_card_of
from sae_fast.kernels._gather import Cut, cut, weighted_sum
from sae_fast.kernels.decode import gathered
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs


@triton.jit
def _decode_error(values, columns, pointer, rows, bias, x, out, n, d_out, BLOCK_D: tl.constexpr, IN_FLIGHT: tl.constexpr):
    """Set out [slabs, n] to the part of ‖x - (values @ rows + bias)‖² that lies in each slab of columns."""
    token = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    start, stop = tl.load(pointer + token), tl.load(pointer + token + 1)
    x_hat = weighted_sum(values, columns, rows, start, stop, d_out, offsets, IN_FLIGHT, BLOCK_D)
    inside = offsets < d_out
    x_hat += tl.load(bias + offsets, mask=inside, other=0).to(tl.float32)
    difference = tl.load(x + token * d_out + offsets, mask=inside, other=0).to(tl.float32) - x_hat
    tl.store(out + tl.program_id(1).to(tl.int64) * n + token, tl.sum(difference * difference))


def decode_error(acts: SparseActs, W_dec: Prepared, b_dec: Tensor, x: Tensor) -> Tensor:
    """See `sae_fast.reference.decode_error`. Float32 [n]."""
    (n, d_sae), d_out = acts.shape, W_dec.shape[1]
    if _dense.pays(n, acts.nnz, d_sae, W_dec.rows.dtype):
        return _dense_error(acts, W_dec, b_dec, x)
    how = cut(n, acts.nnz, d_sae, d_out, W_dec.rows.element_size(), card_of(W_dec.rows))
    if how.splits > 1:
        return (x.float() - gathered(acts, W_dec, b_dec, how)).square().sum(1)
    return gathered_error(acts, W_dec, b_dec, x, how)


def gathered_error(acts: SparseActs, W_dec: Prepared, b_dec: Tensor, x: Tensor, how: Cut) -> Tensor:
    """The error by gathering rows, cut as told; one program to a sum."""
    (n, _), (_, d_out), rows = acts.shape, W_dec.shape, W_dec.rows
    slabs = triton.cdiv(d_out, how.block_d)
    error = torch.empty(slabs, n, dtype=torch.float32, device=rows.device)
    if n:
        with on_card_of(rows):
            _decode_error[n, slabs](
                acts.values.contiguous(), acts.col_indices.contiguous(), acts.crow_indices.contiguous(), rows,
                b_dec.contiguous(), x.contiguous(), error, n, d_out,
                BLOCK_D=how.block_d, IN_FLIGHT=how.in_flight, enable_fp_fusion=True,
            )  # fmt: skip
    return error.sum(0)


def _dense_error(acts: SparseActs, W_dec: Prepared, b_dec: Tensor, x: Tensor) -> Tensor:
    error = torch.empty(len(x), dtype=torch.float32, device=x.device)
    for first in range(0, len(x), _dense.BLOCK_TOKENS):
        some = slice(first, first + _dense.BLOCK_TOKENS)
        x_hat = b_dec.float().repeat(len(x[some]), 1)
        _dense.add_block(acts, W_dec, first, x_hat)
        error[some] = (x[some].float() - x_hat).square().sum(1)
    return error
