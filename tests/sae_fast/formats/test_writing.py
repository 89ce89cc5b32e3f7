"""Saving into other publishers' formats: what comes back computes the same, and what cannot be held is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from operands import normal

import sae_fast
from sae_fast.config import VECTORS_OF, SAEConfig
from sae_fast.errors import ArgumentError
from sae_fast.formats import WRITABLE, info
from sae_fast.sae import SAE

D_IN, D_SAE = 6, 24


def build(architecture: str = "standard", dtype: torch.dtype = torch.float32, **config: Any) -> SAE:
    """A random SAE; config `one_threshold` gives all features the same."""
    one_threshold = config.pop("one_threshold", True)
    cfg = SAEConfig(architecture=architecture, d_in=D_IN, d_sae=D_SAE, **config)  # type: ignore[arg-type]
    out = (len(cfg.hook_names_out), cfg.d_out) if cfg.hook_names_out else (cfg.d_out,)
    tensors = {"W_enc": normal(1, D_IN, D_SAE), "W_dec": normal(2, D_SAE, *out), "b_dec": normal(3, *out)}
    tensors |= {name: 0.3 * normal(seed, D_SAE) for seed, name in enumerate(VECTORS_OF[architecture], 4)}
    if "threshold" in tensors:
        tensors["threshold"] = (
            torch.full((D_SAE,), 0.4) if one_threshold and architecture == "batchtopk" else normal(7, D_SAE).abs()
        )
    if cfg.skip:
        tensors["W_skip"] = normal(8, cfg.d_out, D_IN)
    narrow = {name: tensor.to(dtype) if name.startswith("W_") else tensor for name, tensor in tensors.items()}
    return SAE(cfg, **narrow)


SCALED = {"normalize_activations": "constant_scalar_rescale", "input_scale": 0.3}


def x() -> torch.Tensor:
    return normal(9, 30, D_IN)


CASES = [
    ("saelens", "jumprelu", SCALED),
    ("saelens", "topk", {**SCALED, "k": 4, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": True}),
    ("saelens", "standard", {**SCALED, "transcoder": True, "skip": True}),
    ("gemma_scope", "jumprelu", {**SCALED, "apply_b_dec_to_input": True}),
    ("sparsify", "topk", {**SCALED, "k": 4}),
    ("dictionary_learning", "gated", SCALED),
    ("sparsify", "topk", {"k": 4, "apply_b_dec_to_input": True}),
    ("sparsify", "topk", {"k": 4}),
    ("sparsify", "topk", {"k": 4, "rescale_acts_by_decoder_norm": True}),
    ("sparsify", "topk", {"k": 4, "transcoder": True}),
    ("sparsify", "topk", {"k": 4, "transcoder": True, "skip": True}),
    ("sparsify", "topk", {"k": 4, "skip": True, "apply_b_dec_to_input": True}),
    ("sparsify", "groupmax", {"k": 4, "apply_b_dec_to_input": True}),
    ("sparsify", "groupmax", {"k": 6, "transcoder": True, "skip": True}),
    ("dictionary_learning", "standard", {"apply_b_dec_to_input": True}),
    ("dictionary_learning", "standard", {}),
    ("dictionary_learning", "gated", {"apply_b_dec_to_input": True}),
    ("dictionary_learning", "gated", {}),
    ("dictionary_learning", "jumprelu", {"apply_b_dec_to_input": True}),
    ("dictionary_learning", "jumprelu", {}),
    ("dictionary_learning", "topk", {"k": 4, "apply_b_dec_to_input": True}),
    ("dictionary_learning", "topk", {"k": 4, "rescale_acts_by_decoder_norm": True}),
    ("dictionary_learning", "batchtopk", {"k": 3, "apply_b_dec_to_input": True}),
    ("dictionary_learning", "batchtopk", {"k": 3}),
    ("dictionary_learning", "batchtopk", {"k": 3, "one_threshold": False}),
    ("dictionary_learning", "batchtopk", {}),
    ("dictionary_learning", "batchtopk", {"k": 3, "group_sizes": (4, 8, 12), "apply_b_dec_to_input": True}),
]


@pytest.mark.parametrize(
    ("name", "architecture", "config"), CASES, ids=["-".join([name, kind, *config]) for name, kind, config in CASES]
)
def test_what_comes_back_computes_the_same(name: str, architecture: str, config: dict[str, Any], tmp_path: Path) -> None:
    """Activations and outputs survive, by folding where the format knows one way only; the bytes are the same each time."""
    sae = build(architecture, **config)

    for folder in ("once", "again"):
        sae.save(tmp_path / folder, name)

    loaded = sae_fast.load(tmp_path / "once")
    assert info(tmp_path / "once").format == name
    torch.testing.assert_close(loaded.encode(x()).to_dense(), sae.encode(x()).to_dense(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loaded(x()), sae(x()), rtol=1e-5, atol=1e-5)
    assert sae.encode(x()).l0 > 0
    assert loaded.cfg.k == (None if loaded.cfg.architecture == "jumprelu" else sae.cfg.k)
    assert loaded.cfg.group_sizes == sae.cfg.group_sizes
    files = sorted(file.name for file in (tmp_path / "once").iterdir())
    assert all((tmp_path / "once" / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)


@pytest.mark.parametrize("name", ["sparsify", "dictionary_learning", "saelens", "sae_fast"])
def test_narrow_weights_stay_narrow(name: str, tmp_path: Path) -> None:
    """The dtype of the matrices is kept on disk, and their bits."""
    sae = build("topk", torch.bfloat16, k=4, apply_b_dec_to_input=True)

    sae.save(tmp_path, name)

    loaded = sae_fast.load(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.W_enc, sae.W_enc)
    assert torch.equal(loaded.W_dec, sae.W_dec)


def test_dictionary_learning_keeps_where_it_was_trained(tmp_path: Path) -> None:
    """Hook, model and context size go through config.json."""
    sae = build("topk", k=4, hook_name="blocks.5.hook_mlp_out", model_name="EleutherAI/pythia-70m-deduped", context_size=128)

    sae.save(tmp_path, "dictionary_learning")

    cfg = sae_fast.load(tmp_path).cfg
    assert (cfg.hook_name, cfg.model_name, cfg.context_size) == ("blocks.5.hook_mlp_out", "EleutherAI/pythia-70m-deduped", 128)


@pytest.mark.parametrize(
    ("name", "sae", "message"),
    [
        ("gemma_scope", build(transcoder=True, skip=True), "Gemma Scope's format has no"),
        ("gemma_scope", build(hook_names_out=("a", "b")), "Gemma Scope's format has no"),
        ("gemma_scope", build(hook_names=("a", "b")), "Gemma Scope's format has no"),
        ("saelens", build(hook_names=("a", "b")), "hook_widths: expected what SAELens has an architecture for"),
        ("sparsify", build("topk", k=4, hook_names=("a", "b")), "sparsify has no crosscoders"),
        ("dictionary_learning", build(hook_names=("a", "b")), "dictionary_learning has no crosscoders"),
        ("sparsify", build(), "architecture: expected topk or groupmax for sparsify, got standard"),
        ("sparsify", build("abstopk", k=4), "got abstopk"),
        ("sparsify", build("topk", k=4, normalize_activations="layer_norm"), "sparsify has no input normalisation"),
        ("sparsify", build("topk", k=4, transcoder=True, d_out=5), "sparsify has no outputs of another width"),
        ("sparsify", build("topk", k=4, hook_names_out=("a", "b")), "sparsify has no cross-layer transcoders"),
        ("sparsify", build("topk", k=4, group_sizes=(4, 20)), "sparsify has no groups of features"),
        ("sparsify", build("topk", k=4).replace(W_dec=None), "sparsify saves whole SAEs"),
        ("dictionary_learning", build("abstopk", k=4), "dictionary_learning has no abstopk SAEs"),
        ("dictionary_learning", build(transcoder=True), "dictionary_learning has no transcoders"),
        ("dictionary_learning", build(normalize_activations="layer_norm"), "dictionary_learning has no input normalisation"),
        ("dictionary_learning", build(group_sizes=(4, 20)), "dictionary_learning has no groups of features but"),
        ("dictionary_learning", build("batchtopk", group_sizes=(4, 20)), "dictionary_learning has no groups of features but"),
        ("dictionary_learning", build().replace(W_dec=None), "dictionary_learning saves whole SAEs"),
    ],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_refused(name: str, sae: SAE, message: str, tmp_path: Path) -> None:
    """Nothing is written that would compute something else, and the error names the format that holds it."""
    with pytest.raises(ArgumentError, match=f"{message}.*Save it as 'sae_fast'"):
        sae.save(tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    """The error lists what can be written."""
    assert WRITABLE == ("sae_fast", "saelens", "gemma_scope", "dictionary_learning", "sparsify")
    with pytest.raises(ArgumentError, match=r"format: expected one of sae_fast, saelens.*got 'onnx'"):
        build().save(tmp_path, "onnx")
