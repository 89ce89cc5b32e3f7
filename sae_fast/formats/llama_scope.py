"""Llama Scope (2024): `hyperparams.json` and `checkpoints/final.safetensors`; SAEs and transcoders of Llama 3.1 8B.

Tensors `encoder.weight [d_sae, d_in]`, `encoder.bias`, `decoder.weight [d_out, d_sae]`, `decoder.bias`; one threshold for all
features in `jump_relu_threshold`. Nothing is subtracted from the input.

Training scaled activations to a norm of √d_model on average, x · f_in with f = √d_model / dataset_average_activation_norm, and
likewise the output. The publisher's code folds this at load, then gives decoder rows norm one; the threshold is meant for that:

    W_dec = W_d · f_in / f_out,  n = ‖W_dec‖ of each row,  W_dec / n,  W_enc · n,  b_enc = b_e / f_in · n,  b_dec = b_d / f_out

So do we: activations are in the units of the model's activations. SAELens folds f_in into W_enc instead, which makes its
activations f_in times ours, and its norm_scaling_factor is not needed here.
"""

from functools import partial

import torch
from torch import Tensor

from sae_fast.errors import FormatError
from sae_fast.formats._description import Description, Given, Stored, Tensors
from sae_fast.formats._settings import Settings, factor_of, make_config
from sae_fast.sources import Folder, Source

CONFIG = "hyperparams.json"
CHECKPOINTS = ("checkpoints/pruned.safetensors", "checkpoints/final.safetensors")
MODEL = "meta-llama/Llama-3.1-8B"
CONTEXT_SIZE = 1024


def describe(source: Source, given: Given) -> Description | None:
    """An SAE of Llama Scope: its folder, its configuration, or its checkpoint."""
    found = _find(source)
    if found is None:
        return None
    name, folder = found
    file = source.folder.tensors(name)
    config = Settings(folder.place(CONFIG), folder.read_json(CONFIG))
    activation = config.choice("act_fn", "jumprelu", "relu") or "jumprelu"
    if config.flag("use_glu_encoder") or config.flag("apply_decoder_bias_to_pre_encoder"):
        expected = "use_glu_encoder and apply_decoder_bias_to_pre_encoder false, as in all published ones"
        raise FormatError(f"{config.place}: an SAE of another kind", expected=expected)
    d_in = config.needed("d_model", config.integer("d_model"))
    f_in, f_out = _factors(config, d_in)
    hook_in, hook_out = config.text("hook_point_in"), config.text("hook_point_out")
    transcoder = hook_out is not None and hook_out != hook_in
    threshold = config.needed("jump_relu_threshold", config.number("jump_relu_threshold")) if activation == "jumprelu" else None
    cfg = make_config(
        config.place,
        given,
        architecture="standard" if threshold is None else "jumprelu",
        d_in=d_in,
        d_sae=config.needed("d_sae", config.integer("d_sae")),
        hook_name=hook_in,
        hook_name_out=hook_out if transcoder else None,
        transcoder=transcoder,
        model_name=MODEL,
        prepend_bos=True,
        context_size=CONTEXT_SIZE,
        metadata={"source_format": "llama_scope", "input_scale_folded": f_in},
    )
    tensors = {
        "W_enc": Stored(name, "encoder.weight", transposed=True),
        "W_dec": Stored(name, "decoder.weight", transposed=True),
        "b_enc": Stored(name, "encoder.bias"),
        "b_dec": Stored(name, "decoder.bias"),
    }
    zeros = {"b_dec"} if config.values.get("use_decoder_bias") is False and "decoder.bias" not in file.shapes else set()
    unit = config.values.get("sparsity_include_decoder_norm") is not False
    return Description(
        cfg,
        {ours: stored for ours, stored in tensors.items() if ours not in zeros},
        zeros=frozenset(zeros | ({"threshold"} if threshold is not None else set())),
        finish=partial(_fold, f_in=f_in, f_out=f_out, unit=unit, threshold=threshold),
        encoder_needs_decoder=unit,
    )


def _find(source: Source) -> tuple[str, Folder] | None:
    """(name of the checkpoint in the source's folder, folder of the configuration)."""
    folder, above = source.folder, source.folder.parent()
    if source.file in (None, CONFIG) and folder.has(CONFIG):
        name = next((name for name in CHECKPOINTS if folder.has(name)), None)
        return None if name is None else (name, folder)
    named = source.file is not None and f"checkpoints/{source.file}" in CHECKPOINTS
    return (source.file, above) if named and source.file and above is not None and above.has(CONFIG) else None


def _factors(config: Settings, d_model: int) -> tuple[float, float]:
    """(f_in, f_out), 1 where training did not normalise."""
    how = config.choice("norm_activation", "dataset-wise", "inference") or "dataset-wise"
    if how == "inference":
        return 1.0, 1.0
    norms = config.section("dataset_average_activation_norm")
    average_in = norms.needed("in", norms.number("in"))
    average_out = norms.number("out")
    average_out = average_in if average_out is None else average_out
    f_in, f_out = factor_of(d_model, average_in), factor_of(d_model, average_out)
    if f_in is None or f_out is None:
        raise FormatError(norms.place, expected="positive norms", got=f"{average_in} and {average_out}")
    return f_in, f_out


def _fold(tensors: Tensors, f_in: float, f_out: float, unit: bool, threshold: float | None) -> Tensors:
    """In float32 or wider; matrices come back in the dtype they had."""
    W_enc, W_dec = tensors["W_enc"], tensors["W_dec"]
    wide = torch.promote_types(W_dec.dtype, torch.float32)
    rows, b_enc = W_dec.to(wide) * (f_in / f_out), tensors["b_enc"].to(wide) / f_in
    norms = _norms(rows) if unit else torch.ones_like(b_enc)
    folded = tensors | {
        "W_enc": (W_enc.to(wide) * norms).to(W_enc.dtype) if unit else W_enc,
        "W_dec": (rows / norms[:, None]).to(W_dec.dtype),
        "b_enc": b_enc * norms,
        "b_dec": tensors["b_dec"].to(wide) / f_out,
    }
    return folded if threshold is None else folded | {"threshold": torch.full_like(b_enc, threshold)}


def _norms(rows: Tensor) -> Tensor:
    """Of each row, one where it is zero."""
    norms = torch.linalg.vector_norm(rows, dim=1)
    return torch.where(norms > 0, norms, 1)
