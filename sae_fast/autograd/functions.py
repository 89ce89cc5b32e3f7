"""The operators with the signatures of the operations: `Prepared` weights and `SparseActs`, and `impl` last."""

import torch
from torch import Tensor

from sae_fast.autograd import operators
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs


def encode_topk(x: Tensor, W_enc: Prepared, b_enc: Tensor, k: int, impl: str, approximate: bool = False) -> SparseActs:
    """See `sae_fast.ops.encode_topk`."""
    col_indices, values = operators.encode_topk(x, W_enc.rows, b_enc, k, impl, approximate)
    crow_indices = torch.arange(x.shape[0] + 1, device=x.device) * k
    return SparseActs(crow_indices, col_indices, values, (x.shape[0], W_enc.d_sae), entries_per_row=k)


def encode_threshold(
    x: Tensor, W_enc: Prepared, bias: Tensor, threshold: Tensor, gain: Tensor | None, offset: Tensor | None, impl: str
) -> SparseActs:
    """See `sae_fast.ops.encode_threshold`."""
    return _acts(operators.encode_threshold(x, W_enc.rows, bias, threshold, gain, offset, impl), W_enc)


def encode_batch_topk(x: Tensor, W_enc: Prepared, b_enc: Tensor, k: float, impl: str) -> SparseActs:
    """See `sae_fast.ops.encode_batch_topk`."""
    return _acts(operators.encode_batch_topk(x, W_enc.rows, b_enc, float(k), impl), W_enc)


def decode(acts: SparseActs, W_dec: Prepared, b_dec: Tensor, impl: str) -> Tensor:
    """See `sae_fast.ops.decode`."""
    return operators.decode(acts.crow_indices, acts.col_indices, acts.values, W_dec.rows, b_dec, impl)


def decode_error(acts: SparseActs, W_dec: Prepared, b_dec: Tensor, x: Tensor, impl: str) -> Tensor:
    """See `sae_fast.ops.decode_error`."""
    return operators.decode_error(acts.crow_indices, acts.col_indices, acts.values, W_dec.rows, b_dec, x, impl)


def _acts(entries: operators.Entries, W_enc: Prepared) -> SparseActs:
    crow_indices, col_indices, values = entries
    return SparseActs(crow_indices, col_indices, values, (crow_indices.shape[0] - 1, W_enc.d_sae))
