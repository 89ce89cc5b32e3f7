"""What each operator passes back: sums over stored entries, computed by operators, so that they can be traced too."""

from typing import Any

import torch
from torch import Tensor

from sae_fast.autograd import operators

Gradients = tuple[Tensor | None, ...]


def register() -> None:
    """Give the operators their gradients."""
    operators.encode_topk.register_autograd(_topk_backward, setup_context=_save_topk)
    operators.encode_threshold.register_autograd(_threshold_backward, setup_context=_save_threshold)
    operators.encode_batch_topk.register_autograd(_batch_topk_backward, setup_context=_save_batch_topk)
    operators.decode.register_autograd(_decode_backward, setup_context=_save_decode)
    operators.decode_error.register_autograd(_decode_error_backward, setup_context=_save_decode_error)


def _save_topk(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, rows, bias, ctx.k, ctx.impl, _ = inputs
    ctx.save_for_backward(x, rows, bias, *output)


def _topk_backward(ctx: Any, _: Tensor, grad: Tensor) -> Gradients:
    x, rows, bias, col_indices, values = ctx.saved_tensors
    crow_indices = torch.arange(x.shape[0] + 1, device=x.device) * ctx.k
    # A stored zero is a pre-activation that relu cut off.
    grad = torch.where(values > 0, grad, 0)
    return *_encoder_gradients(ctx, x, rows, bias, (crow_indices, col_indices, grad)), None, None, None


def _save_batch_topk(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, rows, bias, _, ctx.impl = inputs
    ctx.save_for_backward(x, rows, bias, *output[:2])


def _batch_topk_backward(ctx: Any, _: Tensor, __: Tensor, grad: Tensor) -> Gradients:
    x, rows, bias, crow_indices, col_indices = ctx.saved_tensors
    return *_encoder_gradients(ctx, x, rows, bias, (crow_indices, col_indices, grad)), None, None


def _save_threshold(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, rows, bias, _, gain, offset, ctx.impl = inputs
    ctx.save_for_backward(x, rows, bias, gain, offset, *output[:2])


def _threshold_backward(ctx: Any, _: Tensor, __: Tensor, grad: Tensor) -> Gradients:
    x, rows, bias, gain, offset, crow_indices, col_indices = ctx.saved_tensors
    needs_gain, needs_offset = ctx.needs_input_grad[4:6]
    features, d_gain, d_offset = col_indices.long(), None, None
    if needs_gain:
        h = operators.sampled_dot(crow_indices, col_indices, x, rows, ctx.impl)
        h = h + bias.to(h.dtype)[features]
        d_gain = _by_feature_sum(ctx, crow_indices, col_indices, grad * h, rows).to(gain.dtype)
    if needs_offset:
        d_offset = _by_feature_sum(ctx, crow_indices, col_indices, grad, rows).to(offset.dtype)
    if gain is not None:
        grad = grad * gain.to(grad.dtype)[features]
    encoder = _encoder_gradients(ctx, x, rows, bias, (crow_indices, col_indices, grad))
    return *encoder, None, d_gain, d_offset, None


def _encoder_gradients(ctx: Any, x: Tensor, rows: Tensor, bias: Tensor, entries: operators.Entries) -> Gradients:
    """By x, rows and bias, as far as they are needed; `entries` hold the gradients by the pre-activations."""
    needs_x, needs_rows, needs_bias = ctx.needs_input_grad[:3]
    d_x = d_rows = d_bias = None
    if needs_x:
        zeros = rows.new_zeros(rows.shape[1], dtype=entries[2].dtype)
        d_x = operators.decode(*entries, rows, zeros, ctx.impl).to(x.dtype)
    if needs_rows or needs_bias:
        by_feature = operators.transpose(*entries, rows.shape[0], ctx.impl)
        if needs_rows:
            d_rows = operators.weight_gradient(*by_feature, x, ctx.impl).to(rows.dtype)
        if needs_bias:
            d_bias = operators.bias_gradient(*by_feature, x.shape[0], ctx.impl).to(bias.dtype)
    return d_x, d_rows, d_bias


def _by_feature_sum(ctx: Any, crow_indices: Tensor, col_indices: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    by_feature = operators.transpose(crow_indices, col_indices, values, rows.shape[0], ctx.impl)
    return operators.bias_gradient(*by_feature, crow_indices.shape[0] - 1, ctx.impl)


def _save_decode(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.impl = inputs
    ctx.save_for_backward(*tensors)


def _decode_backward(ctx: Any, grad: Tensor) -> Gradients:
    return *_decoder_gradients(ctx, grad.contiguous()), None


def _save_decode_error(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.impl = inputs
    ctx.save_for_backward(*tensors)


def _decode_error_backward(ctx: Any, grad: Tensor) -> Gradients:
    *decoder, x = ctx.saved_tensors
    # The reconstruction was not kept; to compute it again costs less than to hold it for every batch in flight.
    difference = operators.decode(*decoder, ctx.impl) - x
    by_x_hat = difference * (2 * grad)[:, None]
    d_x = -by_x_hat.to(x.dtype) if ctx.needs_input_grad[5] else None
    return *_decoder_gradients(ctx, by_x_hat), d_x, None


def _decoder_gradients(ctx: Any, grad: Tensor) -> Gradients:
    """By crow_indices and col_indices (none), values, rows and b_dec; `grad` [n, d_out] is the gradient by x_hat."""
    crow_indices, col_indices, values, rows, b_dec = ctx.saved_tensors[:5]
    _, _, needs_values, needs_rows, needs_bias = ctx.needs_input_grad[:5]
    d_values = d_rows = d_bias = None
    if needs_values:
        d_values = operators.sampled_dot(crow_indices, col_indices, grad, rows, ctx.impl).to(values.dtype)
    if needs_rows:
        by_feature = operators.transpose(crow_indices, col_indices, values.to(grad.dtype), rows.shape[0], ctx.impl)
        d_rows = operators.weight_gradient(*by_feature, grad, ctx.impl).to(rows.dtype)
    if needs_bias:
        d_bias = grad.sum(0).to(b_dec.dtype)
    return None, None, d_values, d_rows, d_bias
