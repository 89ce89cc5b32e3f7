"""SAELens's folder: `cfg.json` and `sae_weights.safetensors`.

Reads all of its architectures, in the inference form and as training checkpoints, whose inputs may have been scaled
(`activation_scaler.json`) or whitened (`activation_whitening.safetensors`), and the layout from before SAELens 6. A BatchTopK
SAE is saved by SAELens as jumprelu with its training architecture in the metadata; it is read as `batchtopk`, its matryoshka
widths as `group_sizes`. Formulas: SAELens 6.54.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from sae_fast.config import SAEConfig, tensor_shapes
from sae_fast.errors import FormatError
from sae_fast.formats._description import Description, Given, Stored, Tensors
from sae_fast.formats._files import json_writer, safetensors_writer, write_files
from sae_fast.formats._saelens_config import ParsedConfig, parse
from sae_fast.formats._saelens_folding import Whitening, fold_finetuning, fold_norms, fold_scale, fold_whitening
from sae_fast.formats._saelens_writing import settings_of, writable
from sae_fast.formats._settings import Settings
from sae_fast.sae import SAE
from sae_fast.sources import Source, TensorFile

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SCALER = "activation_scaler.json"
WHITENING = "activation_whitening.safetensors"

FINETUNING = ("scaling_factor", "finetuning_scaling_factor")
"""Keys of the factors of features that were finetuned, before version 6. For a time all ones were written to every file."""


def describe(source: Source, given: Given) -> Description | None:
    """An SAE of SAELens, if the source is one of its folders or one of the two files."""
    if not source.holds(CONFIG, WEIGHTS):
        return None
    file = source.folder.tensors(WEIGHTS)
    parsed = parse(source.folder.place(CONFIG), source.folder.read_json(CONFIG), *_sizes(file), given)
    scale = _scale(source, parsed, given.norm_scaling_factor)
    return Description(
        cfg=_with_scale(parsed.cfg, scale),
        tensors={name: _stored(name, file, parsed) for name in tensor_shapes(parsed.cfg)},
        ignored=frozenset(FINETUNING),
        finish=partial(_finish, source=source, parsed=parsed, scale=scale),
        encoder_needs_decoder=parsed.fold_norms,
        takes_scale=True,
    )


def save(sae: SAE, folder: Path) -> None:
    """Write an SAE so that SAELens 6 and `load` read it; the same SAE gives the same bytes.

    Raises `ArgumentError` for what SAELens has no architecture for: groupmax, cross-layer layers, encoders alone.
    """
    sae = writable(sae)
    settings = json_writer(settings_of(sae))
    write_files(folder, {WEIGHTS: safetensors_writer(sae.tensors()), CONFIG: settings})


def _sizes(file: TensorFile) -> tuple[int, int]:
    """(d_in, d_sae), from the decoder where the weights are tied."""
    key = "W_enc" if "W_enc" in file.shapes else "W_dec"
    shape = file.shapes.get(key, ())
    if len(shape) != 2:
        raise FormatError(f"{file.place}: W_enc", expected="a tensor [d_in, d_sae]", got=list(shape) or "none")
    return (shape[0], shape[1]) if key == "W_enc" else (shape[1], shape[0])


def _stored(name: str, file: TensorFile, parsed: ParsedConfig) -> Stored:
    if name == "threshold" and parsed.batch_checkpoint:
        return Stored(WEIGHTS, "topk_threshold", broadcast=True)
    if name == "threshold" and "log_threshold" in file.shapes:
        return Stored(WEIGHTS, "log_threshold", then=lambda tensor: tensor.float().exp())
    return Stored(WEIGHTS, name)


def _scale(source: Source, parsed: ParsedConfig, given: float | None) -> float:
    """The factor by which training scaled its inputs and that is not in the weights yet."""
    if parsed.unfolded != "scale":
        return 1.0
    folder = source.folder
    scaler = Settings(folder.place(SCALER), folder.read_json(SCALER) if folder.has(SCALER) else {})
    factor = scaler.number("scaling_factor") if given is None else given
    if factor is None:
        raise FormatError(
            f"{folder.place(CONFIG)}: normalize_activations is expected_average_only_in, and the factor is missing",
            expected=f"{SCALER} with a scaling_factor",
            advice="Pass norm_scaling_factor=√d_in / (mean norm of the activations), or 1 if it is in the weights already",
        )
    if not factor > 0:
        raise FormatError(f"{scaler.place}: scaling_factor", expected="a positive number", got=factor)
    return float(factor)


def _with_scale(cfg: SAEConfig, scale: float) -> SAEConfig:
    """Inputs that are not scaled any more leave residuals that are smaller by the factor; attention cannot be rescaled."""
    if cfg.pursuit is not None:
        return replace(cfg, pursuit=replace(cfg.pursuit, residual_threshold=cfg.pursuit.residual_threshold / scale))
    if cfg.temporal is not None and scale != 1.0:
        return replace(cfg, normalize_activations="constant_scalar_rescale", input_scale=scale)
    return cfg


def _finish(tensors: Tensors, source: Source, parsed: ParsedConfig, scale: float) -> Tensors:
    """Fold what training did, and turn a BatchTopK checkpoint into its inference form, as SAELens does."""
    tensors = _finetuned(tensors, source.folder.tensors(WEIGHTS), parsed)
    if parsed.unfolded == "whitening":
        tensors = fold_norms(tensors) if parsed.fold_norms else tensors
        return fold_whitening(tensors, _whitening(source, parsed), parsed.cfg.apply_b_dec_to_input)
    if parsed.cfg.temporal is None:
        tensors = fold_scale(tensors, scale, parsed.cfg.tied, parsed.fold_norms)
    return fold_norms(tensors) if parsed.fold_norms else tensors


def _finetuned(tensors: Tensors, file: TensorFile, parsed: ParsedConfig) -> Tensors:
    key = next((key for key in FINETUNING if key in file.shapes), None)
    if key is None:
        return tensors
    factor = file.read(key).float()
    if bool((factor == 1).all()):
        return tensors
    if not parsed.finetuned or tuple(factor.shape) != (parsed.cfg.d_sae,):
        raise FormatError(
            f"{file.place}: {key}",
            expected=f"all ones, or [{parsed.cfg.d_sae}] and finetuning_scaling_factor in {CONFIG}",
            got=f"other factors {list(factor.shape)}",
        )
    return fold_finetuning(tensors, factor)


def _whitening(source: Source, parsed: ParsedConfig) -> Whitening:
    cfg, place = parsed.cfg, source.folder.place(CONFIG)
    if cfg.tied or cfg.temporal is not None or cfg.transcoder:
        raise FormatError(f"{place}: covariance_whitening of a {cfg.architecture} SAE that is tied or writes elsewhere")
    if not source.folder.has(WHITENING):
        raise FormatError(f"{place}: normalize_activations is covariance_whitening", expected=f"{WHITENING} beside it")
    file = source.folder.tensors(WHITENING)
    shapes = {"mean": (cfg.d_in,), "matrix": (cfg.d_in, cfg.d_in), "inverse_matrix": (cfg.d_in, cfg.d_in)}
    for key, shape in shapes.items():
        if file.shapes.get(key) != shape:
            raise FormatError(f"{file.place}: {key}", expected=list(shape), got=list(file.shapes.get(key, ())) or "none")
    return Whitening(*(file.read(key).double() for key in shapes))
