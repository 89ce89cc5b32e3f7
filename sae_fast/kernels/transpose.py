"""`transpose`: the order by feature, by torch's stable sort.

On CUDA that is CUB's radix sort of key and place together, which is as good as a kernel of ours could be: a counting sort must
place entries in a stable order, which takes the same passes. What it costs is passes over the bits of the key, so keys are cut
to 16 bits where features fit, which halves them. Nothing waits for the device.
"""

import torch
from torch import Tensor

from sae_fast.sparse import FeatureMajor, SparseActs


def transpose(acts: SparseActs) -> FeatureMajor:
    """See `sae_fast.reference.transpose`."""
    d_sae = acts.shape[1]
    keys, order = _sort_keys(acts.col_indices, d_sae).sort(stable=True)
    bounds = torch.arange(d_sae + 1, device=keys.device, dtype=torch.int32)
    feature_ptr = torch.searchsorted(keys.to(torch.int32) + _offset(d_sae), bounds)
    return FeatureMajor(feature_ptr, acts.row_indices()[order], acts.values[order], acts.shape)


def _sort_keys(features: Tensor, d_sae: int) -> Tensor:
    """Features in their order, in the fewest bits that hold them."""
    return features if d_sae > 1 << 16 else (features - _offset(d_sae)).to(torch.int16)


def _offset(d_sae: int) -> int:
    """What brings features into the range of signed 16-bit numbers."""
    return 0 if d_sae > 1 << 16 else 1 << 15
