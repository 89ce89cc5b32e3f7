"""The folders that sae-lens 6.54.12 writes, key for key, with random tensors: every architecture, saved and as a checkpoint."""

import json
from pathlib import Path
from typing import Any

import torch
from operands import normal
from safetensors.torch import save_file
from torch import Tensor

D_IN, D_SAE, D_OUT = 8, 32, 6
WIDE_D_SAE = 128
"""Of the temporal one, whose sizes must divide."""

_METADATA = {
    "sae_lens_version": "6.54.12",
    "sae_lens_training_version": "6.54.12",
    "model_name": "tiny",
    "hook_name": "blocks.0.hook_resid_post",
    "context_size": 16,
    "prepend_bos": True,
}
_ELSEWHERE = {"hook_name": "blocks.0.ln2.hook_normalized", "hook_name_out": "blocks.0.hook_mlp_out"}
_TOPK = {"k": 4, "rescale_acts_by_decoder_norm": False}
_TEMPORAL = {
    "n_heads": 2,
    "n_attn_layers": 1,
    "bottleneck_factor": 16,
    "sae_diff_type": "topk",
    "kval_topk": 4,
    "tied_weights": True,
    "activation_normalization_factor": 1.0,
}
_PURSUIT = {"residual_threshold": 0.01, "max_iterations": None, "stop_on_duplicate_support": True}
OF_ARCHITECTURE: dict[str, dict[str, Any]] = {
    "standard": {},
    "gated": {},
    "topk": _TOPK,
    "abstopk": _TOPK,
    "jumprelu": {},
    "transcoder": {"d_out": D_OUT},
    "skip_transcoder": {"d_out": D_OUT},
    "jumprelu_transcoder": {"d_out": D_OUT},
    "jumprelu_skip_transcoder": {"d_out": D_OUT},
    "temporal": _TEMPORAL,
    "matching_pursuit": _PURSUIT,
}
"""What cfg.json says of an inference architecture beside what it says of all."""

_BATCH = {
    "k": 4,
    "use_sparse_activations": False,
    "aux_loss_coefficient": 1.0,
    "rescale_acts_by_decoder_norm": True,
    "topk_threshold_lr": 0.01,
}
_JUMP = {
    "jumprelu_init_threshold": 0.01,
    "jumprelu_bandwidth": 0.05,
    "jumprelu_sparsity_loss_mode": "step",
    "l0_coefficient": 1.0,
    "l0_warm_up_steps": 0,
    "pre_act_loss_coefficient": None,
    "jumprelu_tanh_scale": 4.0,
    "jumprelu_ste_to_input": False,
    "target_l0": None,
}
_AUXILIARY = {"k": 4, "use_sparse_activations": False, "aux_loss_coefficient": 1.0, "rescale_acts_by_decoder_norm": True}
OF_TRAINING: dict[str, dict[str, Any]] = {
    "standard": {"l1_coefficient": 1.0, "lp_norm": 1.0, "l1_warm_up_steps": 0},
    "gated": {"l1_coefficient": 1.0, "l1_warm_up_steps": 0},
    "topk": _AUXILIARY,
    "abstopk": _AUXILIARY,
    "jumprelu": _JUMP,
    "batchtopk": _BATCH,
    "matryoshka_batchtopk": {**_BATCH, "matryoshka_widths": [8, 16, 32], "use_matryoshka_aux_loss": False},
    "matching_pursuit": {"residual_threshold": 0.01, "max_iterations": 4, "stop_on_duplicate_support": True},
}
"""What the cfg.json of a training checkpoint says beside that."""


def write(folder: Path, architecture: str, **changes: Any) -> dict[str, Tensor]:
    """A folder of `SAE.save_model`; returns its tensors. `changes` replace entries of cfg.json."""
    transcoder = "transcoder" in architecture
    metadata = _METADATA | (_ELSEWHERE if transcoder else {})
    cfg = _common(architecture) | {"apply_b_dec_to_input": not transcoder, "metadata": metadata}
    return write_files(folder, cfg | OF_ARCHITECTURE[architecture] | changes, tensors_of(architecture))


def write_checkpoint(folder: Path, architecture: str, **changes: Any) -> dict[str, Tensor]:
    """A folder of `TrainingSAE.save_model`, as checkpoints hold it; returns its tensors."""
    training = {"decoder_init_norm": 0.1} | OF_TRAINING[architecture]
    metadata = {**_METADATA, "training_architecture": architecture, "training_architecture_details": training}
    cfg = _common(architecture) | training | {"metadata": metadata} | changes
    return write_files(folder, cfg, tensors_of(architecture))


def write_files(folder: Path, cfg: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The two files, the weights in the dtype that cfg.json says; returns the tensors as stored."""
    dtype = getattr(torch, cfg["dtype"])
    stored = {name: tensor if name == "topk_threshold" else tensor.to(dtype) for name, tensor in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(cfg), encoding="utf-8")
    save_file(stored, folder / "sae_weights.safetensors")
    return stored


def tensors_of(architecture: str) -> dict[str, Tensor]:
    """Random tensors by SAELens's names. Decoder rows have norms from a half to two."""
    d_sae, d_out = (WIDE_D_SAE if architecture == "temporal" else D_SAE), (D_OUT if "transcoder" in architecture else D_IN)
    W_dec = torch.nn.functional.normalize(normal(2, d_sae, d_out), dim=1) * torch.linspace(0.5, 2, d_sae)[:, None]
    tensors = {"W_dec": W_dec, "b_dec": 0.3 * normal(3, d_out)}
    if architecture == "matching_pursuit":
        return tensors
    if architecture == "temporal":
        return tensors | _attention()
    tensors["W_enc"] = normal(1, D_IN, d_sae)
    vectors = ("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc",)
    tensors |= {name: 0.3 * normal(seed, d_sae) for seed, name in enumerate(vectors, 4)}
    if "jumprelu" in architecture:
        tensors["threshold"] = normal(7, d_sae).abs()
    if "skip" in architecture:
        tensors["W_skip"] = normal(8, d_out, D_IN)
    if "batchtopk" in architecture:
        tensors["topk_threshold"] = torch.tensor(0.7, dtype=torch.float64)
    return tensors


def _attention() -> dict[str, Tensor]:
    tensors = {}
    for seed, (name, width) in enumerate((("k_ctx", 8), ("q_target", 8), ("v_ctx", WIDE_D_SAE), ("c_proj", WIDE_D_SAE)), 20):
        tensors[f"attn_layers.0.{name}.weight"] = 0.2 * normal(seed, width, WIDE_D_SAE)
        tensors[f"attn_layers.0.{name}.bias"] = 0.2 * normal(seed + 10, width)
    return tensors


def _common(architecture: str) -> dict[str, Any]:
    return {
        "d_in": D_IN,
        "d_sae": WIDE_D_SAE if architecture == "temporal" else D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "architecture": architecture,
    }
