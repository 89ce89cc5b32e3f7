"""Temporal SAEs: attention over earlier codes predicts a token, and the features are what it did not predict."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from sae_fast.architectures.reference import NORM_EPSILON
from sae_fast.config import Temporal
from sae_fast.errors import ShapeError
from sae_fast.prepared import Prepared


def code_scale(d_in: int) -> float:
    """What inputs are multiplied by before they are encoded."""
    return 1 / (4 * d_in)


def predict(
    x: Tensor, W_enc: Prepared, W_dec: Prepared, attention: Mapping[str, Tensor], temporal: Temporal
) -> tuple[Tensor, Tensor]:
    """(predicted, residual), whose sum is `x` [..., pos, d_in], all of that shape. See `reference.temporal`.

    Codes are dense by nature here, [pos, d_sae], of one sequence at a time. Raises `ShapeError` for tokens without a sequence.
    """
    if x.ndim < 2:
        raise ShapeError("x", expected="[..., pos, d_in]: a temporal SAE encodes sequences", got=list(x.shape))
    wide = W_dec.wide
    weights = {name: tensor.to(wide) for name, tensor in attention.items()}
    encoder, decoder = W_enc.matrix.to(wide), W_dec.matrix.to(wide)
    sequences = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:]).to(W_dec.input_dtype).to(wide)
    predicted = [_predicted(sequence, encoder, decoder, weights, temporal) for sequence in sequences]
    whole = torch.stack(predicted) if predicted else sequences
    return whole.reshape(x.shape), (sequences - whole).reshape(x.shape)


def _predicted(x: Tensor, W_enc: Tensor, W_dec: Tensor, attention: Mapping[str, Tensor], temporal: Temporal) -> Tensor:
    """What the earlier positions of one sequence [pos, d_in] explain of each."""
    predicted = torch.zeros_like(x)
    for layer in range(temporal.n_attn_layers):
        residual = x - predicted
        codes = (residual * code_scale(x.shape[1]) @ W_enc).relu()
        direction = _attended(codes, attention, f"attn_layers.{layer}", temporal.n_heads).relu() @ W_dec
        norm = direction.norm(dim=1, keepdim=True) + NORM_EPSILON
        predicted = predicted + (direction * residual).sum(1, keepdim=True) / norm.square() * direction
    return predicted


def _attended(codes: Tensor, attention: Mapping[str, Tensor], layer: str, n_heads: int) -> Tensor:
    """Causal attention: queries from the codes [pos, d_sae], keys and values from those one position earlier."""

    def by_head(x: Tensor, name: str) -> Tensor:
        projected = F.linear(x, attention[f"{layer}.{name}.weight"], attention[f"{layer}.{name}.bias"])
        return projected.unflatten(1, (n_heads, -1)).transpose(0, 1)

    context = F.pad(codes[:-1], (0, 0, min(1, len(codes)), 0))
    query, key, value = by_head(codes, "q_target"), by_head(context, "k_ctx"), by_head(context, "v_ctx")
    mixed = F.scaled_dot_product_attention(query[None], key[None], value[None], is_causal=True)[0]
    flat = mixed.transpose(0, 1).flatten(1)
    return F.linear(flat, attention[f"{layer}.c_proj.weight"], attention[f"{layer}.c_proj.bias"])
