"""Design B: the vendor's matrix product into a chunk that stays in the L2 cache, then the same group words from the chunk.

It needs nothing of the card but PyTorch's product, and has that product's speed; each pre-activation is written and read once,
in cache where the chunk fits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_fast.kernels._groups import group_hits, group_top2

CHUNK_TOKENS = 4096
CHUNK_FEATURES = 2048
"""A chunk is 32 MiB of float32; a multiple of 64."""
TILE_ROWS = 8
TILE_COLUMNS = 256


@triton.jit
def chunk_words(
    h_chunk, bias, threshold, x_margin, row_margin, first_words, second_words,
    n, chunk_stride, first_feature, n_features, d_sae,
    HITS: tl.constexpr, SCREEN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Words of the features [first_feature, first_feature + n_features) from their products h_chunk [n, chunk_stride]."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    inside = (row < n)[:, None] & (column < n_features)[None, :]
    h = tl.load(h_chunk + row.to(tl.int64)[:, None] * chunk_stride + column[None, :], mask=inside, other=0.0)
    feature = first_feature + column
    exists = column < n_features
    if SCREEN:
        a = tl.load(x_margin + row * 16, mask=row < n, other=0.0).to(tl.float32)[:, None]
        b = tl.load(x_margin + row * 16 + 1, mask=row < n, other=0.0).to(tl.float32)[:, None]
        terms = row_margin + feature * 16
        norm = tl.load(terms, mask=exists, other=0.0).to(tl.float32)[None, :]
        residual = tl.load(terms + 1, mask=exists, other=0.0).to(tl.float32)[None, :]
        of_bias = tl.load(terms + 2, mask=exists, other=0.0).to(tl.float32)[None, :]
        s = tl.load(x_margin + row * 16 + 2, mask=row < n, other=0.0).to(tl.float32)[:, None]
        unscale = tl.load(x_margin + row * 16 + 6, mask=row < n, other=0.0).to(tl.float32)[:, None]
        h = (h + a * norm + b * residual + s * of_bias) * unscale
    h += tl.load(bias + feature, mask=exists, other=float("-inf"))[None, :]
    if HITS:
        if SCREEN:
            first, second = group_hits(h, h > 0, BM, BN)
        else:
            first, second = group_hits(h, h > tl.load(threshold + feature, mask=exists, other=0.0)[None, :], BM, BN)
    else:
        first, second = group_top2(h, BM, BN)
    n_groups = 4 * tl.cdiv(d_sae, 64)
    group = first_feature // 16 + tl.program_id(1) * (BN // 16) + tl.arange(0, BN // 16)
    last = first_feature // 16 + 4 * tl.cdiv(n_features, 64)
    place = row.to(tl.int64)[:, None] * n_groups + group[None, :]
    stored = (row < n)[:, None] & (group < last)[None, :]
    tl.store(first_words + place, first, mask=stored)
    tl.store(second_words + place, second, mask=stored)


def product_into(x: Tensor, rows: Tensor, out: Tensor) -> None:
    """Float32 products x [n, d_in] @ rows [m, d_in].T of operands in half precision, without rounding them between."""
    if x.device.type == "cuda":
        torch.mm(x, rows.T, out_dtype=torch.float32, out=out)
    else:
        torch.mm(x.float(), rows.float().T, out=out)


def write_words(
    x: Tensor, rows: Tensor, bias: Tensor, threshold: Tensor, x_margin: Tensor, row_margin: Tensor,
    first: Tensor, second: Tensor, hits: bool, screen: bool,
) -> None:  # fmt: skip
    """Fill `first` and `second` [n, n_groups] for x [n, d_in], chunk by chunk."""
    n, d_sae = x.shape[0], rows.shape[0]
    buffer = torch.empty(min(n, CHUNK_TOKENS) * min(d_sae, CHUNK_FEATURES), dtype=torch.float32, device=x.device)
    for start in range(0, n, CHUNK_TOKENS):
        tokens = slice(start, min(n, start + CHUNK_TOKENS))
        for feature in range(0, d_sae, CHUNK_FEATURES):
            chunk = rows[feature : feature + CHUNK_FEATURES]
            shape = (tokens.stop - start, len(chunk))
            h = buffer[: shape[0] * shape[1]].view(shape)
            product_into(x[tokens], chunk, h)
            grid = (triton.cdiv(shape[0], TILE_ROWS), triton.cdiv(shape[1], TILE_COLUMNS))
            chunk_words[grid](
                h, bias, threshold, x_margin[tokens], row_margin, first[tokens], second[tokens], shape[0], shape[1], feature,
                shape[1], d_sae, HITS=hits, SCREEN=screen, BM=TILE_ROWS, BN=TILE_COLUMNS, num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
