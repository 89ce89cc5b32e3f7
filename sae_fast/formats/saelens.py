"""SAELens's folder: `cfg.json` and `sae_weights.safetensors`.

Reads the inference form and the training checkpoints of the architectures of `sae_fast.sae`, and the layout from before
SAELens 6. A BatchTopK SAE is saved by SAELens as jumprelu with its training architecture in the metadata; it is read as
`batchtopk`.
Formulas: SAELens 6.54.
"""

import json
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from sae_fast.config import tensor_shapes
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.formats._description import Description, Given, Stored, Tensors
from sae_fast.formats._files import write_files
from sae_fast.formats._saelens_config import ParsedConfig, parse
from sae_fast.formats._saelens_config import write as write_config
from sae_fast.sae import SAE
from sae_fast.sources import Source, TensorFile

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SCALER = "activation_scaler.json"


def describe(source: Source, given: Given) -> Description | None:
    """An SAE of SAELens, if the source is one of its folders or one of the two files."""
    if not source.holds(CONFIG, WEIGHTS):
        return None
    file = source.folder.tensors(WEIGHTS)
    shape = file.shapes.get("W_enc", ())
    if len(shape) != 2:
        raise FormatError(f"{file.place}: W_enc", expected="a tensor [d_in, d_sae]", got=list(shape) or "none")
    parsed = parse(source.folder.place(CONFIG), source.folder.read_json(CONFIG), *shape)
    scale = _input_scale(source, parsed, given.norm_scaling_factor)
    _refuse_finetuned(file)
    return Description(
        cfg=parsed.cfg,
        tensors={name: _stored(name, file, parsed) for name in tensor_shapes(parsed.cfg)},
        ignored=frozenset({"scaling_factor"}),
        finish=partial(_finish, scale=scale, fold_norms=parsed.fold_norms),
        encoder_needs_decoder=parsed.fold_norms,
        takes_scale=True,
    )


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


def _stored(name: str, file: TensorFile, parsed: ParsedConfig) -> Stored:
    if name == "threshold" and parsed.batch_checkpoint:
        return Stored(WEIGHTS, "topk_threshold", broadcast=True)
    if name == "threshold" and "log_threshold" in file.shapes:
        return Stored(WEIGHTS, "log_threshold", then=lambda tensor: tensor.float().exp())
    return Stored(WEIGHTS, name)


def _refuse_finetuned(file: TensorFile) -> None:
    if "scaling_factor" in file.shapes and bool((file.read("scaling_factor") != 1).any()):
        raise FormatError(
            f"{file.place}: scaling_factor", expected="all ones", got="finetuning factors, which are not supported"
        )


def _input_scale(source: Source, parsed: ParsedConfig, given: float | None) -> float:
    """The factor by which training scaled its inputs and that is not in the weights yet."""
    scaler = source.folder.read_json(SCALER) if source.folder.has(SCALER) else {}
    if scaler.get("has_whitening"):
        raise FormatError(f"{source.folder.place(SCALER)}: has_whitening", expected="false", got="true, which is not supported")
    factor = scaler.get("scaling_factor") if given is None else given
    if not parsed.needs_input_scale:
        return 1.0
    if factor is None:
        raise FormatError(
            f"{source.folder.place(CONFIG)}: normalize_activations is expected_average_only_in, and the factor is missing",
            expected=f"{SCALER} with a scaling_factor",
            advice="Pass norm_scaling_factor=√d_in / (mean norm of the activations), or 1 if it is in the weights already",
        )
    return float(factor)


def _finish(tensors: Tensors, scale: float, fold_norms: bool) -> Tensors:
    """Fold the factor of the inputs, and turn a BatchTopK checkpoint into its inference form, as SAELens does."""
    W_enc, b_enc = tensors["W_enc"], tensors.get("b_enc")
    if scale != 1.0:
        tensors |= {"W_enc": W_enc * scale, "b_dec": tensors["b_dec"].float() / scale}
        # Absent where only the encoder is read.
        tensors |= {"W_dec": tensors["W_dec"] / scale} if "W_dec" in tensors else {}
    if not fold_norms:
        return tensors
    W_dec = tensors["W_dec"]
    # The checkpoint's threshold is in units of activation times decoder norm.
    norms = torch.linalg.vector_norm(W_dec.float(), dim=1)
    norms = torch.where(norms > 0, norms, 1)
    assert b_enc is not None
    return tensors | {
        "W_enc": (tensors["W_enc"].float() * norms).to(W_enc.dtype),
        "W_dec": (W_dec.float() / norms[:, None]).to(W_dec.dtype),
        "b_enc": b_enc.float() * norms,
        "threshold": tensors["threshold"] / scale,
    }
