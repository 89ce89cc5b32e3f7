"""Our own format: every SAE, without loss."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from operands import normal
from safetensors.torch import load_file, save_file

import sae_fast
from sae_fast.config import MatchingPursuit, SAEConfig, Temporal, tensor_shapes
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.formats import info
from sae_fast.sae import SAE

CONFIGS: dict[str, dict[str, Any]] = {
    "standard": {"hook_name": "blocks.3.hook_resid_post", "model_name": "tiny", "prepend_bos": False, "context_size": 64},
    "gated": {"reshape_activations": "hook_z", "metadata": {"neuronpedia_id": "a/b", "nested": {"list": [1, None, "x"]}}},
    "topk": {"k": 4, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": True},
    "abstopk": {"k": 4, "normalize_activations": "layer_norm", "centred": True},
    "jumprelu": {"transcoder": True, "skip": True, "d_out": 5, "hook_name": "a", "hook_name_out": "b"},
    "batchtopk": {"group_sizes": (4, 8, 12), "k": 3},
    "groupmax": {"k": 6, "normalize_activations": "constant_norm_rescale"},
    "matching_pursuit": {"pursuit": MatchingPursuit(0.5, 7, False)},
    "temporal": {
        "k": 3,
        "temporal": Temporal(2, 2, 4, "topk", False),
        "normalize_activations": "constant_scalar_rescale",
        "input_scale": 0.3,
    },
    "crosscoder": {"architecture": "batchtopk", "hook_names": ("a", "b", "c"), "hook_widths": (1, 2, 3), "k": 2},
    "cross-layer": {"architecture": "jumprelu", "hook_names_out": ("a", "b", "c"), "d_out": 5, "skip": True},
}
by_kind = pytest.mark.parametrize("kind", list(CONFIGS))


def build(kind: str, dtype: torch.dtype = torch.float32) -> SAE:
    cfg = SAEConfig(**({"architecture": kind, "d_in": 6, "d_sae": 24} | CONFIGS[kind]))
    tensors = {name: normal(seed, *shape).to(dtype) for seed, (name, shape) in enumerate(tensor_shapes(cfg).items())}
    return SAE(cfg, **tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@by_kind
def test_everything_comes_back(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Configuration, tensors and dtype are what was saved, and saving again gives the same bytes."""
    sae = build(kind, dtype)

    sae.save(tmp_path / "once", "sae_fast")

    loaded = sae_fast.load(tmp_path / "once")
    assert loaded.cfg == sae.cfg
    assert loaded.dtype == dtype
    assert loaded.tensors().keys() == sae.tensors().keys()
    assert all(torch.equal(tensor, sae.tensors()[name]) for name, tensor in loaded.tensors().items())
    loaded.save(tmp_path / "again", "sae_fast")
    for file in ("sae.json", "sae.safetensors"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    assert info(tmp_path / "once").format == "sae_fast"


def test_parts_are_read_alone(tmp_path: Path) -> None:
    """Some features, or the encoder without the decoder."""
    sae = build("jumprelu")
    sae.save(tmp_path, "sae_fast")
    x = normal(9, 5, 6)

    some = sae_fast.load(tmp_path, features=[7, 2])

    torch.testing.assert_close(some.encode(x).to_dense(), sae.encode(x).features([7, 2]))
    assert not sae_fast.load(tmp_path, encoder_only=True).has_decoder


def test_the_files_are_what_the_page_says(tmp_path: Path) -> None:
    """Fields at their defaults, d_out = d_in too, are left out, keys are sorted, the encoder lies by feature."""
    build("topk").save(tmp_path, "sae_fast")

    content = json.loads((tmp_path / "sae.json").read_text())

    assert content == {
        "format": "sae_fast",
        "version": 1,
        "config": {
            "architecture": "topk",
            "d_in": 6,
            "d_sae": 24,
            "k": 4,
            "rescale_acts_by_decoder_norm": True,
            "apply_b_dec_to_input": True,
        },
    }
    stored = load_file(tmp_path / "sae.safetensors")
    assert {name: list(tensor.shape) for name, tensor in stored.items()} == {
        "W_enc.T": [24, 6],
        "W_dec": [24, 6],
        "b_enc": [24],
        "b_dec": [6],
    }


def test_a_view_is_saved_without_what_it_views(tmp_path: Path) -> None:
    """The prefix of a matryoshka SAE shares memory with the whole; its file holds the prefix alone."""
    build("batchtopk").prefix(1).save(tmp_path, "sae_fast")

    assert sae_fast.load(tmp_path).cfg.group_sizes == (4,)
    assert (tmp_path / "sae.safetensors").stat().st_size < 4 * (2 * 4 * 6 + 6 + 2 * 4) + 600


def test_an_encoder_alone_is_not_saved(tmp_path: Path) -> None:
    """It would not load as an SAE."""
    with pytest.raises(ArgumentError, match="W_dec: this SAE was loaded without its decoder"):
        build("jumprelu").replace(W_dec=None).save(tmp_path / "out", "sae_fast")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_in": None}, "config: d_in is missing"),
        ({"magic": 1}, "config: unknown keys magic"),
        ({"architecture": "relu"}, "architecture: expected one of standard"),
        ({"d_in": "6"}, "config: d_in: expected a number, got '6'"),
        ({"d_in": 7}, r"shape of W_enc.T: expected \[24, 7\], got \[24, 6\]"),
        ({"hook_names_out": "a"}, "hook_names_out: expected a list of texts"),
        ({"architecture": "temporal", "temporal": {"n_attn_layers": 10**9}}, "n_attn_layers: expected at most 64"),
        ({"architecture": "temporal", "temporal": {"depth": 1}}, "temporal: unknown keys depth"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_damaged_configuration_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Every wrong, missing or unknown entry is an error with file and key."""
    build("topk").save(tmp_path, "sae_fast")
    file = tmp_path / "sae.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"config": content["config"] | changes}))

    with pytest.raises(FormatError, match=message):
        sae_fast.load(tmp_path)


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    """What it changed is not known here."""
    build("topk").save(tmp_path, "sae_fast")
    file = tmp_path / "sae.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 2}))

    with pytest.raises(FormatError, match=r"sae\.json: version: expected 1, got 2"):
        sae_fast.load(tmp_path)


def test_unknown_tensors_are_refused(tmp_path: Path) -> None:
    """A tensor that the configuration does not ask for might change the SAE."""
    build("topk").save(tmp_path, "sae_fast")
    save_file(load_file(tmp_path / "sae.safetensors") | {"W_skip": torch.zeros(6, 6)}, tmp_path / "sae.safetensors")

    with pytest.raises(FormatError, match="unknown tensors W_skip"):
        sae_fast.load(tmp_path)
