"""AbsTopK: the k pre-activations largest in magnitude, with their sign (arXiv 2510.00404)."""

import torch
from torch import Tensor

from sae_fast import ops
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs


def encode_abstopk(x: Tensor, W_enc: Prepared, b_enc: Tensor, k: int) -> SparseActs:
    """See `reference.abstopk`; `x` [..., d_in], `b_enc` [d_sae]. Rows all have k entries, zeros at the lowest unused features.

    The k largest of `h` and the k largest of `-h` hold the k largest of `|h|`: two exact top-k, with the same weights.
    """
    rising = ops.encode_topk(x, W_enc, b_enc, k).flatten()
    falling = ops.encode_topk(-x, W_enc, -b_enc, k).flatten()
    (up, up_values), (down, down_values) = rising.topk_view(), falling.topk_view()
    features, order = torch.cat([up, down], dim=1).sort(dim=1, stable=True)
    values = torch.cat([up_values, -down_values], dim=1).gather(1, order)
    magnitude = values.detach().abs().masked_fill(_superfluous(features, values, order >= k), -1)
    largest = magnitude.sort(dim=1, descending=True, stable=True).indices[:, :k]
    features, values = features.gather(1, largest), values.gather(1, largest)
    return SparseActs.from_topk(features.unflatten(0, x.shape[:-1]), values.unflatten(0, x.shape[:-1]), W_enc.d_sae)


def _superfluous(features: Tensor, values: Tensor, falling: Tensor) -> Tensor:
    """Stored zeros that are not needed to fill a row up, `features` ascending: of features with another entry."""
    zero = values == 0
    superfluous = zero & falling
    superfluous[:, :-1] |= zero[:, :-1] & ~zero[:, 1:] & (features[:, :-1] == features[:, 1:])
    return superfluous
