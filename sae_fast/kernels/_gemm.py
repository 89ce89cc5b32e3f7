"""Design A: the encoder's matrix product, whose epilogue reduces every group of 16 features to two words in registers."""

import triton
import triton.language as tl

from sae_fast.kernels._groups import group_hits, group_top2


@triton.jit
def group_gemm(
    x, rows, bias, threshold, x_margin, row_margin, first_words, second_words, n, d_in, d_sae,
    HITS: tl.constexpr, SCREEN: tl.constexpr, DESCRIPTORS: tl.constexpr, EVEN: tl.constexpr, INTERPRET: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PANEL: tl.constexpr,
):  # fmt: skip
    """Words of x [n, d_in] @ rows [d_sae, d_in].T + bias: two int32 [n, n_groups].

    x and rows are pointers, or tensor descriptors where DESCRIPTORS. With SCREEN they are scaled as `_screen` says, and each
    pre-activation is raised to its upper bound. Tiles of one panel of PANEL * BM tokens run together, so that a tile of weights
    is read from memory once for them.
    """
    n_row_tiles = tl.cdiv(n, BM)
    in_panel = PANEL * tl.cdiv(d_sae, BN)
    first_tile = tl.program_id(0) // in_panel * PANEL
    height = tl.minimum(n_row_tiles - first_tile, PANEL)
    row_tile = first_tile + tl.program_id(0) % in_panel % height
    column_tile = tl.program_id(0) % in_panel // height
    row = row_tile * BM + tl.arange(0, BM)
    column = column_tile * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    if not DESCRIPTORS:
        # Rows past the end are read as the last one; their results are not stored.
        x_tile = x + tl.minimum(row, n - 1).to(tl.int64)[:, None] * d_in + depth[None, :]
        w_tile = rows + tl.minimum(column, d_sae - 1).to(tl.int64)[:, None] * d_in + depth[None, :]
    h = tl.zeros((BM, BN), tl.float32)
    for k in tl.range(0, d_in, BK):
        if DESCRIPTORS:
            a = x.load([row_tile * BM, k])
            b = rows.load([column_tile * BN, k])
        elif EVEN:
            a = tl.load(x_tile + k)
            b = tl.load(w_tile + k)
        else:
            a = tl.load(x_tile + k, mask=(k + depth < d_in)[None, :], other=0.0)
            b = tl.load(w_tile + k, mask=(k + depth < d_in)[None, :], other=0.0)
        if INTERPRET:
            a, b = a.to(tl.float32), b.to(tl.float32)
        h = tl.dot(a, tl.trans(b), h, input_precision="ieee")
    exists = column < d_sae
    if SCREEN:
        # One more step of the product adds bias and margin: see _screen.
        term = tl.arange(0, 16)
        a = tl.load(x_margin + tl.minimum(row, n - 1)[:, None] * 16 + term[None, :])
        b = tl.load(row_margin + tl.minimum(column, d_sae - 1)[:, None] * 16 + term[None, :])
        if INTERPRET:
            a, b = a.to(tl.float32), b.to(tl.float32)
        h = tl.dot(a, tl.trans(b), h, input_precision="ieee")
        # Back from the units of the scaled operands, by a power of two.
        unscale = tl.load(x_margin + tl.minimum(row, n - 1) * 16 + 6).to(tl.float32)
        h = tl.where(exists[None, :], h * unscale[:, None], float("-inf"))
        if HITS:
            first, second = group_hits(h, h > 0, BM, BN)
        else:
            first, second = group_top2(h, BM, BN)
    else:
        h += tl.load(bias + column, mask=exists, other=float("-inf"))[None, :]
        if HITS:
            fires = h > tl.load(threshold + column, mask=exists, other=float("inf"))[None, :]
            first, second = group_hits(h, fires, BM, BN)
        else:
            first, second = group_top2(h, BM, BN)
    n_groups = 4 * tl.cdiv(d_sae, 64)
    group = column_tile * (BN // 16) + tl.arange(0, BN // 16)
    place = row.to(tl.int64)[:, None] * n_groups + group[None, :]
    stored = (row < n)[:, None] & (group < n_groups)[None, :]
    if not (SCREEN and HITS):
        tl.store(first_words + place, first, mask=stored)
    tl.store(second_words + place, second, mask=stored)
