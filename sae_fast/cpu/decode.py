"""Reconstruction by gathering decoder rows, and the order by feature."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sae_fast.cpu.rows import Widened, chunk_features, chunk_rows
from sae_fast.prepared import Prepared
from sae_fast.sparse import FeatureMajor, SparseActs, row_pointer


def decode(acts: SparseActs, W_dec: Prepared, b_dec: Tensor) -> Tensor:
    """See `sae_fast.reference.decode`."""
    values = acts.values.to(W_dec.wide)
    if W_dec.rows.dtype == W_dec.wide:
        x_hat = _weighted_rows(acts.crow_indices, acts.col_indices, values, W_dec.rows)
    else:
        x_hat = _widened_in_parts(acts, values, W_dec)
    return x_hat.add_(b_dec.to(x_hat.dtype))


def decode_error(acts: SparseActs, W_dec: Prepared, b_dec: Tensor, x: Tensor) -> Tensor:
    """See `sae_fast.reference.decode_error`."""
    n = acts.shape[0]
    error = torch.empty(n, dtype=W_dec.wide, device=W_dec.device)
    rows = chunk_rows(W_dec)
    for start in range(0, n, rows):
        stop = min(n, start + rows)
        difference = decode(acts.rows(slice(start, stop)), W_dec, b_dec).sub_(x[start:stop])
        torch.sum(difference.square_(), dim=1, out=error[start:stop])
    return error


def transpose(acts: SparseActs) -> FeatureMajor:
    """See `sae_fast.reference.transpose`. A radix sort: linear in the number of entries."""
    order = stable_order(acts.col_indices, acts.shape[1])
    lengths = torch.bincount(acts.col_indices, minlength=acts.shape[1])
    return FeatureMajor(row_pointer(lengths), acts.row_indices()[order], acts.values[order], acts.shape)


def stable_order(keys: Tensor, n_keys: int) -> Tensor:
    """Stable argsort of integer `keys` below `n_keys`. numpy's stable sort is a radix sort for 16-bit keys only."""
    if keys.device.type != "cpu":
        return keys.sort(stable=True).indices
    array = keys.numpy()
    order = np.argsort(array.astype(np.uint16), kind="stable")
    if n_keys > 1 << 16:
        order = order[np.argsort((array[order] >> 16).astype(np.uint16), kind="stable")]
    return torch.from_numpy(order)


def _weighted_rows(pointer: Tensor, features: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """Sum of `values[e] * rows[features[e]]` over the entries e of each row of the pointer."""
    # 32-bit offsets halve what is read, and spare widening the features.
    index = torch.int32 if len(values) < 1 << 31 else torch.int64
    return F.embedding_bag(
        features.to(index), rows, pointer.to(index), mode="sum", per_sample_weights=values, include_last_offset=True
    )


def _widened_in_parts(acts: SparseActs, values: Tensor, W_dec: Prepared) -> Tensor:
    """The weighted rows of narrow weights, widening those of some active features at a time."""
    x_hat = torch.zeros(acts.shape[0], W_dec.shape[1], dtype=W_dec.wide, device=W_dec.device)
    features = acts.col_indices.long()
    is_active = torch.zeros(acts.shape[1], dtype=torch.bool, device=W_dec.device).index_fill_(0, features, True)
    active, place = is_active.nonzero()[:, 0], (is_active.cumsum(0) - 1)[features]
    weights, step = Widened(W_dec.rows, W_dec.wide), chunk_features(W_dec)
    for first in range(0, len(active), step):
        rows = weights[active[first : first + step]]
        here = (place >= first) & (place < first + step)
        if len(active) <= step:
            return _weighted_rows(acts.crow_indices, place, values, rows)
        pointer = F.pad(here.cumsum(0), (1, 0))[acts.crow_indices]
        x_hat += _weighted_rows(pointer, place[here] - first, values[here], rows)
    return x_hat
