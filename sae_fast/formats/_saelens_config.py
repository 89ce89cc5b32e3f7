"""The `cfg.json` of SAELens, current (6) and earlier, as an `SAEConfig`."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from sae_fast.config import MatchingPursuit, SAEConfig, Temporal
from sae_fast.errors import FormatError
from sae_fast.formats._description import Given
from sae_fast.formats._saelens_keys import KNOWN_KEYS, METADATA_KEYS, RENAMED
from sae_fast.formats._settings import Settings, make_config

BATCH_ARCHITECTURES = ("batchtopk", "matryoshka_batchtopk")
"""Training architectures that SAELens saves for inference as jumprelu, with one threshold for all features."""

KINDS: Mapping[str, Mapping[str, Any]] = {
    "standard": {"architecture": "standard"},
    "gated": {"architecture": "gated"},
    "topk": {"architecture": "topk"},
    "abstopk": {"architecture": "abstopk"},
    "jumprelu": {"architecture": "jumprelu"},
    "transcoder": {"architecture": "standard", "transcoder": True},
    "skip_transcoder": {"architecture": "standard", "transcoder": True, "skip": True},
    "jumprelu_transcoder": {"architecture": "jumprelu", "transcoder": True},
    "jumprelu_skip_transcoder": {"architecture": "jumprelu", "transcoder": True, "skip": True},
    "temporal": {"architecture": "temporal"},
    "matching_pursuit": {"architecture": "matching_pursuit"},
    "batchtopk": {"architecture": "batchtopk"},
    "matryoshka_batchtopk": {"architecture": "batchtopk"},
}
"""What SAELens's names of architectures mean, those of training checkpoints included."""

OWN_FIELDS = ("hook_name", "hook_name_out", "model_name", "prepend_bos", "context_size")
"""Entries of its metadata that are fields of `SAEConfig`."""

_FROM_CATALOGUE = ("normalize_activations", "model_from_pretrained_kwargs", "dataset_path")
_NORMALISATIONS = (
    "none",
    "layer_norm",
    "constant_norm_rescale",
    "constant_scalar_rescale",
    "expected_average_only_in",
    "covariance_whitening",
)
_DECODERS_NORM = ("topk", "abstopk")


@dataclass(frozen=True)
class ParsedConfig:
    """What cfg.json says, and what must still be done to the tensors that lie beside it."""

    cfg: SAEConfig
    batch_checkpoint: bool
    """A BatchTopK training checkpoint: a scalar `topk_threshold`, which becomes the threshold of all features."""
    fold_norms: bool
    """Decoder norms must be folded: that threshold, or a selection before whitening, is of activations times those norms."""
    unfolded: Literal["nothing", "scale", "whitening"]
    """What training did to its inputs, if that has not been folded into the weights yet."""
    finetuned: bool
    """A factor for each feature scales what it writes."""


def parse(place: str, raw: Mapping[str, Any], d_in: int, d_sae: int, given: Given) -> ParsedConfig:
    """Read the content of the cfg.json at `place`; `d_in` and `d_sae` are those of the weights, and must agree."""
    values, metadata = _current_layout(place, raw)
    overrides = {key: given.metadata[key] for key in _FROM_CATALOGUE if key in given.metadata}
    settings, known = Settings(place, values | overrides), Settings(f"{place}: metadata", metadata | overrides)
    _check_sizes(settings, d_in, d_sae)
    saved_as = settings.choice("architecture", *KINDS) or "standard"
    kind = _kind(saved_as, known)
    normalisation = settings.choice("normalize_activations", *_NORMALISATIONS) or "none"
    unfolded = {"expected_average_only_in": "scale", "covariance_whitening": "whitening"}.get(normalisation, "nothing")
    rescaled = settings.flag("rescale_acts_by_decoder_norm") and kind["architecture"] in (*_DECODERS_NORM, "batchtopk")
    batch_checkpoint = saved_as in BATCH_ARCHITECTURES
    fold_norms = rescaled and (batch_checkpoint or unfolded == "whitening")
    applied = settings.values.get("apply_b_dec_to_input")
    cfg = make_config(
        place,
        given,
        **kind,
        **_selection(kind["architecture"], settings, known),
        **_own_fields(known),
        d_in=d_in,
        d_sae=d_sae,
        d_out=settings.needed("d_out", settings.integer("d_out")) if "transcoder" in kind else d_in,
        group_sizes=_group_sizes(settings, known, d_sae),
        centred=known.section("model_from_pretrained_kwargs").flag("center_writing_weights"),
        apply_b_dec_to_input="transcoder" not in kind if applied is None else settings.flag("apply_b_dec_to_input"),
        normalize_activations="none" if unfolded != "nothing" else normalisation,
        input_scale=settings.number("activation_normalization_factor") or 1.0 if "scalar" in normalisation else 1.0,
        reshape_activations=settings.choice("reshape_activations", "none", "hook_z") or "none",
        rescale_acts_by_decoder_norm=rescaled and not fold_norms and kind["architecture"] in _DECODERS_NORM,
        metadata={key: value for key, value in known.values.items() if key not in OWN_FIELDS and value is not None},
    )
    return ParsedConfig(cfg, batch_checkpoint, fold_norms, unfolded, settings.flag("finetuning_scaling_factor"))  # type: ignore[arg-type]


def _current_layout(place: str, raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings, metadata) in the layout of version 6."""
    values = {RENAMED.get(key, key): value for key, value in raw.items()}
    unknown = sorted(values.keys() - KNOWN_KEYS)
    if unknown:
        raise FormatError(f"{place}: unknown keys {', '.join(unknown[:12])}", advice="What they mean for the SAE is not known")
    metadata = {key: values[key] for key in sorted(METADATA_KEYS & values.keys())}
    metadata |= Settings(place, values).section("metadata").values
    if "metadata" not in values:
        _complete_old_layout(place, values, metadata)
    return values, metadata


def _complete_old_layout(place: str, values: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Give what a file from before SAELens 6 says the keys and defaults of the current layout."""
    metadata.setdefault("prepend_bos", True)
    hook = str(metadata.get("hook_name") or "")
    values.setdefault("reshape_activations", "hook_z" if "hook_z" in hook else "none")
    if isinstance(values.get("normalize_activations"), bool):
        values["normalize_activations"] = "expected_average_only_in" if values["normalize_activations"] else "none"
    if Settings(place, values).choice("activation_fn", "relu", "topk") == "topk":
        values["architecture"] = "topk"
        values["k"] = Settings(place, values).section("activation_fn_kwargs").integer("k")


def _check_sizes(settings: Settings, d_in: int, d_sae: int) -> None:
    for name, size in (("d_in", d_in), ("d_sae", d_sae)):
        said = settings.integer(name)
        if said not in (None, size):
            raise FormatError(f"{settings.place}: {name}", expected=f"{size}, as in the weights", got=said)


def _kind(saved_as: str, metadata: Settings) -> Mapping[str, Any]:
    """Fields of `SAEConfig`; jumprelu that was trained as BatchTopK is batchtopk."""
    kind = KINDS[saved_as]
    if kind["architecture"] == "jumprelu" and metadata.values.get("training_architecture") in BATCH_ARCHITECTURES:
        return {**kind, "architecture": "batchtopk"}
    return kind


def _selection(architecture: str, settings: Settings, metadata: Settings) -> dict[str, Any]:
    """k, and what pursuits and temporal SAEs have beside it."""
    if architecture in _DECODERS_NORM:
        return {"k": settings.needed("k", settings.integer("k"))}
    if architecture == "batchtopk":
        k = settings.number("k") or metadata.section("training_architecture_details").number("k")
        return {"k": int(k) if k is not None and int(k) == k else None}
    if architecture == "matching_pursuit":
        return {"pursuit": _pursuit(settings)}
    if architecture == "temporal":
        return {"k": settings.integer("kval_topk"), "temporal": _temporal(settings)}
    return {}


def _pursuit(settings: Settings) -> MatchingPursuit:
    threshold = settings.number("residual_threshold")
    stops = settings.values.get("stop_on_duplicate_support") is None or settings.flag("stop_on_duplicate_support")
    return MatchingPursuit(0.01 if threshold is None else float(threshold), settings.integer("max_iterations"), stops)


def _temporal(settings: Settings) -> Temporal:
    sizes = {name: settings.integer(name) for name in ("n_heads", "n_attn_layers", "bottleneck_factor")}
    tied = settings.values.get("tied_weights") is None or settings.flag("tied_weights")
    kind: Any = settings.choice("sae_diff_type", "relu", "topk") or "topk"
    if (sizes["n_attn_layers"] or 1) > 64:
        raise FormatError(f"{settings.place}: n_attn_layers", expected="at most 64", got=sizes["n_attn_layers"])
    given: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
    return Temporal(**given, sae_diff_type=kind, tied_weights=tied)


def _own_fields(metadata: Settings) -> dict[str, Any]:
    said = metadata.values
    return {
        "hook_name": metadata.text("hook_name"),
        "hook_name_out": metadata.text("hook_name_out"),
        "model_name": metadata.text("model_name"),
        "prepend_bos": None if said.get("prepend_bos") is None else metadata.flag("prepend_bos"),
        "context_size": metadata.integer("context_size"),
    }


def _group_sizes(settings: Settings, metadata: Settings, d_sae: int) -> tuple[int, ...] | None:
    """Matryoshka groups from the widths of the prefixes, of which the last, all features, may be left out."""
    details = metadata.section("training_architecture_details")
    widths = next((found for place in (settings, details, metadata) if (found := place.integers("matryoshka_widths"))), None)
    if widths is None:
        return None
    prefixes = (0, *widths) if widths[-1] == d_sae else (0, *widths, d_sae)
    return tuple(after - before for before, after in pairwise(prefixes))
