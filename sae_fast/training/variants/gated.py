"""Gated SAEs (Rajamanoharan et al. 2024): one product, two biases; the gate decides, the magnitude says how much."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sae_fast import ops
from sae_fast.config import Architecture
from sae_fast.errors import ConfigError
from sae_fast.sparse import SparseActs
from sae_fast.training.penalties import weighted_l1
from sae_fast.training.variants.base import HeldOut, Loss, Moment, SharedOptions, Variant
from sae_fast.training.variants.standard import L1Options


@dataclass(frozen=True, kw_only=True)
class GatedOptions(L1Options):
    """`architecture = "gated"`."""

    freeze_auxiliary_decoder: bool = False
    """hold the decoder fixed in the third term, as the paper does, which then wants `unit_norm_decoder`: free norms would
    shrink"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze_auxiliary_decoder and not self.unit_norm_decoder:
            raise ConfigError("[[sae]] freeze_auxiliary_decoder: expected unit_norm_decoder = true beside it")


class Gated(Variant):
    """`1[π > 0] · relu(e^r · h + b_mag)` with `π = h + b_gate`, `h = (x - b_dec) W_enc`."""

    Options: ClassVar[type[SharedOptions]] = GatedOptions
    architecture: ClassVar[Architecture] = "gated"
    by_feature: ClassVar[frozenset[str]] = Variant.by_feature | {"b_mag", "r_mag"}

    def __init__(self, options: Any, start: Any) -> None:
        super().__init__(options, start)
        # The gate's bias is b_enc, so that what the base says of pre-activations holds of the gate.
        self.b_mag = nn.Parameter(torch.zeros(self.n_own))
        self.r_mag = nn.Parameter(torch.zeros(self.n_own))

    def objective(self, x: Tensor, y: Tensor, moment: Moment) -> Loss:
        """`mean ‖y - ŷ‖² + λ(t) · mean Σ relu(π) ‖d‖ + mean ‖y - ŷ(relu(π))‖²`, the last with the decoder held fixed or not."""
        inputs, options = self.inputs(x), self.options
        acts, gate = self._dense(inputs) if self.is_dense else self._sparse(inputs)
        loss = self.reconstruction(y, self.decoded(acts, x), acts)
        norms = self.decoder_norms()
        of_gate = norms[gate.col_indices.long()] if isinstance(gate, SparseActs) else norms
        l1 = self.layout.summed(weighted_l1(gate.values if isinstance(gate, SparseActs) else gate, of_gate, len(x)))
        rebuilt = self.decoded(gate, x, frozen=options.freeze_auxiliary_decoder)
        aux = (y - rebuilt).square().sum() / len(x)
        loss.terms |= {"l1": l1.detach(), "aux": aux.detach()}
        loss.total = loss.total + options.l1_coefficient * moment.risen(options.l1_warmup) * l1 + aux
        return loss

    def _dense(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        h = self.product(inputs, self.W_enc)
        gate = h + self.b_enc
        return (gate > 0) * (self.r_mag.exp() * h + self.b_mag).relu(), gate.relu()

    def _sparse(self, inputs: Tensor) -> tuple[SparseActs, SparseActs]:
        """Gate and magnitude are two thresholds on one product (see `SAE`)."""
        zeros, gain = torch.zeros_like(self.b_enc), self.r_mag.exp()
        threshold = torch.maximum(-self.b_enc, -self.b_mag / gain).detach()
        acts = ops.encode_threshold(inputs, self.encoder, zeros, threshold, gain, self.b_mag)
        return acts, ops.encode_threshold(inputs, self.encoder, self.b_enc, zeros)

    def threshold_of(self, held_out: HeldOut) -> Tensor | None:
        """None: it follows from the biases."""
        return None

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Gate and magnitude biases instead of b_enc."""
        tensors = super().tensors(dtype)
        gate = tensors.pop("b_enc")
        return {**tensors, "b_gate": gate, "b_mag": self.b_mag.detach().clone(), "r_mag": self.r_mag.detach().clone()}
