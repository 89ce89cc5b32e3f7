"""What a format says of an SAE before its weights are read: the contract between formats and `_assemble`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from sae_fast.config import SAEConfig

Tensors = dict[str, Tensor]
"""Tensors by the names of `SAE`: W_enc, b_enc, …"""


@dataclass(frozen=True)
class Stored:
    """One tensor of an SAE as it lies in a file."""

    file: str
    """Name of the file in the source's folder."""
    key: str
    """Its key there."""
    transposed: bool = False
    """The file holds it with its axes reversed."""
    broadcast: bool = False
    """The file holds one number [] or [1] for all features."""
    squeezed: bool = False
    """The file may hold it with axes of length one in front: [1, d] for [d]."""
    shape: tuple[int, ...] | None = None
    """Its shape in the file, where that is not ours; `then` makes it ours."""
    feature_axis: int | None = None
    """The axis of its features in the file, where `shape` puts them elsewhere."""
    then: Callable[[Tensor], Tensor] | None = None
    """Applied to what was read (already in our orientation); must not look beyond a single feature."""


@dataclass(frozen=True)
class Description:
    """An SAE found in a source, before its weights are read."""

    cfg: SAEConfig
    tensors: Mapping[str, Stored]
    """By our name; every tensor that `sae_fast.config.tensor_shapes(cfg)` asks for and that is not in `zeros`."""
    zeros: frozenset[str] = frozenset()
    """Tensors, by our name, that such files do not hold because they are zero."""
    ignored: frozenset[str] = frozenset()
    """Keys that the files may hold beside these and that change nothing (step counters, statistics). Any other is refused."""
    ignored_prefixes: tuple[str, ...] = ()
    """The same, by beginning."""
    finish: Callable[[Tensors], Tensors] | None = None
    """Applied to all tensors by our names at the end (folding of factors); must not mix features."""
    encoder_needs_decoder: bool = False
    """`finish` makes the encoder with the help of W_dec, which must then be read for an SAE without decoder too."""
    takes_scale: bool = False
    """`norm_scaling_factor` means something here."""


@dataclass(frozen=True)
class Given:
    """What the caller of `load` knows better than the files."""

    norm_scaling_factor: float | None = None
    """The factor by which training scaled its inputs."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """What a catalogue says of the SAE: hook_name, hook_name_out, model_name, prepend_bos, context_size, k, layer."""
