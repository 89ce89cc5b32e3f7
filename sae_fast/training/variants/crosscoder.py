"""Crosscoders (Lindsey et al. 2024; BatchTopK: Minder et al. 2025): one set of features for the activations at several hooks.

A crosscoder encodes the sum of what its encoders say at each hook and decodes to all of them, which is an SAE over the
activations side by side. Each hook is scaled by itself, so that no layer drowns another.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sae_fast.config import SAEConfig
from sae_fast.errors import ConfigError
from sae_fast.tables import at_least
from sae_fast.training.variants.base import SharedOptions, Variant
from sae_fast.training.variants.batchtopk import BatchTopK, KOfBatch
from sae_fast.training.variants.standard import Standard


@dataclass(frozen=True, kw_only=True)
class SeveralHooks(SharedOptions):
    """What reads and writes at several hooks."""

    hook_names: tuple[str, ...]
    """hooks that it reads and reconstructs, together"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.hook_names) < 2 or len(set(self.hook_names)) != len(self.hook_names):
            raise ConfigError(f"[[sae]] hook_names: expected two or more different hooks, got {list(self.hook_names)}")

    @property
    def reads(self) -> tuple[str, ...]:
        """All."""
        return self.hook_names

    @property
    def writes(self) -> tuple[str, ...]:
        """All."""
        return self.hook_names


@dataclass(frozen=True, kw_only=True)
class CrosscoderOptions(SeveralHooks):
    """`architecture = "crosscoder"`."""

    l1_coefficient: float
    """λ"""
    l1_warmup: float = 0.05
    """share of the steps over which λ rises from zero"""
    lp_norm: float = 1.0
    """p of the penalty"""
    unit_norm_decoder: bool = False
    """keep decoder rows at norm one over all hooks together"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("[[sae]]", "l1_coefficient", self.l1_coefficient, 0)
        at_least("[[sae]]", "lp_norm", self.lp_norm, 0.1)


@dataclass(frozen=True, kw_only=True)
class BatchTopKCrosscoderOptions(KOfBatch, SeveralHooks):
    """`architecture = "batchtopk_crosscoder"`."""


class _SideBySide(Variant):
    """Several hooks as one input."""

    widths: tuple[int, ...]

    def centred(self, x: Tensor) -> Tensor:
        """`x`: a crosscoder's encoder has no bias of the decoder in it."""
        return x

    def config(self) -> SAEConfig:
        """Of a crosscoder."""
        return SAEConfig(
            architecture=self.architecture,
            d_in=self.d_in,
            d_sae=self.d_sae,
            hook_names=self.options.hook_names,
            hook_widths=self.widths,
            metadata={"training_architecture": "crosscoder", **self.about()},
            **self.config_fields(),
        )


class Crosscoder(_SideBySide, Standard):
    """`relu(h)`, with the penalty `λ Σ a Σ_hooks ‖d_hook‖`."""

    Options: ClassVar[type[SharedOptions]] = CrosscoderOptions

    def __init__(self, options: Any, start: Any) -> None:
        super().__init__(options, start)
        self.widths = start.widths

    def decoder_norms(self) -> Tensor:
        """Sum over hooks of the norms of a feature's rows, [d_sae]."""
        return torch.stack([rows.norm(dim=1) for rows in self.W_dec.split(list(self.widths), dim=1)]).sum(0)


class BatchTopKCrosscoder(_SideBySide, BatchTopK):
    """The k · n largest positive pre-activations of a batch."""

    Options: ClassVar[type[SharedOptions]] = BatchTopKCrosscoderOptions

    def __init__(self, options: Any, start: Any) -> None:
        super().__init__(options, start)
        self.widths = start.widths
