"""What every SAE in training is told: its size, its decoder, where it reads and writes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from sae_fast.errors import ConfigError
from sae_fast.tables import at_least


@dataclass(frozen=True, kw_only=True)
class SharedOptions(ABC):
    """What every SAE in training has, wherever it reads and writes."""

    d_sae: int | None = None
    """number of features; give this or `expansion`"""
    expansion: float | None = None
    """number of features as a multiple of the width that it reads"""
    unit_norm_decoder: bool | None = True
    """keep decoder rows at norm one: their gradient turns them only, and they are rescaled after each step"""
    start_from_data: bool | None = True
    """begin with rows that lean towards sampled activations rather than in random directions: more of the variance is
    explained, and planted dictionaries, large ones above all, are recovered better"""
    start_at_mean: bool = True
    """begin the decoder's bias at the mean of the target rather than at zero: fewer dead features on activations of language
    models, while planted dictionaries, whose mean is made of features, are recovered a little better from zero"""
    dead_after_tokens: int = 10_000_000
    """a feature counts as dead when it was not active on so many tokens in a row"""
    lr: float | None = None
    """peak learning rate; default: that of `[train]`"""
    seed: int = 0
    """of the initial weights"""
    name: str | None = None
    """its name in reports and folders; default: from hook, variant and options"""

    def __post_init__(self) -> None:
        if (self.d_sae is None) == (self.expansion is None):
            raise ConfigError("[[sae]]: expected d_sae or expansion, and not both")
        at_least("[[sae]]", "d_sae", self.d_sae, 1)
        at_least("[[sae]]", "dead_after_tokens", self.dead_after_tokens, 1)

    def features(self, d_in: int) -> int:
        """Number of features for inputs of width `d_in`."""
        return self.d_sae if self.d_sae is not None else max(1, round(d_in * (self.expansion or 1)))

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Hooks whose activations, side by side, are the input."""

    @property
    @abstractmethod
    def writes(self) -> tuple[str, ...]:
        """Hooks whose activations, side by side, are the target."""


@dataclass(frozen=True, kw_only=True)
class VariantOptions(SharedOptions):
    """What every SAE that reads one hook and writes one has."""

    hook_name: str
    """where in the LM it reads"""
    hook_name_out: str | None = None
    """where it writes, for a transcoder; default: it reconstructs what it reads"""
    skip: bool = False
    """a linear term beside the features (transcoders)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.skip and self.hook_name_out is None:
            raise ConfigError("[[sae]] skip: only a transcoder has a skip term; give hook_name_out")
        if self.unit_norm_decoder is None:
            object.__setattr__(self, "unit_norm_decoder", self.hook_name_out is None)
        if self.start_from_data is None:
            object.__setattr__(self, "start_from_data", self.hook_name_out is None)

    @property
    def reads(self) -> tuple[str, ...]:
        """The one hook."""
        return (self.hook_name,)

    @property
    def writes(self) -> tuple[str, ...]:
        """The one hook."""
        return (self.hook_name_out or self.hook_name,)
