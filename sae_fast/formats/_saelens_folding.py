"""What SAELens's trainer did to its inputs, folded into the weights, so that the SAE reads activations as they are."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError
from sae_fast.formats._description import Tensors


@dataclass(frozen=True)
class Whitening:
    """Training saw `z = (x - mean) @ matrix`, and `x_hat = z_hat @ inverse + mean` (arXiv 2511.13981). All in float64."""

    mean: Tensor
    """[d_in]."""
    matrix: Tensor
    """[d_in, d_in]."""
    inverse: Tensor
    """[d_in, d_in]."""


def fold_finetuning(tensors: Tensors, factor: Tensor) -> Tensors:
    """What a feature writes is multiplied by its factor [d_sae]; what it reads stays."""
    if "W_dec" not in tensors:
        return tensors
    W_dec = tensors["W_dec"]
    if len(W_dec) != len(factor):
        raise ArgumentError("features: the finetuning factors of some features only cannot be read", advice="Load them all")
    return tensors | {"W_dec": (W_dec.to(_wide(W_dec)) * factor.to(W_dec.device)[:, None]).to(W_dec.dtype)}


def fold_scale(tensors: Tensors, scale: float, tied: bool, threshold_follows_norms: bool) -> Tensors:
    """Inputs were multiplied by `scale`, outputs are divided. With tied weights the activations are what is divided."""
    if scale == 1.0:
        return tensors
    folded = {"b_dec": tensors["b_dec"].to(_wide(tensors["b_dec"])) / scale}
    if not tied:
        folded["W_enc"] = _scaled(tensors["W_enc"], scale)
    if not tied and "W_dec" in tensors:
        folded["W_dec"] = _scaled(tensors["W_dec"], 1 / scale)
    if threshold_follows_norms:
        # It is compared with activations times decoder norm, and the decoder has just been divided.
        folded["threshold"] = tensors["threshold"] / scale
    return tensors | folded


def fold_norms(tensors: Tensors) -> Tensors:
    """Decoder rows of norm one; pre-activations, and so the selection, are in units of activation times decoder norm."""
    W_enc, W_dec, b_enc = tensors["W_enc"], tensors["W_dec"], tensors["b_enc"]
    wide = _wide(W_dec)
    norms = torch.linalg.vector_norm(W_dec, dim=1, dtype=wide)
    norms = torch.where(norms > 0, norms, 1)
    return tensors | {
        "W_enc": (W_enc.to(wide) * norms).to(W_enc.dtype),
        "W_dec": (W_dec.to(wide) / norms[:, None]).to(W_dec.dtype),
        "b_enc": b_enc.to(wide) * norms,
    }


def fold_whitening(tensors: Tensors, whitening: Whitening, b_dec_is_subtracted: bool) -> Tensors:
    """`z` and `x_hat` are affine in their inputs, so that both become part of the weights."""
    W_enc, wide = tensors["W_enc"], _wide(tensors["W_enc"])
    mean, matrix, inverse = (t.to(W_enc.device) for t in (whitening.mean, whitening.matrix, whitening.inverse))
    encoder = matrix @ W_enc.double()
    folded = {"W_enc": encoder.to(W_enc.dtype), "b_dec": (tensors["b_dec"].double() @ inverse + mean).to(wide)}
    if "W_dec" in tensors:
        folded["W_dec"] = (tensors["W_dec"].double() @ inverse).to(tensors["W_dec"].dtype)
    if not b_dec_is_subtracted:
        # Subtracting the new b_dec takes the mean away too; without that the biases do.
        shift = mean @ encoder
        gain = {"b_mag": tensors["r_mag"].double().exp()} if "r_mag" in tensors else {}
        for name in ("b_enc", "b_gate", "b_mag"):
            if name in tensors:
                folded[name] = (tensors[name].double() - shift * gain.get(name, 1)).to(wide)
    return tensors | folded


def _scaled(matrix: Tensor, factor: float) -> Tensor:
    return (matrix.to(_wide(matrix)) * factor).to(matrix.dtype)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
