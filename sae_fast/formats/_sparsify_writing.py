"""An `SAE` as a folder of EleutherAI's sparsify."""

from pathlib import Path

from sae_fast.config import SAEConfig
from sae_fast.errors import ArgumentError
from sae_fast.formats._files import json_writer, safetensors_writer, write_files
from sae_fast.formats._rewriting import recentred, unscaled
from sae_fast.sae import SAE

_ADVICE = "Save it as 'sae_fast', which holds every SAE"


def save(sae: SAE, folder: Path) -> None:
    """Write `cfg.json` and `sae.safetensors`; the same SAE gives the same bytes.

    topk and groupmax SAEs and transcoders of equal widths, with or without skip term, can be written. sparsify always subtracts
    b_dec from the input of what is no transcoder; where the SAE does not, the encoder's bias makes up for it. Where it rescales
    activations by decoder norm, the norms are folded. Hooks are not part of the format: it names its folders after them.
    """
    _check_whole(sae)
    sae = unscaled(sae)
    cfg = sae.cfg
    _check(cfg)
    if cfg.rescale_acts_by_decoder_norm:
        sae = sae.fold_decoder_norm()
    transcode = cfg.transcoder or (cfg.skip and not cfg.apply_b_dec_to_input)
    if not transcode:
        sae = recentred(sae, subtracts_b_dec=True)
    settings = {
        "activation": cfg.architecture,
        "d_in": cfg.d_in,
        "expansion_factor": max(1, cfg.d_sae // cfg.d_in),
        "k": cfg.k,
        "multi_topk": False,
        "normalize_decoder": False,
        "num_latents": cfg.d_sae,
        "skip_connection": cfg.skip,
        "transcode": transcode,
    }
    tensors = sae.tensors()
    tensors["encoder.weight"], tensors["encoder.bias"] = tensors.pop("W_enc").T, tensors.pop("b_enc")
    write_files(folder, {"sae.safetensors": safetensors_writer(tensors), "cfg.json": json_writer(settings)})


def _check_whole(sae: SAE) -> None:
    if not sae.has_decoder:
        raise ArgumentError("W_dec: sparsify saves whole SAEs, and this one was loaded without its decoder", advice=_ADVICE)


def _check(cfg: SAEConfig) -> None:
    """Raise `ArgumentError` for what sparsify cannot compute."""
    if cfg.architecture not in ("topk", "groupmax"):
        raise ArgumentError("architecture", expected="topk or groupmax for sparsify", got=cfg.architecture, advice=_ADVICE)
    if reason := _cannot(cfg):
        raise ArgumentError(f"sparsify has no {reason}", advice=_ADVICE)


def _cannot(cfg: SAEConfig) -> str | None:
    reasons = {
        "input normalisation": cfg.normalize_activations != "none",
        "outputs of another width": cfg.d_out != cfg.d_in,
        "cross-layer transcoders": bool(cfg.hook_names_out),
        "crosscoders": cfg.crosscoder,
        "groups of features": cfg.group_sizes is not None,
    }
    return next((reason for reason, found in reasons.items() if found), None)
