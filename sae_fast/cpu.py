"""Fast implementations in PyTorch, made for the CPU; tensors may lie on any device.

Same signatures and results as `sae_fast.reference`, without gradients and without a dense [n, d_sae]: pre-activations are
computed into one reused chunk of at most `CHUNK_BYTES` and reduced to entries at once. Weights are expected as
`sae_fast.ops.prepare` leaves them (float32 or float64).
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sae_fast.prepared import Prepared
from sae_fast.sparse import FeatureMajor, SparseActs, row_pointer

CHUNK_BYTES = 32 << 20
"""Largest buffer of pre-activations (or reconstructions): enough rows for the matrix product to be efficient."""


def encode_topk(x: Tensor, W_enc: Prepared, b_enc: Tensor, k: int) -> SparseActs:
    """See `sae_fast.reference.encode_topk`."""
    n, d_sae = x.shape[0], W_enc.shape[1]
    indices = torch.empty(n, k, dtype=torch.int32, device=x.device)
    values = torch.empty(n, k, dtype=W_enc.wide, device=x.device)
    for start, h in _pre_act_chunks(x, W_enc, b_enc):
        stop = start + len(h)
        chosen = _topk_indices(h.relu_(), k)
        indices[start:stop] = chosen
        torch.gather(h, 1, chosen, out=values[start:stop])
    return SparseActs(
        crow_indices=torch.arange(n + 1, device=x.device) * k,
        col_indices=indices.view(-1),
        values=values.view(-1),
        shape=(n, d_sae),
        entries_per_row=k,
    )


def encode_threshold(
    x: Tensor, W_enc: Prepared, bias: Tensor, threshold: Tensor, gain: Tensor | None = None, offset: Tensor | None = None
) -> SparseActs:
    """See `sae_fast.reference.encode_threshold`."""
    wide = W_enc.wide
    threshold = threshold.to(wide)
    lengths, features, values = [], [], []
    for _, h in _pre_act_chunks(x, W_enc, bias):
        chosen, column = _flat_entries(h > threshold)
        value = h.view(-1)[chosen]
        if gain is not None:
            value *= gain.to(wide)[column]
        if offset is not None:
            value += offset.to(wide)[column]
        lengths.append(torch.bincount(chosen // W_enc.shape[1], minlength=len(h)))
        features.append(column.to(torch.int32))
        values.append(value)
    return _from_parts(lengths, features, values, x, W_enc)


def encode_batch_topk(x: Tensor, W_enc: Prepared, b_enc: Tensor, k: float) -> SparseActs:
    """See `sae_fast.reference.encode_batch_topk`.

    Keeps the best floor(k * n) entries seen so far and raises the level that a new entry must reach as it goes.
    """
    n, d_sae = x.shape[0], W_enc.shape[1]
    wanted = int(k * n)
    places = torch.empty(0, dtype=torch.int64, device=x.device)
    values = torch.empty(0, dtype=W_enc.wide, device=x.device)
    level = 0.0
    for start, h in _pre_act_chunks(x, W_enc, b_enc):
        # A later entry equal to the lowest one kept loses the tie, so strictly greater is enough.
        chosen, _ = _flat_entries(h > level)
        places = torch.cat([places, chosen + start * d_sae])
        values = torch.cat([values, h.view(-1)[chosen]])
        if len(values) > wanted:
            kept = _largest(values, wanted)
            places, values = places[kept], values[kept]
            level = float(values.min()) if wanted else float("inf")
    lengths = torch.bincount(places // d_sae, minlength=n)
    return SparseActs(row_pointer(lengths), (places % d_sae).to(torch.int32), values, (n, d_sae))


def decode(acts: SparseActs, W_dec: Prepared, b_dec: Tensor) -> Tensor:
    """See `sae_fast.reference.decode`."""
    x_hat = _weighted_rows(acts, W_dec)
    return x_hat.add_(b_dec.to(x_hat.dtype))


def decode_error(acts: SparseActs, W_dec: Prepared, b_dec: Tensor, x: Tensor) -> Tensor:
    """See `sae_fast.reference.decode_error`."""
    n = acts.shape[0]
    error = torch.empty(n, dtype=W_dec.wide, device=W_dec.device)
    rows = _chunk_rows(W_dec)
    for start in range(0, n, rows):
        stop = min(n, start + rows)
        difference = decode(acts.rows(slice(start, stop)), W_dec, b_dec).sub_(x[start:stop])
        torch.sum(difference.square_(), dim=1, out=error[start:stop])
    return error


def transpose(acts: SparseActs) -> FeatureMajor:
    """See `sae_fast.reference.transpose`. A radix sort: linear in the number of entries."""
    features = acts.col_indices
    if features.device.type == "cpu":
        order = torch.from_numpy(_radix_argsort(features.numpy(), acts.shape[1]))
    else:
        order = features.sort(stable=True).indices
    lengths = torch.bincount(features, minlength=acts.shape[1])
    return FeatureMajor(row_pointer(lengths), acts.row_indices()[order], acts.values[order], acts.shape)


def _chunk_rows(W: Prepared) -> int:
    return max(1, CHUNK_BYTES // (W.shape[1] * W.wide.itemsize))


def _pre_act_chunks(x: Tensor, W_enc: Prepared, bias: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first row, x[rows] @ W_enc + bias), each in the same buffer: use it before asking for the next."""
    n = x.shape[0]
    bias = bias.to(W_enc.wide)
    rows = _chunk_rows(W_enc)
    matrix = W_enc.matrix.to(W_enc.wide)
    buffer = torch.empty(min(n, rows), W_enc.shape[1], dtype=W_enc.wide, device=x.device)
    for start in range(0, n, rows):
        stop = min(n, start + rows)
        yield start, torch.addmm(bias, x[start:stop].to(W_enc.wide), matrix, out=buffer[: stop - start])


def _topk_indices(acts: Tensor, k: int) -> Tensor:
    """Ascending indices int64 [rows, k] of the k largest of each row of `acts`, ties to the lower index."""
    if k == acts.shape[1]:
        return torch.arange(k, device=acts.device).expand(len(acts), k)
    # torch.topk breaks ties as it likes; one value more shows which rows have a tie across the border.
    values, indices = acts.topk(k + 1, dim=1)
    chosen = indices[:, :k].sort(dim=1).values
    tied = (values[:, k - 1] == values[:, k]).nonzero()[:, 0]
    if tied.numel():
        candidates, lowest = acts[tied], values[tied, k - 1 : k]
        equal = candidates == lowest
        # "Not smaller, not equal" is "greater", and keeps NaN where topk puts it: first.
        greater = ~((candidates < lowest) | equal)
        room = k - greater.sum(1, keepdim=True)
        kept = greater | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
        chosen[tied] = kept.nonzero()[:, 1].view(-1, k)
    return chosen


def _flat_entries(mask: Tensor) -> tuple[Tensor, Tensor]:
    """(flat positions, columns) int64 where `mask` [rows, columns] is true, in row-major order."""
    on_cpu = mask.device.type == "cpu"
    chosen = torch.from_numpy(np.flatnonzero(mask.numpy())) if on_cpu else mask.view(-1).nonzero()[:, 0]
    return chosen, chosen % mask.shape[1]


def _largest(values: Tensor, count: int) -> Tensor:
    """Ascending positions of the `count` largest of `values`, ties to the lower position."""
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=values.device)
    lowest = values.kthvalue(len(values) - count + 1).values
    greater, equal = values > lowest, values == lowest
    return (greater | (equal & (equal.cumsum(0) <= count - greater.sum()))).nonzero()[:, 0]


def _from_parts(lengths: list[Tensor], features: list[Tensor], values: list[Tensor], x: Tensor, W_enc: Prepared) -> SparseActs:
    nothing = torch.empty(0, device=x.device)
    return SparseActs(
        crow_indices=row_pointer(torch.cat([nothing.long(), *lengths])),
        col_indices=torch.cat([nothing.int(), *features]),
        values=torch.cat([nothing.to(W_enc.wide), *values]),
        shape=(x.shape[0], W_enc.shape[1]),
    )


def _weighted_rows(acts: SparseActs, W_dec: Prepared) -> Tensor:
    """Return acts @ W_dec by gathering the rows of the active features."""
    return F.embedding_bag(
        acts.col_indices.long(),
        W_dec.rows.to(W_dec.wide),
        acts.crow_indices,
        mode="sum",
        per_sample_weights=acts.values.to(W_dec.wide),
        include_last_offset=True,
    )


def _radix_argsort(keys: np.ndarray, n_keys: int) -> np.ndarray:
    """Stable argsort of integer `keys` below `n_keys`. numpy's stable sort is a radix sort for 16-bit keys only."""
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    if n_keys > 1 << 16:
        order = order[np.argsort((keys[order] >> 16).astype(np.uint16), kind="stable")]
    return order
