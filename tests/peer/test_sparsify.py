"""eai-sparsify 1.3.3, both ways."""

from pathlib import Path
from typing import Any

import pytest
from operands import normal
from peer.comparison import assert_agree, assert_read, put_inputs
from peer.environments import PATIENCE_S, Peer
from safetensors.torch import load_file

import sae_fast
from sae_fast.config import SAEConfig, tensor_shapes
from sae_fast.sae import SAE

pytestmark = [pytest.mark.peer, pytest.mark.timeout(2 * PATIENCE_S)]

THEIRS = ("topk", "latents", "groupmax", "transcode", "skip", "skip-sae", "groupmax-skip")
OURS: dict[str, dict[str, Any]] = {
    "topk": {"k": 5, "apply_b_dec_to_input": True},
    "topk-raw": {"k": 5},
    "topk-rescaled": {"k": 5, "rescale_acts_by_decoder_norm": True},
    "groupmax": {"architecture": "groupmax", "k": 8, "apply_b_dec_to_input": True},
    "transcoder": {"k": 5, "transcoder": True},
    "skip": {"k": 5, "transcoder": True, "skip": True},
    "skip-sae": {"k": 5, "skip": True, "apply_b_dec_to_input": True},
    "groupmax-skip": {"architecture": "groupmax", "k": 8, "transcoder": True, "skip": True},
}


@pytest.fixture(scope="module")
def written(sparsify: Peer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAEs and transcoders saved by sparsify."""
    folder = tmp_path_factory.mktemp("written")
    sparsify.run("run_sparsify.py", "write", folder)
    return folder


@pytest.fixture(scope="module")
def read(sparsify: Peer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAEs saved here and encoded by sparsify."""
    folder = tmp_path_factory.mktemp("read")
    for name in OURS:
        build(name).save(folder / name, "sparsify")
        put_inputs(folder / name, 2 * normal(50, 40, 12))
    sparsify.run("run_sparsify.py", "read", folder)
    return folder


def build(name: str) -> SAE:
    cfg = SAEConfig(**({"architecture": "topk", "d_in": 12, "d_sae": 96} | OURS[name]))
    shapes = tensor_shapes(cfg).items()
    return SAE(cfg, **{key: 0.4 * normal(seed, *shape) for seed, (key, shape) in enumerate(shapes)})


@pytest.mark.parametrize("name", THEIRS)
def test_what_sparsify_saves_loads_here(name: str, written: Path) -> None:
    """Every activation, size, skip term and transcoder."""
    expected = load_file(written / name / "expected.safetensors")
    assert_agree(sae_fast.load(written / name), expected["x"], expected["acts"], expected["output"])


@pytest.mark.parametrize("name", list(OURS))
def test_what_is_saved_here_loads_in_sparsify(name: str, read: Path) -> None:
    """Whatever `save` writes as sparsify is read by it, with the same numbers."""
    assert_read(build(name), read / name)
