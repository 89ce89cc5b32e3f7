"""Runs inside sae-lens's environment: `run_saelens.py write FOLDER` or `run_saelens.py read FOLDER`.

`write` saves SAEs of every kind below FOLDER, with `expected.safetensors` {x, acts, output} beside each. `read` loads every SAE
below FOLDER with SAELens, encodes its `x.safetensors` and leaves `got.safetensors`.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from sae_lens.saes.sae import SAE, TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler, ActivationWhitening
from safetensors.torch import load_file, save_file

D_IN, D_SAE, D_OUT = 12, 96, 10
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
UNFOLDABLE = ("matching_pursuit", "temporal")
TEMPORAL = {"n_heads": 2, "n_attn_layers": 2, "bottleneck_factor": 4, "kval_topk": 6}

INFERENCE: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("standard", {}),
    "standard-raw": ("standard", {"apply_b_dec_to_input": False}),
    "standard-float64": ("standard", {"dtype": "float64"}),
    "gated": ("gated", {}),
    "topk": ("topk", {"k": 5}),
    "topk-rescaled": ("topk", {"k": 5, "rescale_acts_by_decoder_norm": True}),
    "abstopk": ("abstopk", {"k": 5}),
    "abstopk-rescaled": ("abstopk", {"k": 5, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": ("jumprelu", {}),
    "layer_norm": ("topk", {"k": 5, "normalize_activations": "layer_norm"}),
    "constant_norm": ("jumprelu", {"normalize_activations": "constant_norm_rescale"}),
    "hook_z": ("standard", {"reshape_activations": "hook_z"}),
    "matching_pursuit": ("matching_pursuit", {}),
    "matching_pursuit-raw": (
        "matching_pursuit",
        {"apply_b_dec_to_input": False, "max_iterations": 5, "residual_threshold": 0.5},
    ),
    "temporal": ("temporal", TEMPORAL),
    "temporal-untied": ("temporal", {**TEMPORAL, "tied_weights": False, "apply_b_dec_to_input": False}),
    "temporal-relu": ("temporal", {**TEMPORAL, "sae_diff_type": "relu", "normalize_activations": "layer_norm"}),
    "temporal-scaled": (
        "temporal",
        {**TEMPORAL, "normalize_activations": "constant_scalar_rescale", "activation_normalization_factor": 0.3},
    ),
    **{name: (name, {"d_out": D_OUT, "apply_b_dec_to_input": False}) for name in TRANSCODERS},
    "transcoder-layer_norm": (
        "transcoder",
        {"d_out": D_OUT, "apply_b_dec_to_input": False, "normalize_activations": "layer_norm"},
    ),
}
"""Name → architecture and configuration."""

TRAINING: dict[str, dict[str, Any]] = {
    "standard": {},
    "gated": {},
    "topk": {"k": 5},
    "abstopk": {"k": 5},
    "jumprelu": {},
    "batchtopk": {"k": 5},
    "matryoshka_batchtopk": {"k": 5, "matryoshka_widths": [24, 48, 96]},
    "matching_pursuit": {"decoder_init_norm": 1.0, "max_iterations": 5},
}


def randomise(sae: torch.nn.Module, seed: int) -> None:
    """Random weights; decoder rows of unlike norms, but for pursuits, which would not end."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(sae.named_parameters()):
            draw = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            parameter.copy_(
                draw.abs() if name == "threshold" else 0.3 * draw if parameter.ndim == 1 else draw / parameter.shape[-1] ** 0.5
            )
        if type(sae).__name__.startswith("MatchingPursuit"):
            sae.W_dec.copy_(torch.nn.functional.normalize(sae.W_dec, dim=1))
        else:
            sae.W_dec.mul_(torch.linspace(0.5, 2, len(sae.W_dec))[:, None].to(sae.W_dec.dtype))
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold = torch.tensor(0.7, dtype=torch.float64)


def inputs(seed: int, hook_z: bool = False) -> torch.Tensor:
    x = 2 * torch.randn(3, 20, D_IN, generator=torch.Generator().manual_seed(seed)) + 0.2
    return x.unflatten(-1, (3, 4)) if hook_z else x


def base(changes: dict[str, Any]) -> dict[str, Any]:
    metadata = {"model_name": "tiny", "hook_name": "blocks.0.attn.hook_z", "prepend_bos": True, "context_size": 16}
    return {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "metadata": metadata, **changes}


@torch.no_grad()
def expect(sae: SAE, folder: Path, x: torch.Tensor, name: str = "expected") -> None:
    x = x.to(sae.dtype)
    save_file(
        {"x": x.contiguous(), "acts": sae.encode(x).contiguous(), "output": sae(x).contiguous()}, folder / f"{name}.safetensors"
    )


def write_inference(folder: Path, architecture: str, changes: dict[str, Any], seed: int) -> None:
    config = SAE.get_sae_config_class_for_architecture(architecture).from_dict({"architecture": architecture, **base(changes)})
    sae = SAE.get_sae_class_for_architecture(architecture)(config)
    randomise(sae, seed)
    sae.save_model(folder)
    x = inputs(seed, changes.get("reshape_activations") == "hook_z")
    expect(sae, folder, x)
    if architecture not in UNFOLDABLE and ("topk" not in architecture or changes.get("rescale_acts_by_decoder_norm")):
        sae.fold_W_dec_norm()
        expect(sae, folder, x, "folded")


def write_training(folder: Path, architecture: str, changes: dict[str, Any], seed: int, normalisation: str) -> None:
    """The checkpoint as the trainer writes it; expected is what SAELens itself loads from the folded inference model."""
    settings = base(changes) | {"normalize_activations": normalisation}
    config = TrainingSAE.get_sae_config_class_for_architecture(architecture).from_dict(
        {"architecture": architecture, **settings}
    )
    sae = TrainingSAE.get_sae_class_for_architecture(architecture)(config)
    randomise(sae, seed)
    sae.save_model(folder)
    scaler = ActivationScaler()
    if normalisation == "expected_average_only_in":
        scaler.scaling_factor = 0.6
    if normalisation == "covariance_whitening":
        matrix = torch.eye(D_IN).double() + 0.1 * torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(9)).double()
        scaler.whitening = ActivationWhitening(torch.linspace(-1, 1, D_IN).double(), matrix, torch.linalg.inv(matrix))
    scaler.save(str(folder / "activation_scaler.json"))
    if scaler.scaling_factor is not None:
        sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
    if scaler.whitening is not None:
        w = scaler.whitening
        sae.fold_activation_whitening(mean=w.mean, whitening_matrix=w.matrix, unwhitening_matrix=w.inverse_matrix)
    sae.save_inference_model(folder / "inference")
    folded = SAE.load_from_disk(folder / "inference")
    expect(folded, folder, inputs(seed))
    expect(folded, folder / "inference", inputs(seed))


def write(folder: Path) -> None:
    for seed, (name, (architecture, changes)) in enumerate(INFERENCE.items()):
        write_inference(folder / "inference" / name, architecture, changes, seed)
    for seed, (architecture, changes) in enumerate(TRAINING.items()):
        for normalisation in ("none", "expected_average_only_in", "covariance_whitening"):
            if (architecture, normalisation) != ("matching_pursuit", "covariance_whitening"):
                write_training(
                    folder / "training" / f"{architecture}-{normalisation}", architecture, changes, seed, normalisation
                )


def read(folder: Path) -> None:
    for file in sorted(folder.rglob("x.safetensors")):
        expect(SAE.load_from_disk(file.parent), file.parent, load_file(file)["x"], "got")


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
