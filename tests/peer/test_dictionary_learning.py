"""dictionary-learning 0.1.0, both ways, all seven classes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from operands import normal
from peer.comparison import assert_agree, assert_read, put_inputs
from peer.environments import PATIENCE_S, Peer
from safetensors.torch import load_file

import sae_fast
from sae_fast.config import SAEConfig, tensor_shapes
from sae_fast.sae import SAE

pytestmark = [pytest.mark.peer, pytest.mark.timeout(2 * PATIENCE_S)]

CLASSES = (
    "AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder", "AutoEncoderTopK", "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
)  # fmt: skip
OURS: dict[str, dict[str, Any]] = {
    "standard": {"apply_b_dec_to_input": True},
    "standard-raw": {},
    "gated": {"architecture": "gated"},
    "topk": {"architecture": "topk", "k": 5, "apply_b_dec_to_input": True},
    "topk-rescaled": {"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {"architecture": "jumprelu", "apply_b_dec_to_input": True},
    "batchtopk": {"architecture": "batchtopk", "k": 5},
    "matryoshka": {"architecture": "batchtopk", "k": 5, "group_sizes": (24, 24, 48)},
}


@pytest.fixture(scope="module")
def written(dictionary_learning: Peer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dictionaries of every class, saved by dictionary-learning."""
    folder = tmp_path_factory.mktemp("written")
    dictionary_learning.run("run_dictionary_learning.py", "write", folder)
    return folder


@pytest.fixture(scope="module")
def read(dictionary_learning: Peer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAEs saved here and encoded by dictionary-learning."""
    folder = tmp_path_factory.mktemp("read")
    for name in OURS:
        build(name).save(folder / name, "dictionary_learning")
        put_inputs(folder / name, 2 * normal(50, 40, 12))
    dictionary_learning.run("run_dictionary_learning.py", "read", folder)
    return folder


def build(name: str) -> SAE:
    cfg = SAEConfig(**({"architecture": "standard", "d_in": 12, "d_sae": 96} | OURS[name]))
    tensors = {key: 0.4 * normal(seed, *shape) for seed, (key, shape) in enumerate(tensor_shapes(cfg).items())}
    if "threshold" in tensors:
        tensors["threshold"] = torch.full((96,), 0.7) if cfg.architecture == "batchtopk" else tensors["threshold"].abs()
    return SAE(cfg, **tensors)


@pytest.mark.parametrize("name", CLASSES)
def test_what_dictionary_learning_saves_loads_here(name: str, written: Path) -> None:
    """All seven classes; SAELens loads six of them."""
    expected = load_file(written / name / "expected.safetensors")
    assert_agree(sae_fast.load(written / name), expected["x"], expected["acts"], expected["output"])


@pytest.mark.parametrize("name", list(OURS))
def test_what_is_saved_here_loads_in_dictionary_learning(name: str, read: Path) -> None:
    """Whatever `save` writes as dictionary_learning is read by it, with the same numbers."""
    assert_read(build(name), read / name)
