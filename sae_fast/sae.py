"""`SAE`: the weights of one sparse autoencoder, its configuration, and what it computes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from sae_fast import ops
from sae_fast.architectures import encode_abstopk, encode_groupmax, encode_matching_pursuit, predict
from sae_fast.architectures.temporal import code_scale
from sae_fast.config import THRESHOLD_ARCHITECTURES, VECTORS_OF, MatchingPursuit, SAEConfig, Temporal
from sae_fast.errors import ArgumentError, NonFiniteError, ShapeError
from sae_fast.normalisation import denormalised, normalised, rescaled
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs
from sae_fast.weights import Weights

__all__ = ["SAE", "VECTORS_OF", "MatchingPursuit", "SAEConfig", "Temporal"]

_TOPK = {"topk": ops.encode_topk, "temporal": ops.encode_topk, "abstopk": encode_abstopk, "groupmax": encode_groupmax}


@dataclass(frozen=True)
class _Encoder:
    """What `ops` needs to encode, derived once from the published weights."""

    weights: Prepared
    bias: Tensor
    k: int | None = None
    threshold: Tensor | None = None
    gain: Tensor | None = None
    offset: Tensor | None = None


class SAE(Weights):
    """A sparse autoencoder, transcoder, crosscoder, or layer of a cross-layer transcoder: its weights, and what it computes.

    `sae(x)` is `decode(encode(x))`, and `skip(x)` where there is such a term. What the operations need is derived from the
    weights at the first call.
    """

    def __repr__(self) -> str:
        cfg = self.cfg
        kind = cfg.architecture + " transcoder" * (cfg.transcoder or bool(cfg.hook_names_out)) + " crosscoder" * cfg.crosscoder
        hooks = f"hook_names={cfg.hook_names!r}" if cfg.crosscoder else f"hook_name={cfg.hook_name!r}"
        return f"SAE({kind}, d_in={cfg.d_in}, d_sae={cfg.d_sae}, {hooks}, dtype={self.dtype}, device={str(self.device)!r})"

    def encode(self, x: Tensor, check_finite: bool = False) -> SparseActs:
        """Feature activations of `x` [..., d_in] (or [..., n_heads, d_head] for hook_z); values are float32 or wider.

        A temporal SAE encodes sequences, `x` [..., pos, d_in], and gives their novel part. Where the SAE normalises its input,
        the result carries each token's mean and scale. With `check_finite`, NaN or infinity in `x` raises `NonFiniteError`.
        """
        return self._encode(x, check_finite)[0]

    def decode(self, acts: SparseActs | Tensor, mean: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """Reconstruction [..., d_out] (or [..., n_out, d_out]) in float32 or wider, from `SparseActs` or dense [..., d_sae].

        It is in the units of the input: where the SAE normalises that, dense activations need the `mean` and `scale` [n, 1]
        that `encode` returned with the sparse ones (constant_norm_rescale has no mean); `ArgumentError` otherwise.
        """
        weights, b_dec = self._decoder, self._decoder_bias
        if isinstance(acts, SparseActs):
            x_hat = ops.decode(acts, weights, b_dec)
            mean = acts.mean if mean is None else mean
            scale = acts.scale if scale is None else scale
        else:
            if acts.shape[-1] != self.cfg.d_sae:
                raise ShapeError("acts", expected=f"[..., {self.cfg.d_sae}]", got=list(acts.shape))
            x_hat = acts.to(weights.wide) @ weights.matrix.to(weights.wide) + b_dec
        return denormalised(self.cfg, x_hat, mean, scale).unflatten(-1, self.b_dec.shape)

    def skip(self, x: Tensor) -> Tensor | None:
        """What `forward` adds beside `decode(encode(x))`, [..., d_out] (or [..., n_out, d_out]) in float32 or wider.

        `x @ W_skip.T` of a skip transcoder, what a temporal SAE predicts from earlier positions, None for all others.
        """
        return self._encode_and_skip(x)[1] if self.cfg.temporal is not None else self._skip(x)

    def forward(self, x: Tensor) -> Tensor:
        """What replaces the activation where the SAE writes, in the dtype of `x`: the shape of `x` but for d_out."""
        acts, skipped = self._encode_and_skip(x)
        y = self.decode(acts)
        if skipped is not None:
            y = y + skipped
        same_shape = self.cfg.d_out == self.cfg.d_in and not self.cfg.hook_names_out
        return (y.reshape(x.shape) if same_shape else y).to(x.dtype)

    __call__ = forward

    def parts(self, y: Tensor) -> tuple[Tensor, ...]:
        """What it gives at each of its hooks, [..., d_out] each, of an output as `decode` and `forward` give it.

        In the order of `cfg.hooks_written`; of a crosscoder also what it reads at each, for its input has the same form.
        """
        if self.cfg.hook_names_out:
            return y.unbind(-2)
        return y.split(self.cfg.hook_widths, -1) if self.cfg.crosscoder else (y,)

    def fold_decoder_norm(self) -> "SAE":
        """The same function with decoder rows of norm one and activations scaled up by the norms they had.

        A row of norm zero stays as it is; a row of a cross-layer transcoder is what it writes to all layers. Raises
        `ArgumentError` where folding would change which features are active: topk and abstopk without
        rescale_acts_by_decoder_norm, groupmax, matching_pursuit, temporal.
        """
        cfg = self.cfg
        if cfg.architecture not in THRESHOLD_ARCHITECTURES and not cfg.rescale_acts_by_decoder_norm:
            raise ArgumentError(f"fold_decoder_norm would change what a {cfg.architecture} SAE selects, so it is refused")
        norms = self._decoder_norms()
        folded: dict[str, Tensor | None] = {
            "W_enc": (self.W_enc.to(norms.dtype) * norms).to(self.dtype),
            "W_dec": (self.W_dec.to(norms.dtype) / _by_row(norms, self.W_dec)).to(self.dtype),
        }
        for name in ("b_enc", "threshold", "b_gate", "b_mag"):
            if name in self._tensors:
                folded[name] = self._tensors[name] * norms
        return self.replace(replace(cfg, rescale_acts_by_decoder_norm=False), **folded)

    def select(self, features: Sequence[int] | Tensor) -> "SAE":
        """The SAE of these features alone, in that order; `cfg.metadata["selected_features"]` names them.

        Raises `ArgumentError` for architectures whose features compete (all but standard, gated, jumprelu and batchtopk).
        """
        chosen = torch.as_tensor(features, dtype=torch.int64)
        return self._of_features(self.cfg.select(chosen.tolist()), chosen.to(self.device))

    def prefix(self, n_groups: int) -> "SAE":
        """Matryoshka: the SAE of the first `n_groups` groups, which shares their weights. `ArgumentError` as for `select`."""
        sizes = self.cfg.group_sizes
        if sizes is None or not 1 <= n_groups <= len(sizes):
            expected = "an SAE with group_sizes" if sizes is None else f"a number of groups from 1 to {len(sizes)}"
            raise ArgumentError("n_groups", expected=expected, got=n_groups)
        metadata = {**self.cfg.metadata, "prefix_groups": n_groups}
        d_sae = sum(sizes[:n_groups])
        cfg = replace(self.cfg.select(range(d_sae)), group_sizes=sizes[:n_groups], metadata=metadata)
        return self._of_features(cfg, slice(0, d_sae))

    def save(self, folder: str | Path, format: str = "saelens") -> None:  # noqa: A002
        """Write the SAE into `folder`, byte for byte the same for the same SAE. See `sae_fast.formats.save`."""
        from sae_fast import formats

        formats.save(self, folder, format)

    def threshold_form(self) -> tuple[Tensor, Tensor]:
        """(bias, threshold) [d_sae] such that feature `f` fires, with value `h`, where `h = (x @ W_enc + bias)[f] > threshold`.

        `b_dec` is folded into the bias. Raises `ArgumentError` for SAEs that have no such form.
        """
        if self.cfg.architecture not in THRESHOLD_ARCHITECTURES or self.cfg.architecture == "gated":
            raise ArgumentError("architecture", expected="standard, jumprelu or batchtopk", got=self.cfg.architecture)
        derived = self._encoder
        assert derived.threshold is not None
        return derived.bias, derived.threshold

    def _encode_and_skip(self, x: Tensor) -> tuple[SparseActs, Tensor | None]:
        acts, predicted = self._encode(x)
        return acts, self._skip(x) if predicted is None else rescaled(self.cfg, predicted, acts.scale)

    def _skip(self, x: Tensor) -> Tensor | None:
        if self.W_skip is None:
            return None
        own = self._flat_heads(x).to(self.dtype).to(self.wide) @ self.W_skip.to(self.wide).T
        n_other = len(self.cfg.hook_names_out) - 1
        return F.pad(own[..., None, :], (0, 0, 0, n_other)) if self.cfg.hook_names_out else own

    def _encode(self, x: Tensor, check_finite: bool = False) -> tuple[SparseActs, Tensor | None]:
        """(activations, what a temporal SAE predicts of the normalised input)."""
        cfg, predicted = self.cfg, None
        x = self._flat_heads(x)
        if check_finite:
            _require_finite(x)
        x, mean, scale = normalised(cfg, x, self.wide)
        if cfg.tied or cfg.temporal is not None:
            x = x.to(self.dtype).to(self.wide) - self.b_dec if cfg.apply_b_dec_to_input else x
        if cfg.temporal is not None:
            predicted, x = predict(x, self._encoder.weights, self._decoder, self.attention, cfg.temporal)
        acts = self._select(x)
        return (acts if scale is None else replace(acts, mean=mean, scale=scale)), predicted

    def _select(self, x: Tensor) -> SparseActs:
        cfg = self.cfg
        if cfg.pursuit is not None:
            return encode_matching_pursuit(x, self._encoder.weights, cfg.pursuit)
        derived = self._encoder
        if derived.k is not None:
            acts = _TOPK[cfg.architecture](x, derived.weights, derived.bias, derived.k)
        else:
            assert derived.threshold is not None
            acts = ops.encode_threshold(x, derived.weights, derived.bias, derived.threshold, derived.gain, derived.offset)
        return acts if cfg.temporal is None else replace(acts, values=acts.values * code_scale(cfg.d_in))

    def _flat_heads(self, x: Tensor) -> Tensor:
        d_in = self.cfg.d_in
        if self.cfg.reshape_activations == "hook_z" and x.shape[-1] != d_in and x.shape[-2:].numel() == d_in:
            return x.flatten(-2)
        if x.ndim < 1 or x.shape[-1] != d_in:
            raise ShapeError("x", expected=f"[..., d_in = {d_in}]", got=list(x.shape))
        return x

    def _of_features(self, cfg: SAEConfig, chosen: Tensor | slice) -> "SAE":
        by_feature = {"W_dec", *VECTORS_OF[cfg.architecture]}
        tensors: dict[str, Tensor | None] = {"W_enc": self.W_enc.T[chosen].T}
        tensors |= {name: tensor[chosen] for name, tensor in self._tensors.items() if name in by_feature}
        return self.replace(cfg, **tensors)

    def _decoder_norms(self) -> Tensor:
        """Norm of each decoder row [d_sae] in float32 or wider, one where it is zero."""
        norms = torch.linalg.vector_norm(self.W_dec.flatten(1), dim=1, dtype=self.wide)
        return torch.where(norms > 0, norms, 1)

    @property
    def _decoder_bias(self) -> Tensor:
        bias = self.b_dec.flatten()
        return bias if self.cfg.adds_b_dec else torch.zeros_like(bias)

    @cached_property
    def _decoder(self) -> Prepared:
        rows = self.W_dec.flatten(1)
        if not self.cfg.rescale_acts_by_decoder_norm:
            return ops.prepare_decoder(rows)
        return ops.prepare_decoder(rows.to(self.wide) / self._decoder_norms()[:, None])

    @cached_property
    def _encoder(self) -> _Encoder:
        """Weights, bias, k or threshold, gain and offset, with b_dec and the decoder norms folded in."""
        cfg = self.cfg
        zeros = torch.zeros(cfg.d_sae, dtype=self.wide, device=self.device)
        bias = zeros if self.b_enc is None else self.b_enc
        k = cfg.k if cfg.architecture in _TOPK else None
        if cfg.pursuit is not None or cfg.temporal is not None:
            k = k if cfg.temporal is not None and cfg.temporal.sae_diff_type == "topk" else None
            return _Encoder(ops.prepare_encoder(self.W_enc), bias, k, zeros)
        if cfg.apply_b_dec_to_input:
            bias = (bias.double() - _product(self.b_dec, self.W_enc)).to(bias.dtype)
        if cfg.rescale_acts_by_decoder_norm:
            norms = self._decoder_norms()
            scaled = replace(ops.prepare_encoder(self.W_enc.to(norms.dtype) * norms), input_dtype=self.dtype)
            return _Encoder(scaled, bias * norms, k)
        weights = ops.prepare_encoder(self.W_enc)
        if cfg.architecture == "gated":
            return self._gated_encoder(weights, bias)
        threshold = zeros if self.threshold is None else self.threshold.clamp(min=0)
        return _Encoder(weights, bias, k, threshold)

    def _gated_encoder(self, weights: Prepared, bias: Tensor) -> _Encoder:
        """Gate and magnitude share one product, so that both conditions become one threshold on it."""
        b_gate, b_mag, r_mag = (self._tensors[name] for name in ("b_gate", "b_mag", "r_mag"))
        gain = r_mag.double().exp()
        threshold = torch.maximum(-b_gate.double(), -b_mag.double() / gain)
        return _Encoder(weights, bias, None, threshold.to(bias.dtype), gain.to(bias.dtype), b_mag)


def _by_row(vector: Tensor, matrix: Tensor) -> Tensor:
    """A view of `vector` [d_sae] that broadcasts over everything else of `matrix` [d_sae, …]."""
    return vector.reshape(-1, *[1] * (matrix.ndim - 1))


def _require_finite(x: Tensor) -> None:
    n_bad = int((~torch.isfinite(x)).any(-1).sum())
    if n_bad:
        raise NonFiniteError(f"x has NaN or infinite values in {n_bad} of {math.prod(x.shape[:-1])} rows")


def _product(vector: Tensor, matrix: Tensor, columns: int = 8192) -> Tensor:
    """`vector @ matrix` in float64, widening only some columns of the matrix at a time."""
    parts = [vector.double() @ block.double() for block in matrix.split(columns, dim=1)]
    return torch.cat(parts)
