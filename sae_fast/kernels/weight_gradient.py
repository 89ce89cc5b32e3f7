"""`weight_gradient`: each feature's sum of `value * a[token]`, by the same gather as decoding with the roles exchanged.

A program sums one slab of one feature's gradient, also where there is nothing to sum, so nothing is cleared first, and nothing
is added atomically. A feature that fires on most tokens would keep one program busy long after the others: sums of more than
`limit` entries are left out there and cut into SPLITS parts, added in their order. How many such features there may be follows
from nnz, so that their number need not be asked of the device.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_fast.kernels._card import card_of, on_card_of
from sae_fast.kernels._gather import cut, split_of, weighted_sum
from sae_fast.sparse import FeatureMajor

SPLITS = 16
"""Parts of a long sum."""

MAX_LONG = 512
"""Most long sums; with d = 4096 their parts are 134 MB."""

SHORTEST_LONG = 2048
"""Entries; shorter sums are never worth a second kernel."""

REDUCE_BLOCK = 256


@triton.jit
def _short_sums(values, tokens, pointer, a, out, d, limit, BLOCK_D: tl.constexpr, IN_FLIGHT: tl.constexpr):
    """Set out [d_sae, d] to the gradients of all features with at most `limit` entries."""
    feature = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    start, stop = tl.load(pointer + feature), tl.load(pointer + feature + 1)
    if stop - start <= limit:
        gradient = weighted_sum(values, tokens, a, start, stop, d, offsets, IN_FLIGHT, BLOCK_D)
        tl.store(out + feature * d + offsets, gradient, mask=offsets < d, eviction_policy="evict_first")


@triton.jit
def _long_sums(
    values, tokens, pointer, a, long_features, partial, d, d_sae, BLOCK_D: tl.constexpr, IN_FLIGHT: tl.constexpr
):  # fmt: skip
    """Set partial [splits, n_long, d] to parts of the gradients of the features listed; d_sae stands for none."""
    feature = tl.load(long_features + tl.program_id(0))
    offsets = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    if feature < d_sae:
        start, stop = tl.load(pointer + feature), tl.load(pointer + feature + 1)
        start, stop = split_of(start, stop, IN_FLIGHT)
        gradient = weighted_sum(values, tokens, a, start, stop, d, offsets, IN_FLIGHT, BLOCK_D)
        row = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
        tl.store(partial + row * d + offsets, gradient, mask=offsets < d)


@triton.jit
def _add_parts(partial, long_features, out, d, d_sae, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """Set the rows of out [d_sae, d] that belong to the listed features to the sums of their parts."""
    feature = tl.load(long_features + tl.program_id(0))
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if feature < d_sae:
        total = tl.zeros((BLOCK,), tl.float32)
        row = tl.program_id(0).to(tl.int64)
        for _ in tl.static_range(SPLITS):
            total += tl.load(partial + row * d + offsets, mask=offsets < d, other=0)
            row += tl.num_programs(0)
        tl.store(out + feature * d + offsets, total, mask=offsets < d)


def weight_gradient(by_feature: FeatureMajor, a: Tensor) -> Tensor:
    """See `sae_fast.reference.weight_gradient`. Float32 [d_sae, d]."""
    (n, d_sae), d, a = by_feature.shape, a.shape[1], a.contiguous()
    out = torch.empty(d_sae, d, dtype=torch.float32, device=a.device)
    how = cut(d_sae, by_feature.nnz, n, d, a.element_size(), card_of(a))
    limit = max(SHORTEST_LONG, triton.cdiv(by_feature.nnz, MAX_LONG))
    entries = (by_feature.values.contiguous(), by_feature.rows, by_feature.feature_ptr, a)
    blocks = {"BLOCK_D": how.block_d, "IN_FLIGHT": how.in_flight, "enable_fp_fusion": True}
    slabs = triton.cdiv(d, how.block_d)
    with on_card_of(a):
        _short_sums[d_sae, slabs](*entries, out, d, limit, **blocks)
        if min(n, by_feature.nnz) > limit:
            long_features = _listed(by_feature.feature_ptr, limit, n_long=by_feature.nnz // limit)
            partial = out.new_empty(SPLITS, len(long_features), d)
            _long_sums[len(long_features), slabs, SPLITS](*entries, long_features, partial, d, d_sae, **blocks)
            _add_parts[len(long_features), triton.cdiv(d, REDUCE_BLOCK)](
                partial, long_features, out, d, d_sae, SPLITS=SPLITS, BLOCK=REDUCE_BLOCK, enable_fp_fusion=True
            )
    return out


def _listed(feature_ptr: Tensor, limit: int, n_long: int) -> Tensor:
    """The features with more than `limit` entries, int64 [n_long], filled up with d_sae; without waiting for the device."""
    is_long = feature_ptr.diff() > limit
    d_sae = len(is_long)
    place = torch.where(is_long, is_long.cumsum(0) - 1, n_long)
    listed = torch.full((n_long + 1,), d_sae, dtype=torch.int64, device=feature_ptr.device)
    # What is not long goes to the last place, which is cut off.
    return listed.scatter_(0, place, torch.arange(d_sae, device=feature_ptr.device))[:n_long].contiguous()
