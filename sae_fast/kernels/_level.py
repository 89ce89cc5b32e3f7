"""One level for a whole batch, in place of one for each row: what BatchTopK selects by."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_fast.kernels._groups import group_feature, n_features_of
from sae_fast.kernels._product import Product, Words
from sae_fast.kernels._screen import lower_bound

LEVEL_BITS = 18
"""Leading bits of the level that are searched: the exponent's 8 and 10 of the fraction, so within 0.1% of the best."""


@triton.jit
def count_reaching(
    first_words, second_words, x_margin, row_margin, level, counts, n_groups, SCREEN: tl.constexpr, LANES: tl.constexpr
):
    """How many groups of each row certainly hold a value of at least `level` [1] (bits): int32 [n]."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)
    least = tl.load(level)
    total = tl.zeros((LANES,), tl.int32)
    for start in tl.range(0, n_groups, LANES):
        group = start + lane
        first = tl.load(first_words + row * n_groups + group, mask=group < n_groups, other=0)
        if SCREEN:
            code = tl.load(second_words + row * n_groups + group, mask=group < n_groups, other=0) & 15
            first = lower_bound(first, x_margin + row * 16, row_margin, group_feature(group, code))
        total += (first >= least).to(tl.int32)
    tl.store(counts + row, tl.sum(total, 0))


@triton.jit
def top2_to_hits(first_words, second_words, level, n_groups, d_sae, LANES: tl.constexpr):
    """Turn second words [n, n_groups] into masks of what may reach `level` [1]: the largest, or all where the second does."""
    place = tl.program_id(0).to(tl.int64) * n_groups
    group = tl.program_id(1) * LANES + tl.arange(0, LANES)
    exists = group < n_groups
    least = tl.load(level)
    first = tl.load(first_words + place + group, mask=exists, other=0)
    second = tl.load(second_words + place + group, mask=exists, other=0)
    single = tl.where(first >= least, 1 << (second & 15), 0)
    mask = tl.where((second & -16) >= least, (1 << n_features_of(group, d_sae)) - 1, single)
    tl.store(second_words + place + group, mask, mask=exists)


def reached_by(product: Product, words: Words, wanted: int, level: Tensor) -> Tensor:
    """A level (bits, int32 [1]) of at least `level` and 1 that `wanted` values of the block certainly reach, or `level`."""
    n, n_groups = words.first.shape
    counts = torch.empty(n, dtype=torch.int32, device=level.device)
    found = torch.zeros_like(level)
    for bit in range(30, 30 - LEVEL_BITS, -1):
        trial = found | (1 << bit)
        count_reaching[(n,)](
            words.first, words.second, words.x_margin, product.row_margin, trial, counts, n_groups, SCREEN=product.screen,
            LANES=min(2048, triton.next_power_of_2(n_groups)), num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        found = torch.where(counts.sum() >= wanted, trial, found)
    return torch.maximum(found, level).clamp_(min=1)


def keep_reaching(product: Product, words: Words, level: Tensor) -> None:
    """Turn the words of a block, top-2, into hits: what may reach the level."""
    n, n_groups = words.first.shape
    lanes = min(1024, triton.next_power_of_2(n_groups))
    top2_to_hits[(n, triton.cdiv(n_groups, lanes))](
        words.first, words.second, level, n_groups, product.weights.d_sae, LANES=lanes, num_warps=4, enable_fp_fusion=True
    )
