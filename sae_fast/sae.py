"""`SAE`: the weights of one sparse autoencoder, its configuration, and what it computes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sae_fast import ops
from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs

Architecture = Literal["standard", "gated", "topk", "jumprelu", "batchtopk"]
Normalisation = Literal["none", "layer_norm", "constant_norm_rescale"]

LAYER_NORM_EPSILON = 1e-5
"""Added to the standard deviation, as OpenAI's and SAELens's layer_norm do."""

VECTORS_OF: Mapping[str, tuple[str, ...]] = {
    "standard": ("b_enc",),
    "gated": ("b_gate", "b_mag", "r_mag"),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "batchtopk": ("b_enc", "threshold"),
}
"""The vectors [d_sae] of each architecture, beside W_enc, W_dec and b_dec."""


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """What an SAE is and where in a language model it belongs. Checked at construction (`ArgumentError`)."""

    architecture: Architecture
    """What makes activations sparse."""
    d_in: int
    """Width of the activation it reads."""
    d_sae: int
    """Number of features."""
    d_out: int = 0
    """Width of what it writes; `d_in` if not given."""
    hook_name: str | None = None
    """Where it reads, in TransformerLens style (`blocks.8.hook_resid_post`) or a module path; None where unknown."""
    hook_name_out: str | None = None
    """Where it writes, if elsewhere."""
    model_name: str | None = None
    """The language model it was trained on."""
    k: int | None = None
    """Active features per token: exactly for topk, on average for batchtopk."""
    prepend_bos: bool | None = None
    """Whether contexts began with a BOS token in training; None where unknown."""
    context_size: int | None = None
    """Length of the contexts in training, in tokens."""
    apply_b_dec_to_input: bool = False
    """Encode `x - b_dec` instead of `x`."""
    normalize_activations: Normalisation = "none"
    """Normalisation of each token before encoding, undone after decoding."""
    reshape_activations: Literal["none", "hook_z"] = "none"
    """`hook_z`: the input may come as [..., n_heads, d_head], which is flattened to d_in."""
    rescale_acts_by_decoder_norm: bool = False
    """topk only: activations are multiplied by the norm of their decoder row before the selection, and stay so."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the files said, as they said it."""

    def __post_init__(self) -> None:
        if self.d_out == 0:
            object.__setattr__(self, "d_out", self.d_in)
        for name, allowed in (
            ("architecture", get_args(Architecture)),
            ("normalize_activations", get_args(Normalisation)),
            ("reshape_activations", ("none", "hook_z")),
        ):
            if getattr(self, name) not in allowed:
                raise ArgumentError(name, expected=f"one of {', '.join(allowed)}", got=repr(getattr(self, name)))
        for name in ("d_in", "d_sae", "d_out"):
            if getattr(self, name) < 1:
                raise ArgumentError(name, expected="a positive integer", got=getattr(self, name))
        if self.architecture == "topk" and not 1 <= (self.k or 0) <= self.d_sae:
            raise ArgumentError("k", expected=f"an integer from 1 to d_sae = {self.d_sae}", got=self.k)
        if self.rescale_acts_by_decoder_norm and self.architecture != "topk":
            raise ArgumentError("rescale_acts_by_decoder_norm", expected="False", got=f"True with {self.architecture}")
        if self.normalize_activations != "none" and self.d_out != self.d_in:
            raise ArgumentError("normalize_activations", expected="none where d_out differs from d_in")


@dataclass(frozen=True)
class _Encoder:
    """What `ops` needs to encode, derived once from the published weights."""

    weights: Prepared
    bias: Tensor
    threshold: Tensor | None = None
    gain: Tensor | None = None
    offset: Tensor | None = None


@dataclass(frozen=True, eq=False, repr=False)
class SAE:
    """A sparse autoencoder: `x_hat = decode(encode(x))`.

    Weights are held as published, in any floating dtype; biases and thresholds are kept in float32 (float64 beside float64
    weights). What the operations need is derived from them at the first call, so the tensors must not be changed in place:
    `to` and `fold_decoder_norm` return a new SAE. Wrong shapes raise `ShapeError`, missing vectors `ArgumentError`.
    """

    cfg: SAEConfig
    W_enc: Tensor
    """[d_in, d_sae]."""
    W_dec: Tensor
    """[d_sae, d_out]; row `f` is the direction of feature `f`."""
    b_dec: Tensor
    """[d_out]."""
    b_enc: Tensor | None = None
    """[d_sae], all but gated."""
    threshold: Tensor | None = None
    """[d_sae], jumprelu and batchtopk; compared with pre-activations."""
    b_gate: Tensor | None = None
    """[d_sae], gated."""
    b_mag: Tensor | None = None
    """[d_sae], gated."""
    r_mag: Tensor | None = None
    """[d_sae], gated."""

    def __post_init__(self) -> None:
        cfg = self.cfg
        if cfg.apply_b_dec_to_input and cfg.d_in != cfg.d_out:
            raise ArgumentError("apply_b_dec_to_input", expected="False where d_out differs from d_in", got=True)
        shapes = {"W_enc": (cfg.d_in, cfg.d_sae), "W_dec": (cfg.d_sae, cfg.d_out), "b_dec": (cfg.d_out,)}
        shapes |= dict.fromkeys(VECTORS_OF[cfg.architecture], (cfg.d_sae,))
        exact = torch.promote_types(self.W_enc.dtype, torch.float32)
        for name in ("W_enc", "W_dec", "b_dec", "b_enc", "threshold", "b_gate", "b_mag", "r_mag"):
            tensor = getattr(self, name)
            if name not in shapes:
                if tensor is not None:
                    raise ArgumentError(f"{name}: an SAE of architecture {cfg.architecture} has no such tensor")
                continue
            if tensor is None:
                raise ArgumentError(f"{name}: an SAE of architecture {cfg.architecture} needs it")
            if tuple(tensor.shape) != shapes[name]:
                raise ShapeError(name, expected=list(shapes[name]), got=list(tensor.shape))
            if tensor.ndim == 1:
                object.__setattr__(self, name, tensor.to(exact))

    def __repr__(self) -> str:
        cfg = self.cfg
        return (
            f"SAE({cfg.architecture}, d_in={cfg.d_in}, d_sae={cfg.d_sae}, hook_name={cfg.hook_name!r}, "
            f"dtype={self.dtype}, device={str(self.device)!r})"
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.W_enc.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.W_enc.device

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name."""
        names = ("W_enc", "W_dec", "b_dec", *VECTORS_OF[self.cfg.architecture])
        return {name: getattr(self, name) for name in names}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "SAE":
        """The same SAE on another device, or with weights in another dtype (biases and thresholds stay float32 or wider)."""
        moved: dict[str, Any] = {
            name: tensor.to(device=device, dtype=dtype if tensor.ndim == 2 else None) for name, tensor in self.tensors().items()
        }
        return replace(self, **moved)

    def encode(self, x: Tensor, check_finite: bool = False) -> SparseActs:
        """Feature activations of `x` [..., d_in] (or [..., n_heads, d_head] for hook_z); values are float32 or wider.

        Where the SAE normalises its input, the result carries each token's mean and scale. With `check_finite`, NaN or infinity
        in `x` raises `NonFiniteError`.
        """
        x = self._flat_heads(x)
        x, mean, scale = self._normalised(x)
        derived = self._encoder
        if self.cfg.architecture == "topk":
            assert self.cfg.k is not None
            acts = ops.encode_topk(x, derived.weights, derived.bias, self.cfg.k, check_finite=check_finite)
        else:
            assert derived.threshold is not None
            acts = ops.encode_threshold(
                x, derived.weights, derived.bias, derived.threshold, derived.gain, derived.offset, check_finite=check_finite
            )
        return acts if scale is None else replace(acts, mean=mean, scale=scale)

    def decode(self, acts: SparseActs | Tensor, mean: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """Reconstruction [..., d_out] in the units of the input, float32 or wider, from `SparseActs` or dense [..., d_sae].

        Where the SAE normalises its input, dense activations need the `mean` and `scale` [n, 1] that `encode` returned with the
        sparse ones (constant_norm_rescale has no mean); `ArgumentError` otherwise.
        """
        weights = self._decoder
        if isinstance(acts, SparseActs):
            x_hat = ops.decode(acts, weights, self.b_dec)
            mean = acts.mean if mean is None else mean
            scale = acts.scale if scale is None else scale
        else:
            if acts.shape[-1] != self.cfg.d_sae:
                raise ShapeError("acts", expected=f"[..., {self.cfg.d_sae}]", got=list(acts.shape))
            x_hat = acts.to(weights.wide) @ weights.matrix.to(weights.wide) + self.b_dec
        return self._denormalised(x_hat, mean, scale)

    def forward(self, x: Tensor) -> Tensor:
        """What replaces `x` in the model: same shape and dtype."""
        return self.decode(self.encode(x)).reshape(x.shape).to(x.dtype)

    __call__ = forward

    def fold_decoder_norm(self) -> "SAE":
        """The same function with decoder rows of norm one and activations scaled up by the norms they had.

        A row of norm zero stays as it is. Raises `ArgumentError` for a topk SAE that does not rescale activations by decoder
        norm, since folding would change which features are the k largest.
        """
        cfg = self.cfg
        if cfg.architecture == "topk" and not cfg.rescale_acts_by_decoder_norm:
            raise ArgumentError("fold_decoder_norm would change which features a topk SAE selects, so it is refused")
        norms = self._decoder_norms()
        folded: dict[str, Any] = {
            "W_enc": (self.W_enc.to(norms.dtype) * norms).to(self.dtype),
            "W_dec": (self.W_dec.to(norms.dtype) / norms[:, None]).to(self.dtype),
        }
        for name in ("b_enc", "threshold", "b_gate", "b_mag"):
            vector = getattr(self, name)
            if vector is not None:
                folded[name] = vector * norms
        return replace(self, cfg=replace(cfg, rescale_acts_by_decoder_norm=False), **folded)

    def save(self, folder: str | Path, format: Literal["saelens", "gemma_scope"] = "saelens") -> None:  # noqa: A002
        """Write the SAE into `folder`, byte for byte the same for the same SAE. See `sae_fast.formats.save`."""
        from sae_fast import formats

        formats.save(self, folder, format)

    def threshold_form(self) -> tuple[Tensor, Tensor]:
        """(bias, threshold) [d_sae] such that feature `f` fires, with value `h`, where `h = (x @ W_enc + bias)[f] > threshold`.

        `b_dec` is folded into the bias. Raises `ArgumentError` for topk and gated SAEs, which have no such form.
        """
        derived = self._encoder
        if derived.threshold is None or derived.gain is not None:
            raise ArgumentError("architecture", expected="standard, jumprelu or batchtopk", got=self.cfg.architecture)
        return derived.bias, derived.threshold

    def _flat_heads(self, x: Tensor) -> Tensor:
        d_in = self.cfg.d_in
        if self.cfg.reshape_activations == "hook_z" and x.shape[-1] != d_in and x.shape[-2:].numel() == d_in:
            return x.flatten(-2)
        if x.ndim < 1 or x.shape[-1] != d_in:
            raise ShapeError("x", expected=f"[..., d_in = {d_in}]", got=list(x.shape))
        return x

    def _normalised(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(what is encoded, mean [n, 1], scale [n, 1]), with x = encoded * scale + mean."""
        if self.cfg.normalize_activations == "none":
            return x, None, None
        rows = x.reshape(-1, self.cfg.d_in).to(self.b_dec.dtype)
        if self.cfg.normalize_activations == "layer_norm":
            mean, scale = rows.mean(1, keepdim=True), rows.std(1, keepdim=True)
            return ((rows - mean) / (scale + LAYER_NORM_EPSILON)).reshape(x.shape), mean, scale
        scale = rows.norm(dim=1, keepdim=True) / math.sqrt(self.cfg.d_in)
        return (rows / torch.where(scale > 0, scale, 1)).reshape(x.shape), None, scale

    def _denormalised(self, x_hat: Tensor, mean: Tensor | None, scale: Tensor | None) -> Tensor:
        if self.cfg.normalize_activations == "none":
            return x_hat
        if scale is None or (mean is None and self.cfg.normalize_activations == "layer_norm"):
            raise ArgumentError(
                f"decode: this SAE normalises its input ({self.cfg.normalize_activations}), and the activations do not carry "
                "the mean and scale of their tokens",
                advice="Pass the SparseActs that encode returned, or their mean and scale",
            )
        rows = x_hat.reshape(-1, x_hat.shape[-1]) * scale
        return (rows if mean is None else rows + mean).reshape(x_hat.shape)

    def _decoder_norms(self) -> Tensor:
        """Norm of each decoder row [d_sae] in float32 or wider, one where it is zero."""
        norms = torch.linalg.vector_norm(self.W_dec, dim=1, dtype=self.b_dec.dtype)
        return torch.where(norms > 0, norms, 1)

    @cached_property
    def _decoder(self) -> Prepared:
        if not self.cfg.rescale_acts_by_decoder_norm:
            return ops.prepare_decoder(self.W_dec)
        return ops.prepare_decoder(self.W_dec.to(self.b_dec.dtype) / self._decoder_norms()[:, None])

    @cached_property
    def _encoder(self) -> _Encoder:
        """Weights, bias, threshold, gain and offset with b_dec and the decoder norms folded in."""
        zeros = torch.zeros(self.cfg.d_sae, dtype=self.b_dec.dtype, device=self.device)
        bias = zeros if self.b_enc is None else self.b_enc
        if self.cfg.apply_b_dec_to_input:
            bias = (bias.double() - _product(self.b_dec, self.W_enc)).to(bias.dtype)
        if self.cfg.rescale_acts_by_decoder_norm:
            norms = self._decoder_norms()
            scaled = replace(ops.prepare_encoder(self.W_enc.to(norms.dtype) * norms), input_dtype=self.dtype)
            return _Encoder(scaled, bias * norms)
        weights = ops.prepare_encoder(self.W_enc)
        if self.cfg.architecture == "gated":
            return self._gated_encoder(weights, bias)
        threshold = zeros if self.threshold is None else self.threshold.clamp(min=0)
        return _Encoder(weights, bias, threshold)

    def _gated_encoder(self, weights: Prepared, bias: Tensor) -> _Encoder:
        """Gate and magnitude share one product, so that both conditions become one threshold on it."""
        assert self.b_gate is not None
        assert self.b_mag is not None
        assert self.r_mag is not None
        gain = self.r_mag.double().exp()
        threshold = torch.maximum(-self.b_gate.double(), -self.b_mag.double() / gain)
        return _Encoder(weights, bias, threshold.to(bias.dtype), gain.to(bias.dtype), self.b_mag)


def _product(vector: Tensor, matrix: Tensor, columns: int = 8192) -> Tensor:
    """`vector @ matrix` in float64, widening only some columns of the matrix at a time."""
    parts = [vector.double() @ block.double() for block in matrix.split(columns, dim=1)]
    return torch.cat(parts)
