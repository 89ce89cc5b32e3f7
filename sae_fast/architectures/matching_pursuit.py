"""Matching pursuit: features are taken one by one, each explaining most of what the others have left."""

import math

import torch
from torch import Tensor

from sae_fast import ops
from sae_fast.config import MatchingPursuit
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs, row_pointer


def encode_matching_pursuit(x: Tensor, W_enc: Prepared, pursuit: MatchingPursuit) -> SparseActs:
    """See `reference.matching_pursuit`; `x` [..., d_in], b_dec already subtracted, `W_enc` the transposed decoder.

    Only tokens that are not done take part in a step, and a step is a top-1 of the residuals: no dense [n, d_sae].
    """
    residual = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).to(W_enc.wide)
    zeros = torch.zeros(W_enc.d_sae, dtype=W_enc.wide, device=x.device)
    token = torch.arange(len(residual), device=x.device)
    taken = torch.empty(len(residual), 0, dtype=torch.int64, device=x.device)
    places, values = [token[:0]], [residual.new_empty(0)]
    for _ in range(pursuit.max_iterations or x.shape[-1]):
        if not len(token):
            break
        best = ops.encode_topk(residual.detach(), W_enc, zeros, 1).col_indices.long()
        direction = W_enc.rows[best].to(W_enc.wide)
        value = (residual * direction).sum(1).relu()
        residual = residual - value[:, None] * direction
        places.append(token * W_enc.d_sae + best)
        values.append(value)
        goes_on = (value != 0) & (residual.detach().norm(dim=1) >= pursuit.residual_threshold)
        if pursuit.stop_on_duplicate_support:
            goes_on &= ~(taken == best[:, None]).any(1)
            taken = torch.cat([taken, best[:, None]], dim=1)[goes_on]
        token, residual = token[goes_on], residual[goes_on]
    return _summed(torch.cat(places), torch.cat(values), tuple(x.shape[:-1]), W_enc.d_sae)


def _summed(places: Tensor, values: Tensor, leading: tuple[int, ...], d_sae: int) -> SparseActs:
    """Entries at `token * d_sae + feature`, those of the same place added, zeros left out."""
    places, values = places[values != 0], values[values != 0]
    places, entry = places.unique(return_inverse=True)
    summed = values.new_zeros(len(places)).index_add(0, entry, values)
    n = math.prod(leading)
    lengths = torch.bincount(places // d_sae, minlength=n)
    return SparseActs(row_pointer(lengths), (places % d_sae).to(torch.int32), summed, (n, d_sae), leading)
