"""Matching pursuit: features one after another, each the best for what is left of the token."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sae_fast import ops
from sae_fast.architectures import encode_matching_pursuit
from sae_fast.config import Architecture, MatchingPursuit
from sae_fast.errors import ConfigError
from sae_fast.tables import at_least
from sae_fast.training.variants.base import HeldOut, Loss, Moment, SharedOptions, Variant, VariantOptions


@dataclass(frozen=True, kw_only=True)
class PursuitOptions(VariantOptions):
    """`architecture = "matching_pursuit"`."""

    max_iterations: int
    """most steps of a token"""
    residual_threshold: float = 0.01
    """a token is done when what is left of it has a smaller norm, in scaled units"""
    unit_norm_decoder: bool = False
    """keep decoder rows at norm one, where they begin; free norms, which stay near it, recover planted dictionaries better"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("[[sae]]", "max_iterations", self.max_iterations, 1)
        at_least("[[sae]]", "residual_threshold", self.residual_threshold, 0)
        if self.hook_name_out is not None:
            raise ConfigError("[[sae]] matching_pursuit: expected no hook_name_out: its encoder is its decoder")


class Pursuit(Variant):
    """Its encoder is its decoder: `W_enc` and `b_enc` are not used."""

    Options: ClassVar[type[SharedOptions]] = PursuitOptions
    architecture: ClassVar[Architecture] = "matching_pursuit"
    why_whole: ClassVar[str | None] = (
        "each step of a token needs the best of all features, a message between processes each time"
    )

    def __init__(self, options: Any, start: Any) -> None:
        super().__init__(options, start)
        del self.W_enc, self.b_enc
        with torch.no_grad():
            self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True))

    def objective(self, x: Tensor, y: Tensor, moment: Moment) -> Loss:
        """`mean ‖y - ŷ‖²`. The choice of features has no gradient, their values have."""
        acts = encode_matching_pursuit(x - self.b_dec, ops.prepare_encoder(self.W_dec.T), self._pursuit(1.0))
        return self.reconstruction(y, self.decoded(acts, x), acts)

    def _pursuit(self, scale: float) -> MatchingPursuit:
        """When it ends, for inputs that are scaled by `scale` less."""
        return MatchingPursuit(self.options.residual_threshold / scale, self.options.max_iterations)

    def threshold_of(self, held_out: HeldOut) -> Tensor | None:
        """None: it stops by itself."""
        return None

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The decoder alone, with its own norms: the scale of the input stays in b_dec and in the residual threshold."""
        return {"W_dec": self.W_dec.detach().to(dtype), "b_dec": (self.b_dec.double() / float(self.scale_out[0])).float()}

    def config_fields(self) -> dict[str, Any]:
        """When a pursuit ends, in the LM's units."""
        return {"pursuit": self._pursuit(float(self.scale_in[0]))}
