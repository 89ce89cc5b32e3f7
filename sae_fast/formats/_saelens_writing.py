"""An `SAE` as the `cfg.json` of SAELens 6."""

from itertools import accumulate
from typing import Any

from sae_fast.config import SAEConfig
from sae_fast.errors import ArgumentError
from sae_fast.formats._rewriting import unscaled
from sae_fast.formats._saelens_config import BATCH_ARCHITECTURES, OWN_FIELDS
from sae_fast.sae import SAE

LAYOUT_VERSION = "6.0.0"
"""The first SAELens version of the layout that is written."""

_ADVICE = "Save it as 'sae_fast', which holds every SAE"


def writable(sae: SAE) -> SAE:
    """The same function as SAELens can hold it. Raises `ArgumentError` for what it has no architecture for."""
    if not sae.has_decoder:
        raise ArgumentError("W_dec: SAELens saves whole SAEs, and this one was loaded without its decoder", advice=_ADVICE)
    sae = unscaled(sae)
    _check(sae.cfg)
    return sae


def settings_of(sae: SAE) -> dict[str, Any]:
    """The content of cfg.json."""
    cfg = sae.cfg
    settings: dict[str, Any] = {
        "architecture": _architecture(cfg),
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "dtype": str(sae.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": cfg.apply_b_dec_to_input,
        "normalize_activations": cfg.normalize_activations,
        "reshape_activations": cfg.reshape_activations,
        "metadata": _metadata(cfg),
    }
    if "transcoder" in settings["architecture"]:
        settings["d_out"] = cfg.d_out
    return settings | _selection(cfg)


def _check(cfg: SAEConfig) -> None:
    """Refuse what SAELens would compute otherwise, or not at all."""
    elsewhere = _writes_elsewhere(cfg)
    reasons = {
        "architecture": cfg.architecture == "groupmax",
        "hook_names_out": bool(cfg.hook_names_out),
        "hook_widths": cfg.crosscoder,
        "transcoder": elsewhere and cfg.architecture not in ("standard", "jumprelu", "batchtopk"),
        "reshape_activations": elsewhere and cfg.reshape_activations != "none",
        "normalize_activations": cfg.normalize_activations == "constant_scalar_rescale" and cfg.temporal is None,
    }
    for name, refused in reasons.items():
        if refused:
            got = f"{getattr(cfg, name)!r} with {cfg.architecture}"
            raise ArgumentError(name, expected="what SAELens has an architecture for", got=got, advice=_ADVICE)


def _writes_elsewhere(cfg: SAEConfig) -> bool:
    return cfg.transcoder or cfg.skip or cfg.d_out != cfg.d_in


def _architecture(cfg: SAEConfig) -> str:
    name = "jumprelu" if cfg.architecture == "batchtopk" else cfg.architecture
    if not _writes_elsewhere(cfg):
        return name
    return ("jumprelu_" if name == "jumprelu" else "") + ("skip_" if cfg.skip else "") + "transcoder"


def _selection(cfg: SAEConfig) -> dict[str, Any]:
    if cfg.architecture in ("topk", "abstopk"):
        return {"k": cfg.k, "rescale_acts_by_decoder_norm": cfg.rescale_acts_by_decoder_norm}
    if cfg.pursuit is not None:
        return vars(cfg.pursuit)
    if cfg.temporal is not None:
        return vars(cfg.temporal) | {"kval_topk": cfg.k, "activation_normalization_factor": cfg.input_scale}
    return {}


def _metadata(cfg: SAEConfig) -> dict[str, Any]:
    """What files said, the fields that SAELens keeps here, and how a BatchTopK SAE was trained."""
    metadata = dict(cfg.metadata) | {key: getattr(cfg, key) for key in OWN_FIELDS if getattr(cfg, key) is not None}
    if _major_version(metadata.get("sae_lens_version")) < 6:
        metadata["sae_lens_version"] = LAYOUT_VERSION
    if cfg.centred:
        kwargs = dict(metadata.get("model_from_pretrained_kwargs") or {})
        metadata["model_from_pretrained_kwargs"] = kwargs | {"center_writing_weights": True}
    widths = None if cfg.group_sizes is None else list(accumulate(cfg.group_sizes))
    if cfg.architecture == "batchtopk":
        metadata |= _training(cfg, metadata, widths)
    elif widths is not None:
        metadata["matryoshka_widths"] = widths
    return metadata


def _training(cfg: SAEConfig, metadata: dict[str, Any], widths: list[int] | None) -> dict[str, Any]:
    details = dict(metadata.get("training_architecture_details") or {})
    details |= {} if cfg.k is None else {"k": cfg.k}
    details |= {} if widths is None else {"matryoshka_widths": widths}
    known = metadata.get("training_architecture") in BATCH_ARCHITECTURES
    trained_as = metadata["training_architecture"] if known else BATCH_ARCHITECTURES[widths is not None]
    return {"training_architecture": trained_as} | ({"training_architecture_details": details} if details else {})


def _major_version(version: object) -> int:
    major = str(version or "").split(".")[0]
    return int(major) if major.isdigit() else 0
