"""`bias_gradient`: the sum of each feature's values, one program to a feature, so that no order is left to chance."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_fast.kernels._card import on_card_of
from sae_fast.sparse import FeatureMajor

BLOCK = 1024


@triton.jit
def _segment_sum(values, pointer, out, BLOCK: tl.constexpr):
    """Set out [segments] to the sum of the values of each."""
    segment = tl.program_id(0).to(tl.int64)
    start, stop = tl.load(pointer + segment), tl.load(pointer + segment + 1)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(start, stop, BLOCK):
        entries = first + tl.arange(0, BLOCK)
        total += tl.load(values + entries, mask=entries < stop, other=0).to(tl.float32)
    tl.store(out + segment, tl.sum(total))


def bias_gradient(by_feature: FeatureMajor) -> Tensor:
    """See `sae_fast.reference.bias_gradient`. Float32 [d_sae]."""
    d_sae = by_feature.shape[1]
    out = torch.empty(d_sae, dtype=torch.float32, device=by_feature.values.device)
    with on_card_of(out):
        _segment_sum[(d_sae,)](by_feature.values.contiguous(), by_feature.feature_ptr, out, BLOCK=BLOCK, enable_fp_fusion=True)
    return out
