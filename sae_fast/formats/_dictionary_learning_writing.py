"""An `SAE` as a folder of dictionary_learning."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_fast.config import SAEConfig
from sae_fast.errors import ArgumentError
from sae_fast.formats._files import json_writer, pickle_writer, write_files
from sae_fast.formats._rewriting import recentred, unscaled
from sae_fast.sae import SAE

_ADVICE = "Save it as 'sae_fast', which holds every SAE"
_LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "encoder.bias"}
_KEYS: dict[str, dict[str, str]] = {
    "AutoEncoder": {**_LINEAR, "b_dec": "bias"},
    "AutoEncoderNew": {**_LINEAR, "b_dec": "decoder.bias"},
    "GatedAutoEncoder": {**_LINEAR, "b_dec": "decoder_bias", "b_gate": "gate_bias", "b_mag": "mag_bias"},
    "JumpReluAutoEncoder": {},
    "AutoEncoderTopK": _LINEAR,
    "BatchTopKSAE": _LINEAR,
    "MatryoshkaBatchTopKSAE": {},
}
"""Keys of each class by our names, where they differ."""
_SUBTRACTING = ("AutoEncoder", "GatedAutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE")
_HOOK = re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_mid|resid_post|mlp_out|attn_out)")


def save(sae: SAE, folder: Path) -> None:
    """Write `ae.pt` and `config.json`; the same SAE gives the same bytes.

    standard, gated, topk, jumprelu and batchtopk SAEs can be written. Each class either subtracts b_dec from the input or does
    not; where the SAE does otherwise, the encoder's bias makes up for it. A BatchTopK SAE has one threshold for all features in
    this format, and becomes a JumpReluAutoEncoder where it has several.
    """
    _check_whole(sae)
    sae = unscaled(sae)
    _check(sae)
    if sae.cfg.rescale_acts_by_decoder_norm:
        sae = sae.fold_decoder_norm()
    name = _dict_class(sae)
    sae = recentred(sae, name in _SUBTRACTING)
    tensors = {_KEYS[name].get(ours, ours): _oriented(_KEYS[name].get(ours, ours), t) for ours, t in sae.tensors().items()}
    tensors |= _scalars(sae, name)
    writers = {"ae.pt": pickle_writer(tensors), "config.json": json_writer(_config(sae.cfg, name))}
    write_files(folder, writers)


def _check_whole(sae: SAE) -> None:
    if not sae.has_decoder:
        raise ArgumentError("W_dec: dictionary_learning saves whole SAEs, and this one has no decoder", advice=_ADVICE)


def _check(sae: SAE) -> None:
    """Raise `ArgumentError` for what dictionary_learning cannot compute."""
    cfg = sae.cfg
    if cfg.architecture not in ("standard", "gated", "topk", "jumprelu", "batchtopk"):
        raise ArgumentError(f"dictionary_learning has no {cfg.architecture} SAEs", advice=_ADVICE)
    reasons = {
        "transcoders": cfg.transcoder or cfg.skip or cfg.d_out != cfg.d_in or bool(cfg.hook_names_out),
        "crosscoders": cfg.crosscoder,
        "input normalisation": cfg.normalize_activations != "none",
        "groups of features but with BatchTopK's k and threshold": bool(cfg.group_sizes)
        and not _dict_class(sae).startswith("M"),
    }
    for reason, found in reasons.items():
        if found:
            raise ArgumentError(f"dictionary_learning has no {reason}", advice=_ADVICE)


def _dict_class(sae: SAE) -> str:
    cfg = sae.cfg
    if cfg.architecture == "standard":
        return "AutoEncoder" if cfg.apply_b_dec_to_input else "AutoEncoderNew"
    if (
        cfg.architecture == "batchtopk"
        and cfg.k
        and sae.threshold is not None
        and bool((sae.threshold == sae.threshold[0]).all())
    ):
        return "MatryoshkaBatchTopKSAE" if cfg.group_sizes else "BatchTopKSAE"
    return {"gated": "GatedAutoEncoder", "topk": "AutoEncoderTopK"}.get(cfg.architecture, "JumpReluAutoEncoder")


def _oriented(key: str, tensor: Tensor) -> Tensor:
    """Linear layers hold [out, in]; BatchTopK's threshold is one number."""
    return tensor.T if key.endswith(".weight") else tensor


def _scalars(sae: SAE, name: str) -> dict[str, Tensor]:
    """What the top-k classes keep in buffers. An AutoEncoderTopK's threshold is not used, and -1 where it was never set."""
    if name not in ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        return {}
    threshold = torch.tensor(-1.0) if sae.threshold is None else sae.threshold[0].float()
    scalars = {"k": torch.tensor(sae.cfg.k, dtype=torch.int32), "threshold": threshold}
    return scalars | ({"group_sizes": torch.tensor(sae.cfg.group_sizes)} if name.startswith("Matryoshka") else {})


def _config(cfg: SAEConfig, name: str) -> dict[str, Any]:
    trainer: dict[str, Any] = {
        "dict_class": name,
        "activation_dim": cfg.d_in,
        "dict_size": cfg.d_sae,
        "lm_name": cfg.model_name,
        "k": cfg.k,
        "group_sizes": None if cfg.group_sizes is None else list(cfg.group_sizes),
    }
    if found := _HOOK.fullmatch(cfg.hook_name or ""):
        trainer |= {"layer": int(found[1]), "submodule_name": f"{found[2]}_layer_{found[1]}"}
    buffer = {} if cfg.context_size is None else {"buffer": {"ctx_len": cfg.context_size, "io": "out"}}
    return {"trainer": {key: value for key, value in trainer.items() if value is not None}} | buffer
