"""Gemma Scope's `params.npz`: a JumpReLU SAE in one file, without a configuration.

Tensors `W_enc [d_in, d_sae]`, `W_dec [d_sae, d_in]`, `b_enc` and `threshold` [d_sae], `b_dec [d_in]` (`w_enc` and `w_dec` also
occur); `b_dec` is not subtracted from the input. Model, site and layer are in the folder's name only, as in
`gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`; where it names no site, the residual stream is meant.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from sae_fast.errors import ArgumentError, FormatError
from sae_fast.formats._files import require_finite, require_tensors, write_files
from sae_fast.sae import SAE, SAEConfig

PARAMS = "params.npz"
CONTEXT_SIZE = 1024
"""Tokens per context in Gemma Scope's training."""

_HOOKS = {
    "res": "blocks.{layer}.hook_resid_post",
    "mlp": "blocks.{layer}.hook_mlp_out",
    "att": "blocks.{layer}.attn.hook_z",
}
_RELEASE = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)")


def find(path: Path) -> Path | None:
    """The npz file to read, if `path` is one or a folder that holds `params.npz`."""
    file = path / PARAMS if path.is_dir() else path
    return file if file.suffix == ".npz" and file.is_file() else None


def read_header(file: Path) -> tuple[SAEConfig, torch.dtype]:
    """(configuration, dtype of the weights) without reading the weights."""
    headers = _read_headers(file)
    _require_params(file, headers)
    return _config(file, headers["W_enc"][0]), torch.from_numpy(np.empty(0, headers["W_enc"][1])).dtype


def load(file: Path, device: torch.device | str = "cpu", norm_scaling_factor: float | None = None) -> SAE:
    """Read an SAE. Raises `FormatError` for anything unexpected and `NonFiniteError` for NaN or infinite weights."""
    if norm_scaling_factor is not None:
        raise ArgumentError("norm_scaling_factor: Gemma Scope SAEs read activations as they are")
    headers = _read_headers(file)
    _require_params(file, headers)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            tensors = {_our_name(name): torch.from_numpy(arrays[name]).to(device) for name in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise FormatError(f"{file}: cannot be read ({error})") from error
    require_finite(file, tensors)
    return SAE(_config(file, headers["W_enc"][0]), **tensors)


def save(sae: SAE, folder: Path) -> None:
    """Write `params.npz`; the same SAE gives the same bytes. The configuration is lost but for what the path says.

    standard, jumprelu and batchtopk SAEs can be written, without input normalisation; `ArgumentError` otherwise. bfloat16
    weights are widened to float32, which is exact, and a subtracted `b_dec` is folded into `b_enc`.
    """
    cfg = sae.cfg
    if cfg.architecture not in ("standard", "jumprelu", "batchtopk"):
        raise ArgumentError("architecture", expected="standard, jumprelu or batchtopk for Gemma Scope", got=cfg.architecture)
    if cfg.normalize_activations != "none" or cfg.d_out != cfg.d_in:
        raise ArgumentError("Gemma Scope's format has no input normalisation and no d_out")
    bias, threshold = sae.threshold_form()
    tensors = {"W_dec": sae.W_dec, "W_enc": sae.W_enc, "b_dec": sae.b_dec, "b_enc": bias, "threshold": threshold}
    arrays = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        arrays[name] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()
    write_files(folder, {PARAMS: lambda file: _write_npz(file, arrays)})


def _our_name(name: str) -> str:
    return {"w_enc": "W_enc", "w_dec": "W_dec"}.get(name, name)


def _read_headers(file: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of each array, by our names."""
    headers = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.namelist():
                with archive.open(member) as opened:
                    headers[_our_name(member.removesuffix(".npy"))] = _read_header(opened)  # type: ignore[arg-type]
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise FormatError(f"{file}: not an npz file ({error})") from error
    return headers


def _read_header(opened: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    read = np.lib.format.read_array_header_1_0
    if np.lib.format.read_magic(opened) != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(opened)
    return tuple(shape), dtype


def _require_params(file: Path, headers: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> None:
    shapes = {name: shape for name, (shape, _) in headers.items()}
    if len(shapes.get("W_enc", ())) != 2:
        raise FormatError(f"{file}: W_enc", expected="an array [d_in, d_sae]", got=shapes.get("W_enc", "none"))
    d_in, d_sae = shapes["W_enc"]
    expected: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    require_tensors(file, shapes, expected | {"b_enc": (d_sae,), "threshold": (d_sae,)})
    for name, (_, dtype) in headers.items():
        if dtype not in (np.float16, np.float32, np.float64):
            raise FormatError(f"{file}: dtype of {name}", expected="float16, float32 or float64", got=dtype)


def _config(file: Path, shape: tuple[int, ...]) -> SAEConfig:
    """What the path says, nearest folder first."""
    path = file.absolute().as_posix()
    release = _RELEASE.search(path)
    size, kind, site = release.groups() if release else (None, None, None)
    if site is None:
        site = next((part for part in reversed(path.split("/")) if part in (*_HOOKS, "transcoders")), None)
    if site == "transcoders":
        raise FormatError(f"{file}: a transcoder", expected="an SAE", advice="This version does not read transcoders")
    layers = re.findall(r"layer_(\d+)", path)
    metadata: dict[str, object] = {"source_format": "gemma_scope"}
    if layers and site is None:
        metadata["hook_name_assumed"] = "the path names a layer but no site; the residual stream is assumed"
    return SAEConfig(
        architecture="jumprelu",
        d_in=shape[0],
        d_sae=shape[1],
        hook_name=_HOOKS[site or "res"].format(layer=layers[-1]) if layers else None,
        model_name=f"google/gemma-2-{size}{'-it' if kind == 'it' else ''}" if size else None,
        prepend_bos=True,
        context_size=CONTEXT_SIZE,
        reshape_activations="hook_z" if site == "att" else "none",
        metadata=metadata,
    )


def _write_npz(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """`np.savez` without the time of day in the archive."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(member, "w", force_zip64=True) as opened:
                np.lib.format.write_array(opened, array, allow_pickle=False)
