"""ReLU with an L1 penalty weighted by decoder norms (Anthropic, April 2024 update)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sae_fast import ops
from sae_fast.config import Architecture
from sae_fast.sparse import SparseActs
from sae_fast.tables import at_least
from sae_fast.training.penalties import weighted_l1
from sae_fast.training.variants.base import HeldOut, Loss, Moment, SharedOptions, Variant, VariantOptions


@dataclass(frozen=True, kw_only=True)
class L1Options(VariantOptions):
    """`architecture = "standard"` or `"gated"`."""

    l1_coefficient: float
    """λ"""
    l1_warmup: float = 0.05
    """share of the steps over which λ rises from zero"""
    unit_norm_decoder: bool = False
    """keep decoder rows at norm one; the penalty is weighted by their norms, so that they need not be"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("[[sae]]", "l1_coefficient", self.l1_coefficient, 0)


@dataclass(frozen=True, kw_only=True)
class StandardOptions(L1Options):
    """`architecture = "standard"`."""

    start_from_data: bool = False
    """begin with rows that lean towards sampled activations; with this loss, planted dictionaries are recovered a little better
    from random directions"""
    lp_norm: float = 1.0
    """p of the penalty `Σ (a ‖d‖)^p`; below one it counts rather than shrinks, and its gradient at zero is unbounded"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("[[sae]]", "lp_norm", self.lp_norm, 0.1)


class Standard(Variant):
    """`relu(h)`."""

    Options: ClassVar[type[SharedOptions]] = StandardOptions
    architecture: ClassVar[Architecture] = "standard"

    def objective(self, x: Tensor, y: Tensor, moment: Moment) -> Loss:
        """`mean ‖y - ŷ‖² + λ(t) · mean Σ (a ‖d‖)^p`."""
        inputs, options = self.inputs(x), self.options
        acts: Tensor | SparseActs
        if self.is_dense:
            acts = values = self.pre_acts(inputs).relu()
            norms = self.decoder_norms()
        else:
            acts = ops.encode_threshold(inputs, self.encoder, self.b_enc, torch.zeros_like(self.b_enc))
            values, norms = acts.values, self.decoder_norms()[acts.col_indices.long()]
        loss = self.reconstruction(y, self.decoded(acts, x), acts)
        l1 = self.layout.summed(weighted_l1(values, norms, len(x), options.lp_norm))
        loss.terms["l1"] = l1.detach()
        loss.total = loss.total + options.l1_coefficient * moment.risen(options.l1_warmup) * l1
        return loss

    def threshold_of(self, held_out: HeldOut) -> Tensor | None:
        """None: zero."""
        return None
