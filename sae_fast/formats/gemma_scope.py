"""Gemma Scope's `params.npz`: a JumpReLU SAE in one file, without a configuration.

Tensors `W_enc [d_in, d_sae]`, `W_dec [d_sae, d_in]`, `b_enc` and `threshold` [d_sae], `b_dec [d_in]` (`w_enc` and `w_dec` also
occur); `b_dec` is not subtracted from the input. Model, site and layer are in the folder's name only, as in
`gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`; where it names no site, the residual stream is meant. Transcoders read
the normalised activation before the norm's weight. SAEs of the embedding were trained on it before Gemma multiplies it by
√d_model, and `hook_embed` lies after that: inputs are divided by the factor, reconstructions multiplied.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from sae_fast.config import SAEConfig
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.formats._description import Description, Given, Stored
from sae_fast.formats._files import write_files
from sae_fast.formats._places import layer_of
from sae_fast.formats._rewriting import unscaled
from sae_fast.formats._settings import make_config
from sae_fast.sae import SAE
from sae_fast.sources import Source

PARAMS = "params.npz"
TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
CONTEXT_SIZE = 1024
"""Tokens per context in Gemma Scope's training."""

_HOOKS = {
    "res": "blocks.{layer}.hook_resid_post",
    "mlp": "blocks.{layer}.hook_mlp_out",
    "att": "blocks.{layer}.attn.hook_z",
}
_RELEASE = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)")


def describe(source: Source, given: Given) -> Description | None:
    """An SAE of Gemma Scope, if the source is an npz archive or a folder that holds `params.npz`."""
    name = next((name for name in source.names() if name == PARAMS or (source.file and name.endswith(".npz"))), None)
    if name is None:
        return None
    file = source.folder.tensors(name)
    keys = {_our_name(key): key for key in file.shapes}
    shape = file.shapes.get(keys.get("W_enc", ""), ())
    if len(shape) != 2:
        raise FormatError(f"{file.place}: W_enc", expected="an array [d_in, d_sae]", got=list(shape) or "none")
    cfg = _config(file.place, given, shape)
    return Description(cfg, {ours: Stored(name, keys.get(ours, ours)) for ours in TENSORS})


def save(sae: SAE, folder: Path) -> None:
    """Write `params.npz`; the same SAE gives the same bytes. The configuration is lost but for what the path says.

    standard, jumprelu and batchtopk SAEs can be written, without input normalisation; `ArgumentError` otherwise. bfloat16
    weights are widened to float32, which is exact, and a subtracted `b_dec` is folded into `b_enc`.
    """
    sae = unscaled(sae)
    cfg = sae.cfg
    if cfg.architecture not in ("standard", "jumprelu", "batchtopk"):
        raise ArgumentError("architecture", expected="standard, jumprelu or batchtopk for Gemma Scope", got=cfg.architecture)
    if cfg.normalize_activations != "none" or cfg.d_out != cfg.d_in or cfg.skip or cfg.hook_names_out or cfg.crosscoder:
        raise ArgumentError(
            "Gemma Scope's format has no input normalisation, no d_out, no skip term, no other layers and no crosscoders",
            advice="Save it as 'sae_fast', which holds every SAE",
        )
    bias, threshold = sae.threshold_form()
    tensors = {"W_dec": sae.W_dec, "W_enc": sae.W_enc, "b_dec": sae.b_dec, "b_enc": bias, "threshold": threshold}
    arrays = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        arrays[name] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()
    write_files(folder, {PARAMS: lambda file: _write_npz(file, arrays)})


def _our_name(name: str) -> str:
    return {"w_enc": "W_enc", "w_dec": "W_dec"}.get(name, name)


def _config(place: str, given: Given, shape: tuple[int, ...]) -> SAEConfig:
    """What the path says, nearest folder first."""
    release = _RELEASE.search(place)
    size, kind, site = release.groups() if release else (None, None, None)
    parts = place.split("/")
    if site is None:
        site = next((part for part in reversed(parts) if part in (*_HOOKS, "transcoders")), None)
    layer = layer_of(place, r"layer_(\d+)")
    metadata: dict[str, object] = {"source_format": "gemma_scope"}
    fields: dict[str, object] = {"reshape_activations": "hook_z" if site == "att" else "none"}
    if "embedding" in parts and site in (None, "res"):
        # Trained on the embedding before Gemma multiplies it by √d_model.
        fields |= {"normalize_activations": "constant_scalar_rescale", "input_scale": shape[0] ** -0.5}
        hook_name: str | None = "hook_embed"
    elif site == "transcoders":
        hook_name = None if layer is None else f"blocks.{layer}.ln2.hook_normalized"
        fields |= {"transcoder": True, "hook_name_out": None if layer is None else f"blocks.{layer}.hook_mlp_out"}
    else:
        hook_name = None if layer is None else _HOOKS[site or "res"].format(layer=layer)
        if layer is not None and site is None:
            metadata["hook_name_assumed"] = "the path names a layer but no site; the residual stream is assumed"
    return make_config(
        place,
        given,
        architecture="jumprelu",
        d_in=shape[0],
        d_sae=shape[1],
        hook_name=hook_name,
        model_name=f"google/gemma-2-{size}{'-it' if kind == 'it' else ''}" if size else None,
        prepend_bos=True,
        context_size=CONTEXT_SIZE,
        metadata=metadata,
        **fields,
    )


def _write_npz(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """`np.savez` without the time of day in the archive."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(member, "w", force_zip64=True) as opened:
                np.lib.format.write_array(opened, array, allow_pickle=False)
