"""Normalisation of each token before encoding, and back after decoding."""

import math

import torch
from torch import Tensor

from sae_fast.config import SAEConfig
from sae_fast.errors import ArgumentError

LAYER_NORM_EPSILON = 1e-5
"""Added to the standard deviation, as OpenAI's and SAELens's layer_norm do."""


def normalised(cfg: SAEConfig, x: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(what is encoded, mean [n, 1], scale [n, 1]) of `x` [..., d_in], with x = encoded * scale + mean.

    Mean and scale are None where they are the same for every token.
    """
    if cfg.normalize_activations == "none":
        return x, None, None
    if cfg.normalize_activations == "constant_scalar_rescale":
        return x.to(wide) * cfg.input_scale, None, None
    rows = x.reshape(math.prod(x.shape[:-1]), cfg.d_in).to(wide)
    if cfg.normalize_activations == "layer_norm":
        mean, scale = rows.mean(1, keepdim=True), rows.std(1, keepdim=True)
        return ((rows - mean) / (scale + LAYER_NORM_EPSILON)).reshape(x.shape), mean, scale
    scale = rows.norm(dim=1, keepdim=True) / math.sqrt(cfg.d_in)
    return (rows / torch.where(scale > 0, scale, 1)).reshape(x.shape), None, scale


def rescaled(cfg: SAEConfig, x_hat: Tensor, scale: Tensor | None) -> Tensor:
    """A part of a reconstruction in the units of the input, the mean left out. A transcoder's output has units of its own."""
    if cfg.normalize_activations == "none" or cfg.transcoder:
        return x_hat
    if cfg.normalize_activations == "constant_scalar_rescale":
        return x_hat / cfg.input_scale
    if scale is None:
        raise _carries_nothing(cfg)
    return (x_hat.reshape(-1, x_hat.shape[-1]) * scale).reshape(x_hat.shape)


def denormalised(cfg: SAEConfig, x_hat: Tensor, mean: Tensor | None, scale: Tensor | None) -> Tensor:
    """A reconstruction [..., d_out] in the units of the input. Raises `ArgumentError` where mean or scale are missing."""
    x_hat = rescaled(cfg, x_hat, scale)
    if cfg.normalize_activations != "layer_norm" or cfg.transcoder:
        return x_hat
    if mean is None:
        raise _carries_nothing(cfg)
    return (x_hat.reshape(-1, x_hat.shape[-1]) + mean).reshape(x_hat.shape)


def _carries_nothing(cfg: SAEConfig) -> ArgumentError:
    return ArgumentError(
        f"decode: this SAE normalises its input ({cfg.normalize_activations}), and the activations do not carry "
        "the mean and scale of their tokens",
        advice="Pass the SparseActs that encode returned, or their mean and scale",
    )
