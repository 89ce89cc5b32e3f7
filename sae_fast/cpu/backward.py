"""What the backward pass of encode and decode needs beyond decode itself; only active features take part."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sae_fast.sparse import FeatureMajor, SparseActs

CACHE_BYTES = 1 << 19
"""Of gathered rows: what stays in a core's cache until it is summed."""


def sampled_dot(acts: SparseActs, a: Tensor, rows: Tensor) -> Tensor:
    """See `sae_fast.reference.sampled_dot`."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    tokens, features, a = acts.row_indices(), acts.col_indices, a.to(wide).contiguous()
    if rows.dtype == wide and acts.nnz:
        # What torch itself computes for the weights of an embedding_bag: one pass, where gathering first takes three.
        gradient = torch.ops.aten._embedding_bag_per_sample_weights_backward
        dots: Tensor = gradient(a, rows, features.long(), acts.crow_indices, tokens, mode=0)
        return dots
    out = torch.empty(acts.nnz, dtype=wide, device=rows.device)
    step = max(1, CACHE_BYTES // (wide.itemsize * max(1, rows.shape[1])))
    for first in range(0, acts.nnz, step):
        some = slice(first, first + step)
        products = rows.index_select(0, features[some]).to(wide).mul_(a.index_select(0, tokens[some]))
        torch.sum(products, dim=1, out=out[some])
    return out


def weight_gradient(by_feature: FeatureMajor, a: Tensor) -> Tensor:
    """See `sae_fast.reference.weight_gradient`."""
    wide = torch.promote_types(by_feature.values.dtype, torch.float32)
    values, pointer = by_feature.values.to(wide), by_feature.feature_ptr
    return F.embedding_bag(
        by_feature.rows, a.to(wide), pointer, mode="sum", per_sample_weights=values, include_last_offset=True
    )


def bias_gradient(by_feature: FeatureMajor) -> Tensor:
    """See `sae_fast.reference.bias_gradient`. Summed in float64."""
    wide = torch.promote_types(by_feature.values.dtype, torch.float32)
    values = by_feature.values.double()
    return torch.segment_reduce(values, "sum", offsets=by_feature.feature_ptr, initial=0).to(wide)
