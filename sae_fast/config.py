"""`SAEConfig`: what an SAE is, what it computes, and where in a language model it belongs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from sae_fast.errors import ArgumentError

Architecture = Literal[
    "standard", "gated", "topk", "abstopk", "jumprelu", "batchtopk", "groupmax", "matching_pursuit", "temporal"
]
Normalisation = Literal["none", "layer_norm", "constant_norm_rescale", "constant_scalar_rescale"]

VECTORS_OF: Mapping[str, tuple[str, ...]] = {
    "standard": ("b_enc",),
    "gated": ("b_gate", "b_mag", "r_mag"),
    "topk": ("b_enc",),
    "abstopk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "batchtopk": ("b_enc", "threshold"),
    "groupmax": ("b_enc",),
    "matching_pursuit": (),
    "temporal": (),
}
"""The vectors [d_sae] of each architecture."""

THRESHOLD_ARCHITECTURES = ("standard", "gated", "jumprelu", "batchtopk")
"""Where a feature fires by its own pre-activation alone, so that any of them make an SAE without the others."""

_NEED_K = ("topk", "abstopk", "groupmax")
_RESCALING = ("topk", "abstopk")


@dataclass(frozen=True)
class MatchingPursuit:
    """When a pursuit ends. See `sae_fast.architectures.reference.matching_pursuit`."""

    residual_threshold: float = 0.01
    """A token is done when the norm of its residual is below this; 0 to go on."""
    max_iterations: int | None = None
    """Most steps of a token; d_in if None."""
    stop_on_duplicate_support: bool = True
    """A token is done when a step adds no new feature."""


@dataclass(frozen=True)
class Temporal:
    """The attention of a temporal SAE (arXiv 2511.01836). See `sae_fast.architectures.reference.temporal`."""

    n_heads: int = 8
    n_attn_layers: int = 1
    bottleneck_factor: int = 64
    """Queries and keys are d_sae / bottleneck_factor wide."""
    sae_diff_type: Literal["relu", "topk"] = "topk"
    """How the novel part is made sparse: by relu, or by the `k` largest after it."""
    tied_weights: bool = True
    """The encoder is the transpose of the decoder."""


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
    hook_names_out: tuple[str, ...] = ()
    """A layer of a cross-layer transcoder writes at all of these: W_dec is [d_sae, n_out, d_out], b_dec [n_out, d_out]."""
    hook_names: tuple[str, ...] = ()
    """A crosscoder reads all of these, side by side in this order, and reconstructs them so; instead of `hook_name`."""
    hook_widths: tuple[int, ...] = ()
    """A crosscoder's width at each hook, d_in together; equal ones if not given. Without `hook_names`, of a crosscoder whose
    hooks are not known, or are one hook of several models, as `metadata["models"]` then says."""
    model_name: str | None = None
    """The language model it was trained on."""
    k: int | None = None
    """Active features per token: exactly for topk and abstopk, on average for batchtopk; the number of groups for groupmax;
    the most novel features for temporal."""
    transcoder: bool = False
    """It predicts what is written at `hook_name_out` from what is read at `hook_name`."""
    skip: bool = False
    """`forward` also adds `x @ W_skip.T`, in a cross-layer transcoder at the first of `hook_names_out`, its own layer."""
    group_sizes: tuple[int, ...] | None = None
    """Matryoshka: the groups of features, in order; the first n of them are an SAE of their own (`SAE.prefix`)."""
    prepend_bos: bool | None = None
    """Whether contexts began with a BOS token in training; None where unknown."""
    context_size: int | None = None
    """Length of the contexts in training, in tokens."""
    centred: bool = False
    """Trained on TransformerLens's processed weights (center_writing_weights): reads and writes the residual stream minus its
    mean over d_model. `sae_fast.lm` subtracts it; `encode` expects it subtracted."""
    apply_b_dec_to_input: bool = False
    """Encode `x - b_dec` instead of `x`."""
    normalize_activations: Normalisation = "none"
    """Normalisation of each token before encoding, undone after decoding (but by a transcoder, which writes elsewhere)."""
    input_scale: float = 1.0
    """constant_scalar_rescale: inputs are multiplied by this, outputs divided."""
    reshape_activations: Literal["none", "hook_z"] = "none"
    """`hook_z`: the input may come as [..., n_heads, d_head], which is flattened to d_in."""
    rescale_acts_by_decoder_norm: bool = False
    """topk and abstopk: activations are multiplied by the norm of their decoder row before the selection, and stay so."""
    pursuit: MatchingPursuit | None = None
    """matching_pursuit only; the defaults if not given."""
    temporal: Temporal | None = None
    """temporal only; the defaults if not given."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the files said, as they said it."""

    def __post_init__(self) -> None:
        self._complete()
        self._check_names_and_sizes()
        self._check_selection()
        self._check_places()

    @property
    def hook_name_write(self) -> str | None:
        """Where it writes: `hook_name_out`, or `hook_name`."""
        return self.hook_name_out or self.hook_name

    @property
    def crosscoder(self) -> bool:
        """It reads several activations side by side, and reconstructs all of them."""
        return bool(self.hook_widths)

    @property
    def hooks_read(self) -> tuple[str, ...]:
        """Where it reads: one hook, or those of a crosscoder in their order; empty where unknown."""
        return self.hook_names or ((self.hook_name,) if self.hook_name else ())

    @property
    def hooks_written(self) -> tuple[str, ...]:
        """Where it writes: one hook, or those of a crosscoder or a layer of a cross-layer transcoder; empty where unknown."""
        return self.hook_names_out or self.hook_names or ((self.hook_name_write,) if self.hook_name_write else ())

    @property
    def reads_at(self) -> str | None:
        """One text for where it reads: the hook, or those of a crosscoder joined by "+"; None where unknown."""
        return "+".join(self.hooks_read) or None

    @property
    def tied(self) -> bool:
        """There is no W_enc: the encoder is the transpose of the decoder."""
        return self.architecture == "matching_pursuit" or (self.temporal is not None and self.temporal.tied_weights)

    @property
    def adds_b_dec(self) -> bool:
        """`decode` adds b_dec. Tied encoders add it back only if they subtracted it."""
        return self.apply_b_dec_to_input or not self.tied

    def select(self, features: Sequence[int]) -> "SAEConfig":
        """Of the SAE of these features alone; `metadata["selected_features"]` names them.

        Raises `ArgumentError` for architectures whose features compete with one another.
        """
        if self.architecture not in THRESHOLD_ARCHITECTURES:
            raise ArgumentError(
                f"some features only: those of a {self.architecture} SAE compete, so that a part of them is another SAE",
                expected=f"one of {', '.join(THRESHOLD_ARCHITECTURES)}",
                advice="Encode with the whole SAE and take acts.features([...])",
            )
        chosen = [int(feature) for feature in features]
        if not chosen or len(set(chosen)) != len(chosen) or not all(0 <= feature < self.d_sae for feature in chosen):
            raise ArgumentError("features", expected=f"distinct feature indices from 0 to {self.d_sae - 1}", got=chosen[:8])
        before = self.metadata.get("selected_features")
        noted = chosen if before is None else [before[feature] for feature in chosen]
        metadata = {**self.metadata, "selected_features": noted}
        return replace(self, d_sae=len(chosen), k=None, group_sizes=None, metadata=metadata)

    def _complete(self) -> None:
        given: dict[str, Any] = {name: tuple(getattr(self, name)) for name in ("hook_names_out", "hook_names", "hook_widths")}
        n_hooks = len(self.hook_names)
        if n_hooks and not self.hook_widths and self.d_in % n_hooks == 0:
            given["hook_widths"] = (self.d_in // n_hooks,) * n_hooks
        if self.d_out == 0:
            given["d_out"] = self.d_in
        if self.group_sizes is not None:
            given["group_sizes"] = tuple(self.group_sizes)
        if self.architecture == "matching_pursuit" and self.pursuit is None:
            given["pursuit"] = MatchingPursuit()
        if self.architecture == "temporal" and self.temporal is None:
            given["temporal"] = Temporal()
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def _check_names_and_sizes(self) -> None:
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
        sizes = self.group_sizes
        if sizes is not None and (min(sizes, default=0) < 1 or sum(sizes) != self.d_sae):
            raise ArgumentError("group_sizes", expected=f"positive integers that sum to d_sae = {self.d_sae}", got=list(sizes))

    def _check_selection(self) -> None:
        architecture, k = self.architecture, self.k
        if (architecture in _NEED_K or (architecture == "temporal" and k is not None)) and not 1 <= (k or 0) <= self.d_sae:
            raise ArgumentError("k", expected=f"an integer from 1 to d_sae = {self.d_sae}", got=k)
        if architecture == "groupmax" and self.d_sae % (k or 1):
            raise ArgumentError("k", expected=f"a number of groups that divides d_sae = {self.d_sae}", got=k)
        if self.rescale_acts_by_decoder_norm and architecture not in _RESCALING:
            raise ArgumentError("rescale_acts_by_decoder_norm", expected="False", got=f"True with {architecture}")
        for name, owner in (("pursuit", "matching_pursuit"), ("temporal", "temporal")):
            if getattr(self, name) is not None and architecture != owner:
                raise ArgumentError(name, expected=f"None for an SAE of architecture {architecture}")
        if self.temporal is not None:
            _check_temporal(self.temporal, self.d_sae)
        if self.pursuit is not None:
            steps = self.pursuit.max_iterations
            if self.pursuit.residual_threshold < 0 or (steps is not None and steps < 1):
                raise ArgumentError("pursuit", expected="a threshold of at least 0 and at least one step", got=self.pursuit)

    def _check_places(self) -> None:
        cross_layer = bool(self.hook_names_out)
        if self.apply_b_dec_to_input and (self.transcoder or cross_layer or self.d_in != self.d_out):
            raise ArgumentError("apply_b_dec_to_input", expected="False where the output is not the input", got=True)
        if self.normalize_activations != "none" and self.d_out != self.d_in and not self.transcoder:
            raise ArgumentError("normalize_activations", expected="none where d_out differs from d_in")
        if not self.input_scale > 0 or (self.input_scale != 1 and self.normalize_activations != "constant_scalar_rescale"):
            expected = "a positive number, and 1 without constant_scalar_rescale"
            raise ArgumentError("input_scale", expected=expected, got=self.input_scale)
        other_places = [name for name in ("skip", "transcoder") if getattr(self, name)] + ["d_out"] * (self.d_out != self.d_in)
        if self.architecture in ("matching_pursuit", "temporal") and (other_places or cross_layer):
            raise ArgumentError(f"{self.architecture} reconstructs its own input", got=(other_places or ["hook_names_out"])[0])
        if cross_layer and (self.hook_name_out or self.rescale_acts_by_decoder_norm):
            raise ArgumentError("hook_names_out", expected="no hook_name_out or rescale_acts_by_decoder_norm beside it")
        if self.hook_names or self.hook_widths:
            self._check_side_by_side()

    def _check_side_by_side(self) -> None:
        names, widths = self.hook_names, self.hook_widths
        if names and (len(names) < 2 or len(set(names)) != len(names)):
            raise ArgumentError("hook_names", expected="two or more different hooks", got=list(names))
        if min(widths, default=0) < 1 or len(widths) < 2 or (names and len(widths) != len(names)) or sum(widths) != self.d_in:
            expected = f"a positive width of each of {len(names) or 'two or more'} hooks, d_in = {self.d_in} together"
            raise ArgumentError("hook_widths", expected=expected, got=list(widths))
        others = ("hook_name_out", "hook_names_out", "transcoder", "skip", "temporal", "hook_name")
        if beside := [name for name in others if getattr(self, name)] + ["d_out"] * (self.d_out != self.d_in):
            raise ArgumentError(
                f"{beside[0]}: a crosscoder reconstructs what it reads, at hook_names", expected="none beside it"
            )
        if self.reshape_activations != "none":
            raise ArgumentError("reshape_activations", expected="none for a crosscoder", got=self.reshape_activations)


def tensor_shapes(cfg: SAEConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of such an SAE, by name."""
    shapes: dict[str, tuple[int, ...]] = {} if cfg.tied else {"W_enc": (cfg.d_in, cfg.d_sae)}
    out = (len(cfg.hook_names_out), cfg.d_out) if cfg.hook_names_out else (cfg.d_out,)
    shapes |= {"W_dec": (cfg.d_sae, *out), "b_dec": out}
    shapes |= dict.fromkeys(VECTORS_OF[cfg.architecture], (cfg.d_sae,))
    if cfg.skip:
        shapes["W_skip"] = (cfg.d_out, cfg.d_in)
    if cfg.temporal is not None:
        shapes |= _attention_shapes(cfg.temporal, cfg.d_sae)
    return shapes


def _attention_shapes(temporal: Temporal, d_sae: int) -> dict[str, tuple[int, ...]]:
    narrow = d_sae // temporal.bottleneck_factor
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(temporal.n_attn_layers):
        for name, width in (("k_ctx", narrow), ("q_target", narrow), ("v_ctx", d_sae), ("c_proj", d_sae)):
            shapes[f"attn_layers.{layer}.{name}.weight"] = (width, d_sae)
            shapes[f"attn_layers.{layer}.{name}.bias"] = (width,)
    return shapes


def _check_temporal(temporal: Temporal, d_sae: int) -> None:
    if min(temporal.n_heads, temporal.n_attn_layers, temporal.bottleneck_factor) < 1:
        raise ArgumentError("temporal", expected="positive numbers of heads and layers and a positive factor", got=temporal)
    if d_sae % (temporal.bottleneck_factor * temporal.n_heads):
        expected = f"a multiple of bottleneck_factor * n_heads = {temporal.bottleneck_factor * temporal.n_heads}"
        raise ArgumentError("d_sae", expected=expected, got=d_sae)
    if temporal.sae_diff_type not in ("relu", "topk"):
        raise ArgumentError("sae_diff_type", expected="relu or topk", got=repr(temporal.sae_diff_type))
