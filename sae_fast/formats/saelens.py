"""SAELens's folder: `cfg.json` and `sae_weights.safetensors`.

Reads the inference form and the training checkpoints of the architectures of `sae_fast.sae`, and the layout from before
SAELens 6. A BatchTopK SAE is saved by SAELens as jumprelu with its training architecture in the metadata; it is read as
`batchtopk`.
Formulas: SAELens 6.54.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_fast.errors import ArgumentError, FormatError
from sae_fast.formats._files import read_json, require_finite, require_tensors, write_files
from sae_fast.formats._saelens_config import ParsedConfig, parse
from sae_fast.formats._saelens_config import write as write_config
from sae_fast.sae import SAE, VECTORS_OF, SAEConfig

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SCALER = "activation_scaler.json"

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""dtype names of safetensors headers."""


def find(path: Path) -> Path | None:
    """The folder to read, if `path` is one of SAELens's or one of its two files."""
    folder = path.parent if path.name in (CONFIG, WEIGHTS) else path
    return folder if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file() else None


def read_header(folder: Path) -> tuple[SAEConfig, torch.dtype]:
    """(configuration, dtype of the weights) without reading the weights."""
    shapes, dtype = _read_shapes(folder / WEIGHTS)
    return _read_config(folder, shapes).cfg, dtype


def load(folder: Path, device: torch.device | str = "cpu", norm_scaling_factor: float | None = None) -> SAE:
    """Read an SAE. `norm_scaling_factor` is folded into the weights where training scaled its inputs and did not fold it.

    Raises `FormatError` for anything unexpected and `NonFiniteError` for NaN or infinite weights.
    """
    file = folder / WEIGHTS
    shapes, _ = _read_shapes(file)
    parsed = _read_config(folder, shapes)
    require_tensors(file, _without_scaling_factor(shapes), _expected_shapes(parsed, shapes))
    tensors = load_file(file, device=str(device))
    require_finite(file, tensors)
    scaling_factor = tensors.pop("scaling_factor", None)
    if scaling_factor is not None and bool((scaling_factor != 1).any()):
        raise FormatError(f"{file}: scaling_factor", expected="all ones", got="finetuning factors, which are not supported")
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").float().exp()
    _fold_input_scale(tensors, _input_scale(folder, parsed, norm_scaling_factor), parsed)
    if parsed.batch_checkpoint:
        _use_scalar_threshold(tensors, parsed)
    return SAE(parsed.cfg, **tensors)


def save(sae: SAE, folder: Path) -> None:
    """Write an SAE so that SAELens 6 and `load` read it; the same SAE gives the same bytes."""
    settings = write_config(sae.cfg, str(sae.dtype).removeprefix("torch."))
    try:
        text = json.dumps(settings, sort_keys=True, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"metadata cannot be written as JSON ({error})") from error
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sae.tensors().items()}
    writers = {WEIGHTS: lambda file: save_file(tensors, file), CONFIG: lambda file: file.write_text(text, encoding="utf-8")}
    write_files(folder, writers)


def _read_shapes(file: Path) -> tuple[dict[str, tuple[int, ...]], torch.dtype]:
    """(shape of every tensor, dtype of W_enc) from the header."""
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            dtype = slices["W_enc"].get_dtype() if "W_enc" in slices else ""
    except SafetensorError as error:
        raise FormatError(f"{file}: not a safetensors file ({error})") from error
    if len(shapes.get("W_enc", ())) != 2:
        raise FormatError(f"{file}: W_enc", expected="a tensor [d_in, d_sae]", got=shapes.get("W_enc", "none"))
    if dtype not in DTYPES:
        raise FormatError(f"{file}: dtype of W_enc", expected=f"one of {', '.join(DTYPES)}", got=dtype)
    return shapes, DTYPES[dtype]


def _read_config(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> ParsedConfig:
    d_in, d_sae = shapes["W_enc"]
    return parse(folder / CONFIG, read_json(folder / CONFIG), d_in, d_sae)


def _without_scaling_factor(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if name != "scaling_factor"}


def _expected_shapes(parsed: ParsedConfig, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    d_in, d_sae = parsed.cfg.d_in, parsed.cfg.d_sae
    expected: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    expected |= dict.fromkeys(VECTORS_OF[parsed.cfg.architecture], (d_sae,))
    if parsed.batch_checkpoint:
        del expected["threshold"]
        expected["topk_threshold"] = ()
    elif "threshold" in expected and "log_threshold" in shapes:
        del expected["threshold"]
        expected["log_threshold"] = (d_sae,)
    return expected


def _input_scale(folder: Path, parsed: ParsedConfig, given: float | None) -> float:
    """The factor by which training scaled its inputs and that is not in the weights yet."""
    scaler = read_json(folder / SCALER) if (folder / SCALER).is_file() else {}
    if scaler.get("has_whitening"):
        raise FormatError(f"{folder / SCALER}: has_whitening", expected="false", got="true, which is not supported")
    factor = scaler.get("scaling_factor") if given is None else given
    if not parsed.needs_input_scale:
        return 1.0
    if factor is None:
        raise FormatError(
            f"{folder / CONFIG}: normalize_activations is expected_average_only_in and the factor is not in the folder",
            expected=f"{SCALER} with a scaling_factor",
            advice="Pass norm_scaling_factor=√d_in / (mean norm of the activations), or 1 if it is in the weights already",
        )
    return float(factor)


def _fold_input_scale(tensors: dict[str, Tensor], factor: float, parsed: ParsedConfig) -> None:
    if factor == 1.0:
        return
    tensors["W_enc"] = tensors["W_enc"] * factor
    tensors["W_dec"] = tensors["W_dec"] / factor
    tensors["b_dec"] = tensors["b_dec"].float() / factor
    if parsed.fold_norms:
        # In units of activation times decoder norm, and the decoder has just been divided.
        tensors["topk_threshold"] = tensors["topk_threshold"] / factor


def _use_scalar_threshold(tensors: dict[str, Tensor], parsed: ParsedConfig) -> None:
    """Turn a BatchTopK checkpoint into its inference form, as SAELens does when it saves one."""
    threshold = float(tensors.pop("topk_threshold"))
    b_enc = tensors["b_enc"].float()
    if parsed.fold_norms:
        norms = torch.linalg.vector_norm(tensors["W_dec"].float(), dim=1)
        norms = torch.where(norms > 0, norms, 1)
        dtype = tensors["W_enc"].dtype
        tensors["W_enc"] = (tensors["W_enc"].float() * norms).to(dtype)
        tensors["W_dec"] = (tensors["W_dec"].float() / norms[:, None]).to(dtype)
        b_enc = b_enc * norms
    tensors["b_enc"] = b_enc
    tensors["threshold"] = torch.full_like(b_enc, threshold)
