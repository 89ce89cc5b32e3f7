"""`Weights`: the tensors of an SAE beside its configuration, checked against it."""

from typing import Self

import torch
from torch import Tensor

from sae_fast.config import SAEConfig, tensor_shapes
from sae_fast.errors import ArgumentError, ShapeError


class Weights:
    """What an SAE holds; `sae_fast.sae.SAE` adds what it computes.

    Matrices are held as published, in any floating dtype; biases and thresholds are kept in float32 (float64 beside float64
    weights), and W_enc as a view of rows by feature, the order in which it is used. What is computed from the tensors is kept,
    so they must not be changed in place: all methods return a new object. Wrong shapes raise `ShapeError`, missing and
    superfluous tensors `ArgumentError`.
    """

    def __init__(self, cfg: SAEConfig, **tensors: Tensor | None) -> None:
        """`tensors` by the names of `sae_fast.config.tensor_shapes(cfg)`. Without W_dec the SAE can only encode."""
        self._cfg = cfg
        self._tensors = _checked(cfg, tensors)

    @property
    def cfg(self) -> SAEConfig:
        """What it is."""
        return self._cfg

    @property
    def W_enc(self) -> Tensor:  # noqa: N802
        """[d_in, d_sae]; the transpose of W_dec where the weights are tied."""
        return self.W_dec.T if self.cfg.tied else self._tensors["W_enc"]

    @property
    def W_dec(self) -> Tensor:  # noqa: N802
        """[d_sae, d_out], or [d_sae, n_out, d_out]; row `f` is the direction of feature `f`.

        Raises `ArgumentError` where it was left out; see `has_decoder`.
        """
        if not self.has_decoder:
            raise ArgumentError("W_dec: this SAE was loaded without its decoder", advice="Load it with encoder_only=False")
        return self._tensors["W_dec"]

    @property
    def has_decoder(self) -> bool:
        """False for an SAE without W_dec, which can only encode."""
        return "W_dec" in self._tensors

    @property
    def b_dec(self) -> Tensor:
        """[d_out], or [n_out, d_out]."""
        return self._tensors["b_dec"]

    @property
    def b_enc(self) -> Tensor | None:
        """[d_sae]; None for gated, matching_pursuit and temporal."""
        return self._tensors.get("b_enc")

    @property
    def threshold(self) -> Tensor | None:
        """[d_sae], jumprelu and batchtopk; compared with pre-activations."""
        return self._tensors.get("threshold")

    @property
    def b_gate(self) -> Tensor | None:
        """[d_sae], gated."""
        return self._tensors.get("b_gate")

    @property
    def b_mag(self) -> Tensor | None:
        """[d_sae], gated."""
        return self._tensors.get("b_mag")

    @property
    def r_mag(self) -> Tensor | None:
        """[d_sae], gated."""
        return self._tensors.get("r_mag")

    @property
    def W_skip(self) -> Tensor | None:  # noqa: N802
        """[d_out, d_in], where `cfg.skip`."""
        return self._tensors.get("W_skip")

    @property
    def attention(self) -> dict[str, Tensor]:
        """Weights and biases of a temporal SAE's attention, `attn_layers.0.k_ctx.weight` and so on; empty for all others."""
        return {name: tensor for name, tensor in self._tensors.items() if name.startswith("attn_layers.")}

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the matrices."""
        return self._encoding.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self._encoding.device

    @property
    def wide(self) -> torch.dtype:
        """Dtype of biases, thresholds and results: float32, or float64 beside float64 weights."""
        return self.b_dec.dtype

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name."""
        return dict(self._tensors)

    def replace(self, cfg: SAEConfig | None = None, **tensors: Tensor | None) -> Self:
        """The same with another configuration, or with some other tensors."""
        return type(self)(self.cfg if cfg is None else cfg, **(self._tensors | tensors))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same on another device, or with weights in another dtype (biases and thresholds stay float32 or wider)."""
        tensors: dict[str, Tensor | None] = {
            name: tensor.to(device=device, dtype=dtype if _is_matrix(name) else None) for name, tensor in self._tensors.items()
        }
        return type(self)(self.cfg, **tensors)

    @property
    def _encoding(self) -> Tensor:
        return self._tensors["W_dec"] if self.cfg.tied else self._tensors["W_enc"]


def _is_matrix(name: str) -> bool:
    """Whether a tensor is held in the dtype of the weights; the others are float32 or wider."""
    return name.startswith("W_") or name.endswith(".weight")


def _checked(cfg: SAEConfig, tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """The tensors in the order of `tensor_shapes`, vectors widened, W_enc laid out by feature."""
    shapes = tensor_shapes(cfg)
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    kind = f"an SAE of architecture {cfg.architecture}"
    for name in given.keys() - shapes.keys():
        raise ArgumentError(f"{name}: {kind} has no such tensor")
    may_lack = set() if cfg.tied or cfg.rescale_acts_by_decoder_norm or cfg.temporal is not None else {"W_dec"}
    for name in shapes.keys() - given.keys() - may_lack:
        raise ArgumentError(f"{name}: {kind} needs it")
    for name, tensor in given.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ShapeError(name, expected=list(shapes[name]), got=list(tensor.shape))
    if "W_enc" in given:
        given["W_enc"] = given["W_enc"].T.contiguous().T
    exact = torch.promote_types(given["W_dec" if cfg.tied else "W_enc"].dtype, torch.float32)
    return {name: given[name] if _is_matrix(name) else given[name].to(exact) for name in shapes if name in given}
