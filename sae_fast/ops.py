"""Public operations: validation, and the choice of an implementation.

Every operation exists under one name in `sae_fast.reference` (the specification), here, in the tests and in the benchmarks.
`impl` chooses who computes:

* `"auto"`: the fastest that can do it: `"triton"` on CUDA where Triton is installed and has a kernel for it, otherwise
  `"torch"`;
* `"triton"`: the kernels of `sae_fast.kernels`;
* `"torch"`: `sae_fast.cpu`, chunked, on any device;
* `"reference"`: `sae_fast.reference`, dense.

Encoders, `decode` and `decode_error` have gradients, by all but the thresholds; with every implementation but the reference
they are computed on active features only (`sae_fast.autograd`), which `torch.compile` also passes through without a break.

An implementation that was asked for is used or refused (`ImplementationUnavailableError`), never replaced. Results are float32,
or float64 where the weights are float64, whatever the weights' dtype; `x` is first rounded to the dtype of the weights. Weights
may be given raw, or as `prepare_encoder` and `prepare_decoder` return them, which spares the preparation in each call. Wrong
shapes raise `ShapeError`.
"""

import math
from dataclasses import replace
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from sae_fast import autograd, cpu, reference
from sae_fast.errors import ArgumentError, NonFiniteError, ShapeError
from sae_fast.implementations import Impl, choose
from sae_fast.prepared import Prepared
from sae_fast.sparse import FeatureMajor, SparseActs

__all__ = [
    "Impl",
    "Prepared",
    "bias_gradient",
    "decode",
    "decode_error",
    "encode_batch_topk",
    "encode_threshold",
    "encode_topk",
    "prepare_decoder",
    "prepare_encoder",
    "sampled_dot",
    "transpose",
    "weight_gradient",
]


def prepare_encoder(W_enc: Tensor | Prepared) -> Prepared:
    """`W_enc` [d_in, d_sae] laid out once, for many calls. Not copied if it is the transpose of a contiguous [d_sae, d_in]."""
    return W_enc if isinstance(W_enc, Prepared) else _prepared(W_enc, "encoder")


def prepare_decoder(W_dec: Tensor | Prepared) -> Prepared:
    """`W_dec` [d_sae, d_out] laid out once, for many calls. Not copied if it is contiguous."""
    return W_dec if isinstance(W_dec, Prepared) else _prepared(W_dec, "decoder")


def encode_topk(
    x: Tensor,
    W_enc: Tensor | Prepared,
    b_enc: Tensor,
    k: int,
    impl: Impl = "auto",
    check_finite: bool = False,
    approximate: bool = False,
) -> SparseActs:
    """The k largest activations `relu(x @ W_enc + b_enc)` of each token; ties go to the lower feature index.

    `x` [..., d_in], `W_enc` [d_in, d_sae], `b_enc` [d_sae], 1 <= k <= d_sae. Rows all have k entries; where fewer than k are
    positive, zeros are stored at the lowest unused feature indices. With `check_finite`, NaN or infinity in `x` raises
    `NonFiniteError`. With `approximate`, a kernel may miss some of the k (`sae_fast.kernels.encode_topk` states how many);
    "torch" and "reference" are exact all the same.
    """
    weights, flat = _encoder_inputs(x, W_enc, {"b_enc": b_enc}, check_finite)
    if not (isinstance(k, int) and 1 <= k <= weights.shape[1]):
        raise ArgumentError("k", expected=f"an integer from 1 to d_sae = {weights.shape[1]}", got=k)
    if _needs_operator(impl, weights, x, b_enc):
        return _restored(autograd.encode_topk(flat, weights, b_enc, k, impl, approximate), x)
    module = choose("encode_topk", impl, x, b_enc, weights=weights.rows)
    permitted = {"approximate": True} if approximate and module not in (cpu, reference) else {}
    return _restored(module.encode_topk(flat, _for(module, weights), b_enc, k, **permitted), x)


def encode_threshold(
    x: Tensor,
    W_enc: Tensor | Prepared,
    bias: Tensor,
    threshold: Tensor,
    gain: Tensor | None = None,
    offset: Tensor | None = None,
    impl: Impl = "auto",
    check_finite: bool = False,
) -> SparseActs:
    """Features with `h > threshold`, where `h = x @ W_enc + bias`; their value is `h`, or `gain * h + offset` where given.

    `x` [..., d_in], `W_enc` [d_in, d_sae], the others [d_sae]. ReLU is threshold 0; JumpReLU and BatchTopK at inference are
    `max(θ, 0)`; gated with tied weights is bias 0, threshold `max(-b_gate, -b_mag / exp(r_mag))`, gain `exp(r_mag)`, offset
    `b_mag`. NaN never fires: pass `check_finite` to have it raise `NonFiniteError` instead.
    """
    vectors = {"bias": bias, "threshold": threshold}
    vectors |= {name: vector for name, vector in (("gain", gain), ("offset", offset)) if vector is not None}
    weights, flat = _encoder_inputs(x, W_enc, vectors, check_finite)
    if _needs_operator(impl, weights, x, *vectors.values()):
        return _restored(autograd.encode_threshold(flat, weights, bias, threshold, gain, offset, impl), x)
    module = choose("encode_threshold", impl, x, *vectors.values(), weights=weights.rows)
    return _restored(module.encode_threshold(flat, _for(module, weights), bias, threshold, gain, offset), x)


def encode_batch_topk(
    x: Tensor, W_enc: Tensor | Prepared, b_enc: Tensor, k: float, impl: Impl = "auto", check_finite: bool = False
) -> SparseActs:
    """The `floor(k * n)` largest activations `relu(x @ W_enc + b_enc)` of the whole batch of n tokens, as BatchTopK trains.

    `x` [..., d_in], `W_enc` [d_in, d_sae], `b_enc` [d_sae], 0 <= k <= d_sae. Zeros are not stored; ties go to the earlier
    token, then to the lower feature index. With `check_finite`, NaN or infinity in `x` raises `NonFiniteError`.
    """
    weights, flat = _encoder_inputs(x, W_enc, {"b_enc": b_enc}, check_finite)
    if not 0 <= k <= weights.shape[1]:
        raise ArgumentError("k", expected=f"a number from 0 to d_sae = {weights.shape[1]}", got=k)
    if _needs_operator(impl, weights, x, b_enc):
        return _restored(autograd.encode_batch_topk(flat, weights, b_enc, k, impl), x)
    module = choose("encode_batch_topk", impl, x, b_enc, weights=weights.rows)
    return _restored(module.encode_batch_topk(flat, _for(module, weights), b_enc, k), x)


def decode(acts: SparseActs, W_dec: Tensor | Prepared, b_dec: Tensor, impl: Impl = "auto") -> Tensor:
    """`acts @ W_dec + b_dec`, [*leading, d_out], by gathering the decoder rows of the active features.

    `W_dec` [d_sae, d_out], `b_dec` [d_out]. In the units of the weights: an input normalisation that `acts` carries is undone
    by `SAE.decode`, not here.
    """
    weights = _decoder_inputs(acts, W_dec, b_dec)
    if _needs_operator(impl, weights, acts.values, b_dec):
        return autograd.decode(acts, weights, b_dec, impl).reshape(*acts.leading, weights.shape[1])
    module = choose("decode", impl, acts.values, b_dec, weights=weights.rows)
    x_hat: Tensor = module.decode(acts, _for(module, weights), b_dec)
    return x_hat.reshape(*acts.leading, weights.shape[1])


def decode_error(acts: SparseActs, W_dec: Tensor | Prepared, b_dec: Tensor, x: Tensor, impl: Impl = "auto") -> Tensor:
    """Squared error `‖x - (acts @ W_dec + b_dec)‖²` of each token, [*leading], without keeping the reconstruction.

    `W_dec` [d_sae, d_out], `b_dec` [d_out], `x` [*leading, d_out].
    """
    weights = _decoder_inputs(acts, W_dec, b_dec)
    expected = (*acts.leading, weights.shape[1])
    if tuple(x.shape) != expected:
        raise ShapeError("x", expected=list(expected), got=list(x.shape))
    flat = x.reshape(acts.shape[0], weights.shape[1])
    if _needs_operator(impl, weights, acts.values, b_dec, x):
        return autograd.decode_error(acts, weights, b_dec, flat, impl).reshape(acts.leading)
    module = choose("decode_error", impl, acts.values, b_dec, x, weights=weights.rows)
    error: Tensor = module.decode_error(acts, _for(module, weights), b_dec, flat)
    return error.reshape(acts.leading)


def transpose(acts: SparseActs, impl: Impl = "auto") -> FeatureMajor:
    """The same entries ordered by feature, then by row (CSC), stored zeros included."""
    result: FeatureMajor = choose("transpose", impl, acts.values).transpose(acts)
    return result


def sampled_dot(acts: SparseActs, a: Tensor, rows: Tensor, impl: Impl = "auto") -> Tensor:
    """`a[t] @ rows[f]` for each stored entry (t, f) of `acts`, [nnz]; the values of `acts` play no part.

    `a` [n, d], `rows` [d_sae, d]. With `W_dec` as rows and the gradient of the reconstruction as `a`, it is the gradient of
    `decode` by the activations.
    """
    (n, d_sae), d = acts.shape, rows.shape[-1]
    _require_shape("rows", rows, (d_sae, d))
    _require_shape("a", a, (n, d))
    result: Tensor = choose("sampled_dot", impl, a, weights=rows).sampled_dot(acts, a, rows)
    return result


def weight_gradient(by_feature: FeatureMajor, a: Tensor, impl: Impl = "auto") -> Tensor:
    """`acts.T @ a`, [d_sae, d]: the sum of `value * a[token]` over the entries of each feature, zero where there are none.

    `by_feature` is what `transpose(acts)` returns, `a` [n, d]. With the gradient of the reconstruction as `a`, it is the
    gradient of `decode` by `W_dec`; with gradients of activations as values and `x` as `a`, that of an encoder by `W_enc.T`.
    """
    _require_shape("a", a, (by_feature.shape[0], a.shape[-1]))
    widest = max(by_feature.values, a, key=lambda tensor: tensor.dtype.itemsize)
    result: Tensor = choose("weight_gradient", impl, by_feature.values, a, weights=widest).weight_gradient(by_feature, a)
    return result


def bias_gradient(by_feature: FeatureMajor, impl: Impl = "auto") -> Tensor:
    """The sum of each feature's values, [d_sae]. `by_feature` is what `transpose(acts)` returns."""
    result: Tensor = choose("bias_gradient", impl, weights=by_feature.values).bias_gradient(by_feature)
    return result


def _require_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise ShapeError(name, expected=list(expected), got=list(tensor.shape))


def _encoder_inputs(
    x: Tensor, W_enc: Tensor | Prepared, vectors: dict[str, Tensor], check_finite: bool
) -> tuple[Prepared, Tensor]:
    """The prepared weights, and `x` as [n, d_in] rounded to their dtype."""
    weights = prepare_encoder(W_enc)
    d_in, d_sae = weights.shape
    if x.ndim < 1 or x.shape[-1] != d_in or not x.is_floating_point():
        raise ShapeError("x", expected=f"a floating tensor [..., {d_in}]", got=f"{list(x.shape)} {x.dtype}")
    for name, vector in vectors.items():
        if tuple(vector.shape) != (d_sae,):
            raise ShapeError(name, expected=[d_sae], got=list(vector.shape))
    flat = x.reshape(math.prod(x.shape[:-1]), d_in)
    if check_finite:
        _require_finite(flat)
    return weights, flat.to(weights.input_dtype).to(weights.rows.dtype)


def _decoder_inputs(acts: SparseActs, W_dec: Tensor | Prepared, b_dec: Tensor) -> Prepared:
    weights = prepare_decoder(W_dec)
    if weights.shape[0] != acts.shape[1]:
        raise ShapeError("W_dec", expected=f"[{acts.shape[1]}, d_out], d_sae of the activations", got=list(weights.shape))
    if tuple(b_dec.shape) != (weights.shape[1],):
        raise ShapeError("b_dec", expected=[weights.shape[1]], got=list(b_dec.shape))
    return weights


def _needs_operator(impl: Impl, weights: Prepared, *tensors: Tensor) -> bool:
    """Whether gradients are needed that the implementation itself does not record, or the call is being traced."""
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (weights.rows, *tensors))
    return torch.compiler.is_compiling() or (needs_grad and impl != "reference")


def _for(module: ModuleType, weights: Prepared) -> Prepared | Tensor:
    """The reference takes the matrix as published, the others take it as prepared."""
    return weights.matrix if module is reference else weights


def _prepared(W: Tensor, side: Literal["encoder", "decoder"]) -> Prepared:
    if W.ndim != 2 or not W.is_floating_point():
        raise ShapeError("weights", expected="a floating tensor of two dimensions", got=f"{list(W.shape)} {W.dtype}")
    rows = W.T if side == "encoder" else W
    return Prepared(rows.contiguous(), side, W.dtype)


def _require_finite(x: Tensor) -> None:
    n_bad = int((~torch.isfinite(x)).any(1).sum())
    if n_bad:
        raise NonFiniteError(f"x has NaN or infinite values in {n_bad} of {len(x)} rows")


def _restored(acts: SparseActs, x: Tensor) -> SparseActs:
    return replace(acts, leading=tuple(x.shape[:-1]))
