"""Each operation as a `torch.library` operator: tensors and numbers in, tensors out, shapes known without computing.

`rows` [d_sae, d] are weights as `Prepared` holds them. Sparse activations travel as `crow_indices`, `col_indices` and `values`,
and by feature as `feature_ptr`, `tokens` and `values`. `impl` is chosen when an operator runs, not when it is traced. The
number of entries that pass a threshold is data: under `torch.compile` it is an unbacked size. No argument has a default, since
torch would leave it out of what it tells the gradients.
"""

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, get_ctx

from sae_fast import cpu, reference
from sae_fast.implementations import choose
from sae_fast.prepared import Prepared, prepared_from
from sae_fast.sparse import FeatureMajor, SparseActs

Entries = tuple[Tensor, Tensor, Tensor]
"""(crow_indices, col_indices, values), or (feature_ptr, tokens, values)."""


def _wide(rows: Tensor) -> torch.dtype:
    return torch.promote_types(rows.dtype, torch.float32)


def _run(operation: str, impl: str, *arguments: Any, tensors: tuple[Tensor, ...], weights: Tensor, **options: Any) -> Any:
    """Compute by the implementation that `impl` names for these operands."""
    with torch.no_grad():
        module = choose(operation, impl, *tensors, weights=weights)  # type: ignore[arg-type]
        plain = [a.matrix if isinstance(a, Prepared) and module is reference else a for a in arguments]
        # Only kernels have options.
        return getattr(module, operation)(*plain, **({} if module in (cpu, reference) else options))


def _acts(crow_indices: Tensor, col_indices: Tensor, values: Tensor, d_sae: int) -> SparseActs:
    return SparseActs(crow_indices, col_indices, values, (crow_indices.numel() - 1, d_sae))


def _parts(acts: SparseActs) -> Entries:
    return acts.crow_indices, acts.col_indices, acts.values


@custom_op("sae_fast::encode_topk", mutates_args=())
def encode_topk(x: Tensor, rows: Tensor, bias: Tensor, k: int, impl: str, approximate: bool) -> tuple[Tensor, Tensor]:
    """Return (col_indices, values), each [n k]."""
    weights, options = prepared_from(rows, "encoder"), {"approximate": True} if approximate else {}
    acts = _run("encode_topk", impl, x, weights, bias, k, tensors=(x, bias), weights=rows, **options)
    return acts.col_indices, acts.values


@encode_topk.register_fake
def _(x: Tensor, rows: Tensor, bias: Tensor, k: int, impl: str, approximate: bool) -> tuple[Tensor, Tensor]:
    entries = x.shape[0] * k
    return x.new_empty(entries, dtype=torch.int32), x.new_empty(entries, dtype=_wide(rows))


@custom_op("sae_fast::encode_threshold", mutates_args=())
def encode_threshold(
    x: Tensor,
    rows: Tensor,
    bias: Tensor,
    threshold: Tensor,
    gain: Tensor | None,
    offset: Tensor | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (crow_indices, col_indices, values)."""
    tensors = tuple(tensor for tensor in (x, bias, threshold, gain, offset) if tensor is not None)
    arguments = (x, prepared_from(rows, "encoder"), bias, threshold, gain, offset)
    return _parts(_run("encode_threshold", impl, *arguments, tensors=tensors, weights=rows))


@encode_threshold.register_fake
def _(
    x: Tensor,
    rows: Tensor,
    bias: Tensor,
    threshold: Tensor,
    gain: Tensor | None,
    offset: Tensor | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _unknown_entries(x, rows)


@custom_op("sae_fast::encode_batch_topk", mutates_args=())
def encode_batch_topk(x: Tensor, rows: Tensor, bias: Tensor, k: float, impl: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return (crow_indices, col_indices, values)."""
    weights = prepared_from(rows, "encoder")
    return _parts(_run("encode_batch_topk", impl, x, weights, bias, k, tensors=(x, bias), weights=rows))


@encode_batch_topk.register_fake
def _(x: Tensor, rows: Tensor, bias: Tensor, k: float, impl: str) -> tuple[Tensor, Tensor, Tensor]:
    return _unknown_entries(x, rows)


def _unknown_entries(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    entries = get_ctx().new_dynamic_size()
    pointer = x.new_empty(x.shape[0] + 1, dtype=torch.int64)
    return pointer, x.new_empty(entries, dtype=torch.int32), x.new_empty(entries, dtype=_wide(rows))


@custom_op("sae_fast::decode", mutates_args=())
def decode(crow_indices: Tensor, col_indices: Tensor, values: Tensor, rows: Tensor, b_dec: Tensor, impl: str) -> Tensor:
    """x_hat [n, d_out]."""
    acts, weights = _acts(crow_indices, col_indices, values, rows.shape[0]), prepared_from(rows, "decoder")
    x_hat: Tensor = _run("decode", impl, acts, weights, b_dec, tensors=(values, b_dec), weights=rows)
    return x_hat


@decode.register_fake
def _(crow_indices: Tensor, col_indices: Tensor, values: Tensor, rows: Tensor, b_dec: Tensor, impl: str) -> Tensor:
    return rows.new_empty(crow_indices.shape[0] - 1, rows.shape[1], dtype=_wide(rows))


@custom_op("sae_fast::decode_error", mutates_args=())
def decode_error(
    crow_indices: Tensor, col_indices: Tensor, values: Tensor, rows: Tensor, b_dec: Tensor, x: Tensor, impl: str
) -> Tensor:
    """Squared errors [n]."""
    acts, weights = _acts(crow_indices, col_indices, values, rows.shape[0]), prepared_from(rows, "decoder")
    error: Tensor = _run("decode_error", impl, acts, weights, b_dec, x, tensors=(values, b_dec, x), weights=rows)
    return error


@decode_error.register_fake
def _(crow_indices: Tensor, col_indices: Tensor, values: Tensor, rows: Tensor, b_dec: Tensor, x: Tensor, impl: str) -> Tensor:
    return rows.new_empty(crow_indices.shape[0] - 1, dtype=_wide(rows))


@custom_op("sae_fast::transpose", mutates_args=())
def transpose(
    crow_indices: Tensor, col_indices: Tensor, values: Tensor, d_sae: int, impl: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (feature_ptr, tokens, values)."""
    acts = _acts(crow_indices, col_indices, values, d_sae)
    by_feature = _run("transpose", impl, acts, tensors=(), weights=values)
    return by_feature.feature_ptr, by_feature.rows, by_feature.values


@transpose.register_fake
def _(crow_indices: Tensor, col_indices: Tensor, values: Tensor, d_sae: int, impl: str) -> tuple[Tensor, Tensor, Tensor]:
    pointer = crow_indices.new_empty(d_sae + 1)
    return pointer, crow_indices.new_empty(values.shape[0]), torch.empty_like(values)


@custom_op("sae_fast::sampled_dot", mutates_args=())
def sampled_dot(crow_indices: Tensor, col_indices: Tensor, a: Tensor, rows: Tensor, impl: str) -> Tensor:
    """Return [nnz]."""
    pattern = _acts(crow_indices, col_indices, a.new_empty(1).expand(col_indices.shape), rows.shape[0])
    dots: Tensor = _run("sampled_dot", impl, pattern, a, rows, tensors=(a,), weights=rows)
    return dots


@sampled_dot.register_fake
def _(crow_indices: Tensor, col_indices: Tensor, a: Tensor, rows: Tensor, impl: str) -> Tensor:
    return rows.new_empty(col_indices.shape[0], dtype=_wide(rows))


@custom_op("sae_fast::weight_gradient", mutates_args=())
def weight_gradient(feature_ptr: Tensor, tokens: Tensor, values: Tensor, a: Tensor, impl: str) -> Tensor:
    """Return [d_sae, d]."""
    by_feature = FeatureMajor(feature_ptr, tokens, values, (a.shape[0], feature_ptr.shape[0] - 1))
    widest = max(values, a, key=lambda tensor: tensor.dtype.itemsize)
    gradient: Tensor = _run("weight_gradient", impl, by_feature, a, tensors=(values, a), weights=widest)
    return gradient


@weight_gradient.register_fake
def _(feature_ptr: Tensor, tokens: Tensor, values: Tensor, a: Tensor, impl: str) -> Tensor:
    return a.new_empty(feature_ptr.shape[0] - 1, a.shape[1], dtype=_wide(values))


@custom_op("sae_fast::bias_gradient", mutates_args=())
def bias_gradient(feature_ptr: Tensor, tokens: Tensor, values: Tensor, n: int, impl: str) -> Tensor:
    """Return [d_sae]."""
    by_feature = FeatureMajor(feature_ptr, tokens, values, (n, feature_ptr.shape[0] - 1))
    gradient: Tensor = _run("bias_gradient", impl, by_feature, tensors=(), weights=values)
    return gradient


@bias_gradient.register_fake
def _(feature_ptr: Tensor, tokens: Tensor, values: Tensor, n: int, impl: str) -> Tensor:
    return values.new_empty(feature_ptr.shape[0] - 1, dtype=_wide(values))
