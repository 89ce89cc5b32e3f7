"""sae-lens 6.54.12, both ways: what it saves loads here, what is saved here loads there, with the same numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from operands import normal
from peer.comparison import assert_agree, assert_read, put_inputs
from peer.environments import PATIENCE_S, Peer
from safetensors.torch import load_file, save_file

import sae_fast
from sae_fast.config import MatchingPursuit, SAEConfig, Temporal, tensor_shapes
from sae_fast.sae import SAE

pytestmark = [pytest.mark.peer, pytest.mark.timeout(2 * PATIENCE_S)]

D_IN, D_SAE, D_OUT = 12, 96, 10
ELSEWHERE = {"d_out": D_OUT, "transcoder": True, "hook_name": "blocks.0.hook_mlp_in", "hook_name_out": "blocks.0.hook_mlp_out"}
TEMPORAL = {"temporal": Temporal(n_heads=2, n_attn_layers=2, bottleneck_factor=4), "k": 6}
OURS: dict[str, dict[str, Any]] = {
    "standard": {},
    "standard-centred": {"apply_b_dec_to_input": True, "centred": True},
    "gated": {"architecture": "gated", "apply_b_dec_to_input": True},
    "topk": {"architecture": "topk", "k": 5},
    "topk-rescaled": {
        "architecture": "topk",
        "k": 5,
        "rescale_acts_by_decoder_norm": True,
        "normalize_activations": "layer_norm",
    },
    "abstopk": {"architecture": "abstopk", "k": 5, "apply_b_dec_to_input": True},
    "jumprelu": {"architecture": "jumprelu", "normalize_activations": "constant_norm_rescale"},
    "batchtopk": {"architecture": "batchtopk", "k": 5},
    "matryoshka": {"architecture": "batchtopk", "k": 5, "group_sizes": (24, 24, 48)},
    "hook_z": {"reshape_activations": "hook_z", "hook_name": "blocks.0.attn.hook_z"},
    "transcoder": ELSEWHERE,
    "skip_transcoder": {**ELSEWHERE, "skip": True},
    "jumprelu_transcoder": {**ELSEWHERE, "architecture": "jumprelu"},
    "jumprelu_skip_transcoder": {**ELSEWHERE, "architecture": "jumprelu", "skip": True},
    "batchtopk_transcoder": {**ELSEWHERE, "architecture": "batchtopk", "k": 5},
    "matching_pursuit": {"architecture": "matching_pursuit", "pursuit": MatchingPursuit(0.05, 7), "apply_b_dec_to_input": True},
    "temporal": {"architecture": "temporal", **TEMPORAL, "apply_b_dec_to_input": True},
    "temporal-scaled": {
        "architecture": "temporal",
        **TEMPORAL,
        "normalize_activations": "constant_scalar_rescale",
        "input_scale": 0.3,
    },
    "float64": {"architecture": "jumprelu"},
}
"""What is saved here, by name."""

THEIRS_INFERENCE = (
    "standard", "standard-raw", "standard-float64", "gated", "topk", "topk-rescaled", "abstopk", "abstopk-rescaled", "jumprelu",
    "layer_norm", "constant_norm", "hook_z", "matching_pursuit", "matching_pursuit-raw", "temporal", "temporal-untied",
    "temporal-relu", "temporal-scaled", "transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder",
    "transcoder-layer_norm",
)  # fmt: skip
TRAINED = ("standard", "gated", "topk", "abstopk", "jumprelu", "batchtopk", "matryoshka_batchtopk", "matching_pursuit")
NORMALISATIONS = ("none", "expected_average_only_in", "covariance_whitening")
THEIRS_TRAINING = [
    f"{architecture}-{normalisation}"
    for architecture in TRAINED
    for normalisation in NORMALISATIONS
    if (architecture, normalisation) != ("matching_pursuit", "covariance_whitening")
]


@pytest.fixture(scope="module")
def written(saelens: Peer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAEs of every kind, saved by sae-lens."""
    folder = tmp_path_factory.mktemp("written")
    saelens.run("run_saelens.py", "write", folder)
    return folder


@pytest.fixture(scope="module")
def read(saelens: Peer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAEs of every kind, saved here and encoded by sae-lens."""
    folder = tmp_path_factory.mktemp("read")
    for name in OURS:
        build(name).save(folder / name, "saelens")
        x = 2 * normal(50, 3, 20, D_IN) + 0.2
        put_inputs(folder / name, x.unflatten(-1, (3, 4)).contiguous() if name == "hook_z" else x)
    for name, settings in OLD.items():
        x = 2 * normal(51, 3, 20, D_IN)
        put_inputs(write_old(folder / name, settings), x.unflatten(-1, (3, 4)).contiguous() if name == "old-hook_z" else x)
    saelens.run("run_saelens.py", "read", folder)
    return folder


OLD: dict[str, dict[str, Any]] = {
    "old-standard": {"hook_point": "blocks.0.hook_resid_pre", "l1_coefficient": 8e-5, "normalize_activations": False},
    "old-hook_z": {"hook_point": "blocks.0.attn.hook_z", "hook_point_head_index": None},
    "old-topk": {"hook_name": "blocks.0.hook_mlp_out", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 7}},
    "old-raw": {"hook_name": "blocks.0.hook_mlp_out", "apply_b_dec_to_input": False, "normalize_activations": "layer_norm"},
}
"""cfg.json from before SAELens 6, by name."""


def write_old(folder: Path, settings: dict[str, Any]) -> Path:
    """A folder of that time: everything at the top level of cfg.json, and a scaling_factor of ones."""
    folder.mkdir(parents=True)
    sizes = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "torch.float32", "model_name": "gpt2-small", "lr": 4e-4, "seed": 42}
    (folder / "cfg.json").write_text(json.dumps(sizes | settings))
    tensors = {name: tensor.contiguous() for name, tensor in build("standard").tensors().items()}
    save_file(tensors | {"scaling_factor": torch.ones(D_SAE)}, folder / "sae_weights.safetensors")
    return folder


def build(name: str) -> SAE:
    cfg = SAEConfig(
        **({"architecture": "standard", "d_in": D_IN, "d_sae": D_SAE, "hook_name": "blocks.0.hook_resid_pre"} | OURS[name])
    )
    tensors = {}
    for seed, (key, shape) in enumerate(tensor_shapes(cfg).items()):
        draw = normal(seed, *shape)
        tensors[key] = draw.abs() if key == "threshold" else 0.3 * draw if len(shape) == 1 else draw / shape[-1] ** 0.5
    if cfg.pursuit is not None:
        tensors["W_dec"] = torch.nn.functional.normalize(tensors["W_dec"], dim=1)
    if name == "float64":
        tensors = {key: tensor.double() for key, tensor in tensors.items()}
    return SAE(cfg, **tensors)


def assert_same_as_expected(folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    assert_agree(sae_fast.load(folder), expected["x"], expected["acts"], expected["output"])
    if (folder / "folded.safetensors").is_file():
        folded = load_file(folder / "folded.safetensors")
        assert_agree(sae_fast.load(folder, fold_decoder_norm=True), folded["x"], folded["acts"], folded["output"])


@pytest.mark.parametrize("name", THEIRS_INFERENCE)
def test_what_saelens_saves_loads_here(name: str, written: Path) -> None:
    """Every inference architecture, with every normalisation and reshaping, as published and with decoder norms folded."""
    assert_same_as_expected(written / "inference" / name)


@pytest.mark.parametrize("form", ["checkpoint", "inference"])
@pytest.mark.parametrize("name", THEIRS_TRAINING)
def test_what_its_trainer_saves_loads_here(name: str, form: str, written: Path) -> None:
    """A checkpoint with unfolded inputs computes what SAELens's own folded inference model does."""
    folder = written / "training" / name
    assert_same_as_expected(folder if form == "checkpoint" else folder / "inference")


@pytest.mark.parametrize("name", list(OURS))
def test_what_is_saved_here_loads_in_saelens(name: str, read: Path) -> None:
    """Everything that `save` writes as saelens is read by SAELens, with the same numbers."""
    assert_read(build(name), read / name)


@pytest.mark.parametrize("name", list(OLD))
def test_files_from_before_version_6_mean_the_same(name: str, read: Path) -> None:
    """Old names, defaults and activation functions are understood as SAELens understands them."""
    assert_read(sae_fast.load(read / name), read / name)
