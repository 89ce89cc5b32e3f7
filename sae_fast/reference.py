"""The operations as formulas in plain PyTorch. This page is the specification: every implementation is tested against it.

`h = x @ W_enc + bias` throughout. `x` is rounded to the dtype of the weights; products and sums are float32 (float64 where the
weights are float64), and so are the results. Shapes are those of `sae_fast.ops`, with one leading dimension. Everything here
is differentiable, forms dense [n, d_sae] matrices, and is meant to be read, not to be fast.
"""

import torch
from torch import Tensor

from sae_fast.sparse import FeatureMajor, SparseActs, row_pointer


def pre_acts(x: Tensor, W_enc: Tensor, bias: Tensor) -> Tensor:
    """Return x @ W_enc + bias, [n, d_sae] in the accumulation dtype."""
    wide = torch.promote_types(W_enc.dtype, torch.float32)
    return x.to(W_enc.dtype).to(wide) @ W_enc.to(wide) + bias.to(wide)


def encode_topk(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> SparseActs:
    """The k largest of relu(h) in each row. Ties, and with them unused zeros, go to the lowest feature indices."""
    values, indices = pre_acts(x, W_enc, b_enc).relu().sort(dim=1, descending=True, stable=True)
    return SparseActs.from_topk(indices[:, :k], values[:, :k], W_enc.shape[1])


def encode_threshold(
    x: Tensor, W_enc: Tensor, bias: Tensor, threshold: Tensor, gain: Tensor | None = None, offset: Tensor | None = None
) -> SparseActs:
    """Features with h > threshold; their value is h, or gain * h + offset."""
    h = pre_acts(x, W_enc, bias)
    fires = h > threshold.to(h.dtype)
    if gain is not None:
        h = gain.to(h.dtype) * h
    if offset is not None:
        h = h + offset.to(h.dtype)
    return _selected(h, fires)


def encode_batch_topk(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: float) -> SparseActs:
    """The floor(k * n) largest of relu(h) over the whole batch, zeros left out. Ties go to the lower row, then feature."""
    acts = pre_acts(x, W_enc, b_enc).relu()
    order = acts.flatten().sort(descending=True, stable=True).indices[: int(k * x.shape[0])]
    chosen = torch.zeros_like(acts, dtype=torch.bool)
    chosen.view(-1)[order] = True
    return _selected(acts, chosen & (acts > 0))


def decode(acts: SparseActs, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    """Return acts @ W_dec + b_dec, [n, d_out]."""
    wide = torch.promote_types(W_dec.dtype, torch.float32)
    return acts.flatten().to_dense().to(wide) @ W_dec.to(wide) + b_dec.to(wide)


def decode_error(acts: SparseActs, W_dec: Tensor, b_dec: Tensor, x: Tensor) -> Tensor:
    """‖x - x_hat‖² of each row, [n]."""
    x_hat = decode(acts, W_dec, b_dec)
    return (x.to(x_hat.dtype) - x_hat).square().sum(1)


def transpose(acts: SparseActs) -> FeatureMajor:
    """The same entries, ordered by feature, then by row."""
    order = acts.col_indices.long().sort(stable=True).indices
    lengths = torch.bincount(acts.col_indices, minlength=acts.shape[1])
    return FeatureMajor(row_pointer(lengths), acts.row_indices()[order], acts.values[order], acts.shape)


def sampled_dot(acts: SparseActs, a: Tensor, rows: Tensor) -> Tensor:
    """a[t] @ rows[f] for each entry (t, f) of `acts`, [nnz]; its values play no part. The gradient of decode by its values."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    return (a.to(wide) @ rows.to(wide).T)[acts.row_indices(), acts.col_indices.long()]


def weight_gradient(by_feature: FeatureMajor, a: Tensor) -> Tensor:
    """acts.T @ a, [d_sae, d]: the sum of value * a[token] over each feature's entries."""
    wide = torch.promote_types(by_feature.values.dtype, torch.float32)
    return _by_feature_dense(by_feature).to(wide) @ a.to(wide)


def bias_gradient(by_feature: FeatureMajor) -> Tensor:
    """The sum of each feature's values, [d_sae]."""
    wide = torch.promote_types(by_feature.values.dtype, torch.float32)
    return _by_feature_dense(by_feature).to(wide).sum(1)


def _by_feature_dense(by_feature: FeatureMajor) -> Tensor:
    """[d_sae, n]."""
    n, d_sae = by_feature.shape
    features = torch.arange(d_sae, device=by_feature.rows.device).repeat_interleave(by_feature.feature_ptr.diff())
    return by_feature.values.new_zeros(d_sae, n).index_put((features, by_feature.rows), by_feature.values)


def _selected(values: Tensor, chosen: Tensor) -> SparseActs:
    return SparseActs(
        crow_indices=row_pointer(chosen.sum(1)),
        col_indices=chosen.nonzero()[:, 1].to(torch.int32),
        values=values[chosen],
        shape=(values.shape[0], values.shape[1]),
    )
