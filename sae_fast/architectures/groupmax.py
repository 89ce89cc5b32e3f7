"""Groupmax, an option of EleutherAI's sparsify: one feature of each group of neighbours."""

import math

import torch
from torch import Tensor

from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs

CHUNK_ELEMENTS = 1 << 22
"""Most pre-activations held at a time, and most widened weights."""
CHUNK_ROWS = 2048
"""Most tokens of a chunk."""


def encode_groupmax(x: Tensor, W_enc: Prepared, b_enc: Tensor, k: int) -> SparseActs:
    """See `reference.groupmax`; `x` [..., d_in], `b_enc` [d_sae], which k divides. Rows have k entries, one to a group.

    A group without a positive pre-activation stores zero at its first feature.
    """
    flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    flat = flat.to(W_enc.input_dtype).to(W_enc.wide)
    parts = [_largest(rows, W_enc, b_enc.to(W_enc.wide), k) for rows in flat.split(CHUNK_ROWS)]
    features = torch.cat([part[0] for part in parts])
    values = torch.cat([part[1] for part in parts])
    return SparseActs.from_topk(features.unflatten(0, x.shape[:-1]), values.unflatten(0, x.shape[:-1]), W_enc.d_sae)


def _largest(x: Tensor, W_enc: Prepared, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(features, values) [rows, k], some groups at a time."""
    size = W_enc.d_sae // k
    groups = max(1, CHUNK_ELEMENTS // (size * max(CHUNK_ROWS, x.shape[1])))
    features, values = [], []
    for first in range(0, k, groups):
        here = slice(first * size, min(k, first + groups) * size)
        h = torch.addmm(bias[here], x, W_enc.rows[here].to(W_enc.wide).T)
        value, place = h.relu().unflatten(1, (-1, size)).max(dim=2)
        values.append(value)
        features.append(place + torch.arange(here.start, here.stop, size, device=x.device))
    return torch.cat(features, dim=1), torch.cat(values, dim=1)
