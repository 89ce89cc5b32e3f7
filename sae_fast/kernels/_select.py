"""TopK after the matrix product: which features of a row can be among its k largest, and which are.

`select` bounds the k-th largest pre-activation of a row from below by the k-th largest of its groups' largest (k distinct
features reach it), and keeps what reaches the bound. A group whose second largest reaches it as well may hide a third, so all
its 16 features are kept, to be computed again. `finish` takes the k largest of what was kept.

A row's candidates lie in SLOTS places: single ones from the front, the 16 of each flagged group from the back. A row with more
`overflows` and is left to `_rescan`.
"""

import triton
import triton.language as tl

from sae_fast.kernels._groups import group_feature, kth_largest
from sae_fast.kernels._screen import lower_bound


@triton.jit
def select(
    first_words, second_words, x_margin, row_margin, features, bits, groups, counts, overflows,
    n_groups, k, SCREEN: tl.constexpr, EXACT: tl.constexpr, SLOTS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """One program per row: its candidates' features and bits [n, SLOTS], flagged groups [n, SLOTS / 16], counts [n, 2].

    `overflows` int32 [n] is 1 for rows whose candidates do not fit, and whose counts are 0.
    """
    row = tl.program_id(0).to(tl.int64)
    first_words += row * n_groups
    second_words += row * n_groups
    lane = tl.arange(0, LANES)
    best = tl.zeros((LANES,), tl.int32)
    for start in tl.range(0, n_groups, LANES):
        group = start + lane
        first = tl.load(first_words + group, mask=group < n_groups, other=0)
        if SCREEN:
            code = tl.load(second_words + group, mask=group < n_groups, other=0) & 15
            first = lower_bound(first, x_margin + row * 16, row_margin, group_feature(group, code))
        best = tl.maximum(best, first)
    level = tl.maximum(kth_largest(best, k), 1)
    n_single = 0
    n_flagged = 0
    for start in tl.range(0, n_groups, LANES):
        group = start + lane
        first = tl.load(first_words + group, mask=group < n_groups, other=0)
        second = tl.load(second_words + group, mask=group < n_groups, other=0)
        flagged = ((second & -16) >= level) & EXACT
        single = (first >= level) & ~flagged
        # Both counts in one scan: at most 4096 lanes, so neither half overflows.
        both = single.to(tl.int32) + (flagged.to(tl.int32) << 16)
        rank = tl.cumsum(both, 0)
        place = n_single + (rank & 0xFFFF) - 1
        kept = single & (place < SLOTS)
        tl.store(features + row * SLOTS + place, group_feature(group, second & 15), mask=kept)
        tl.store(bits + row * SLOTS + place, first, mask=kept)
        block = n_flagged + (rank >> 16) - 1
        tl.store(groups + row * (SLOTS // 16) + block, group, mask=flagged & (block < SLOTS // 16))
        total = tl.sum(both, 0)
        n_single += total & 0xFFFF
        n_flagged += total >> 16
    fits = n_single + 16 * n_flagged <= SLOTS
    tl.store(counts + row * 2, tl.where(fits, n_single, 0))
    tl.store(counts + row * 2 + 1, tl.where(fits, n_flagged, 0))
    tl.store(overflows + row, tl.where(fits, 0, 1))


@triton.jit
def finish(features, bits, counts, out_features, out_values, k, SLOTS: tl.constexpr):
    """One program per row: the k largest candidates, ties to the lower feature, sorted by feature.

    `out_features` holds 0, 1, … and `out_values` zeros beforehand. Where only p < k candidates are positive, the k - p lowest
    unused features remain as they are: the i-th feature f of the p is preceded by min(k - p, f - i) of those.
    """
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, SLOTS)
    n_single = tl.load(counts + row * 2)
    n_flagged = tl.load(counts + row * 2 + 1)
    valid = (slot < n_single) | (slot >= SLOTS - 16 * n_flagged)
    bit = tl.load(bits + row * SLOTS + slot, mask=valid, other=0)
    feature = tl.load(features + row * SLOTS + slot, mask=valid, other=0)
    level = kth_largest(bit, k)
    greater = bit > level
    tied = (bit == level) & (bit > 0)
    room = k - tl.sum(greater.to(tl.int32), 0)
    # The largest number below which fewer than `room` of the tied features lie, bit by bit: the last that is let in.
    last = 0
    for i in range(31):
        trial = last | (1 << (30 - i))
        last = tl.where(tl.sum((tied & (feature < trial)).to(tl.int32), 0) < room, trial, last)
    chosen = greater | (tied & (feature <= last))
    n_chosen = tl.sum(chosen.to(tl.int32), 0)
    rank = tl.zeros((SLOTS,), tl.int32)
    # With 4096 slots, eight others at a time are more than a thread has registers for on some cards.
    WIDTH: tl.constexpr = 4 if SLOTS > 2048 else 8
    for i in tl.range(0, tl.cdiv(n_single, WIDTH) + (16 // WIDTH) * n_flagged):
        first = tl.where(WIDTH * i < n_single, WIDTH * i, SLOTS - WIDTH * (i + 1 - tl.cdiv(n_single, WIDTH)))
        other = first + tl.arange(0, WIDTH)
        exists = other < tl.where(first < n_single, n_single, SLOTS)
        other_bit = tl.load(bits + row * SLOTS + other, mask=exists, other=-1)
        other_feature = tl.load(features + row * SLOTS + other, mask=exists, other=0)
        other_chosen = (other_bit > level) | ((other_bit == level) & (other_bit > 0) & (other_feature <= last))
        rank += tl.sum((other_chosen[None, :] & (other_feature[None, :] < feature[:, None])).to(tl.int32), 1)
    place = rank + tl.minimum(k - n_chosen, feature - rank)
    tl.store(out_features + row * k + place, feature, mask=chosen)
    tl.store(out_values + row * k + place, bit.to(tl.float32, bitcast=True), mask=chosen)
