"""Decoding by a dense product on matrix units, for tokens with so many active features that gathering rows costs more.

Activations are float32 and must stay so: the three bfloat16 numbers `hi + mid + lo` hold all 24 bits of one. Each block of
tokens and features is scattered into three dense bfloat16 blocks, whose products with the weights (also bfloat16) are exact and
are summed in float32. Other weights are multiplied in float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_fast.kernels._card import on_card_of
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs

BREAK_EVEN = {torch.bfloat16: 0.019, torch.float16: 0.096, torch.float32: 0.048}
"""L0 / d_sae above which the product is faster, by the weights' dtype. Predicted for an H200: three products at 790 TFLOP/s, or
one at 52 TFLOP/s, against reading rows out of the L2 cache at 5 TB/s."""

BLOCK_TOKENS, BLOCK_FEATURES = 2048, 16384
"""Of the dense blocks: 200 MB for bfloat16."""

SCATTER_BLOCK = 1024


def pays(n: int, nnz: int, d_sae: int, dtype: torch.dtype) -> bool:
    """Whether the dense product is faster and, for it would round otherwise, float32 products are not set to TF32."""
    exact = dtype == torch.bfloat16 or torch.get_float32_matmul_precision() == "highest"
    return exact and n >= 128 and nnz > BREAK_EVEN[dtype] * n * d_sae


@triton.jit
def _scatter(
    values, columns, pointer, dense, first_token, first_feature, n_features, term_stride,
    BLOCK: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """Write the entries of one token and a range of features into dense [TERMS, tokens, n_features], which holds zeros."""
    token = first_token + tl.program_id(0)
    start, stop = tl.load(pointer + token), tl.load(pointer + token + 1)
    row = dense + tl.program_id(0).to(tl.int64) * n_features
    for first in range(start, stop, BLOCK):
        entries = first + tl.arange(0, BLOCK)
        exists = entries < stop
        column = tl.load(columns + entries, mask=exists, other=0).to(tl.int64) - first_feature
        here = exists & (column >= 0) & (column < n_features)
        rest = tl.load(values + entries, mask=here, other=0).to(tl.float32)
        for term in tl.static_range(TERMS):
            part = rest.to(dense.dtype.element_ty)
            tl.store(row + term * term_stride + column, part, mask=here)
            rest -= part.to(tl.float32)


def decode(acts: SparseActs, W_dec: Prepared, b_dec: Tensor) -> Tensor:
    """See `sae_fast.reference.decode`."""
    x_hat = b_dec.float().repeat(acts.shape[0], 1)
    for first_token in range(0, len(x_hat), BLOCK_TOKENS):
        add_block(acts, W_dec, first_token, x_hat[first_token : first_token + BLOCK_TOKENS])
    return x_hat


def add_block(acts: SparseActs, W_dec: Prepared, first_token: int, x_hat: Tensor) -> None:
    """Add to `x_hat` [tokens, d_out] the reconstructions of its tokens, `first_token` being the first."""
    terms = 3 if W_dec.rows.dtype == torch.bfloat16 else 1
    dtype = torch.bfloat16 if terms == 3 else torch.float32
    for first_feature in range(0, W_dec.d_sae, BLOCK_FEATURES):
        rows = W_dec.rows[first_feature : first_feature + BLOCK_FEATURES].to(dtype)
        dense = torch.zeros(terms, len(x_hat), len(rows), dtype=dtype, device=rows.device)
        with on_card_of(rows):
            _scatter[(len(x_hat),)](
                acts.values.contiguous(), acts.col_indices.contiguous(), acts.crow_indices.contiguous(), dense, first_token,
                first_feature, len(rows), dense.stride(0), BLOCK=SCATTER_BLOCK, TERMS=terms, enable_fp_fusion=True,
            )  # fmt: skip
        for part in dense:
            x_hat += _product(part, rows)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b, summed and returned in float32."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()
