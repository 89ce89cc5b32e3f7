"""Every architecture that SAELens saves, from its exact files, against a few lines of its mathematics."""

import json
from pathlib import Path
from typing import Any

import pytest
import saelens_files
import torch
from operands import normal
from torch import Tensor

import sae_fast
from sae_fast.architectures import reference
from sae_fast.config import MatchingPursuit, Temporal
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.formats import info
from sae_fast.sae import SAE, SAEConfig

ARCHITECTURES = tuple(saelens_files.OF_ARCHITECTURE)
by_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
PURSUIT, TEMPORAL = MatchingPursuit(), Temporal(n_heads=2, bottleneck_factor=16)


def published(architecture: str, t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """(feature activations, output) as SAELens computes them, dense. Temporal: `x` is one sequence."""
    centred = x if "transcoder" in architecture else x - t["b_dec"]
    predicted = torch.zeros(1)
    if architecture == "matching_pursuit":
        acts = reference.matching_pursuit(centred, t["W_dec"], PURSUIT)
    elif architecture == "temporal":
        acts, codes = reference.temporal(centred, t["W_dec"].T, t["W_dec"], t, TEMPORAL, 4)
        predicted = codes @ t["W_dec"]
    elif architecture == "gated":
        h = centred @ t["W_enc"]
        acts = (h + t["b_gate"] > 0) * (centred @ (t["W_enc"] * t["r_mag"].exp()) + t["b_mag"]).relu()
    else:
        h = centred @ t["W_enc"] + t["b_enc"]
        if "topk" in architecture:
            chosen = (h.abs() if architecture == "abstopk" else h).topk(4).indices
            acts = torch.zeros_like(h).scatter(-1, chosen, (h if architecture == "abstopk" else h.relu()).gather(-1, chosen))
        else:
            acts = h.relu() * (h > t.get("threshold", torch.zeros(1)))
    skip = x @ t["W_skip"].T if "W_skip" in t else torch.zeros(1)
    return acts, acts @ t["W_dec"] + predicted + t["b_dec"] + skip


@by_architecture
def test_saved_files_give_the_published_numbers(architecture: str, tmp_path: Path) -> None:
    """Activations and outputs are SAELens's; skip connections and predictions included, which its wrapper in a model drops."""
    t = saelens_files.write(tmp_path, architecture)
    x = 2 * normal(50, 20, saelens_files.D_IN)
    acts, output = published(architecture, t, x)

    sae = sae_fast.load(tmp_path)

    torch.testing.assert_close(sae.encode(x).to_dense(), acts, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sae(x), output, rtol=1e-5, atol=1e-5)
    assert sae.encode(x).l0 > 0


@by_architecture
def test_the_configuration_is_read(architecture: str, tmp_path: Path) -> None:
    """Where it reads and writes, how it was trained, and everything else that the files say."""
    saelens_files.write(tmp_path, architecture)
    transcoder = "transcoder" in architecture

    found = info(tmp_path)

    cfg = found.cfg
    assert found.format == "saelens"
    assert (cfg.d_in, cfg.d_out) == (8, 6 if transcoder else 8)
    assert (cfg.transcoder, cfg.skip) == (transcoder, "skip" in architecture)
    assert cfg.hook_name == ("blocks.0.ln2.hook_normalized" if transcoder else "blocks.0.hook_resid_post")
    assert cfg.hook_name_write == ("blocks.0.hook_mlp_out" if transcoder else "blocks.0.hook_resid_post")
    assert (cfg.model_name, cfg.context_size, cfg.prepend_bos) == ("tiny", 16, True)
    assert cfg.metadata == {"sae_lens_version": "6.54.12", "sae_lens_training_version": "6.54.12"}
    assert cfg.k == (4 if architecture in ("topk", "abstopk", "temporal") else None)
    assert cfg.pursuit == (PURSUIT if architecture == "matching_pursuit" else None)
    assert cfg.temporal == (TEMPORAL if architecture == "temporal" else None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16], ids=str)
@by_architecture
def test_what_is_saved_is_what_was_loaded(architecture: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Saving and loading keeps every tensor and every field, twice the same bytes."""
    saelens_files.write(tmp_path / "published", architecture, dtype=str(dtype).removeprefix("torch."))
    sae = sae_fast.load(tmp_path / "published")

    for name in ("once", "again"):
        sae.save(tmp_path / name)

    saved = sae_fast.load(tmp_path / "once")
    assert saved.cfg == sae.cfg
    assert saved.tensors().keys() == sae.tensors().keys()
    assert all(torch.equal(tensor, sae.tensors()[name]) for name, tensor in saved.tensors().items())
    assert saved.dtype == dtype
    for file in ("cfg.json", "sae_weights.safetensors"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


@pytest.mark.parametrize("normalisation", ["layer_norm", "constant_norm_rescale", "constant_scalar_rescale"])
def test_temporal_inputs_are_normalised(normalisation: str, tmp_path: Path) -> None:
    """The factor of constant_scalar_rescale is read, and all three are undone on both parts of the output."""
    changes = {"normalize_activations": normalisation}
    if normalisation == "constant_scalar_rescale":
        changes["activation_normalization_factor"] = 0.25  # type: ignore[assignment]
    t = saelens_files.write(tmp_path, "temporal", **changes)
    x = 2 * normal(50, 20, 8) + 1
    mean = x.mean(1, keepdim=True) if normalisation == "layer_norm" else torch.zeros(1)
    factor = {
        "layer_norm": x.std(1, keepdim=True),
        "constant_norm_rescale": x.norm(dim=1, keepdim=True) / 8**0.5,
        "constant_scalar_rescale": torch.tensor(4.0),
    }[normalisation]
    epsilon = 1e-5 if normalisation == "layer_norm" else 0
    acts, inner = published("temporal", t, (x - mean) / (factor + epsilon))

    sae = sae_fast.load(tmp_path)

    torch.testing.assert_close(sae.encode(x).to_dense(), acts, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae(x), inner * factor + mean, rtol=1e-4, atol=1e-5)
    sae.save(tmp_path / "saved")
    assert sae_fast.load(tmp_path / "saved").cfg == sae.cfg


def test_an_untied_temporal_sae_adds_its_bias_back(tmp_path: Path) -> None:
    """W_enc of its own, and b_dec in the output though it was not subtracted."""
    t = saelens_files.write(tmp_path, "temporal")
    t["W_enc"] = normal(60, 8, 128)
    changed = {"tied_weights": False, "apply_b_dec_to_input": False}
    saelens_files.write_files(tmp_path, read_cfg(tmp_path) | changed, t)
    x = normal(50, 20, 8)
    untied = Temporal(n_heads=2, bottleneck_factor=16, tied_weights=False)
    acts, codes = reference.temporal(x, t["W_enc"], t["W_dec"], t, untied, 4)

    sae = sae_fast.load(tmp_path)

    torch.testing.assert_close(sae.encode(x).to_dense(), acts)
    torch.testing.assert_close(sae(x), (acts + codes) @ t["W_dec"] + t["b_dec"], rtol=1e-5, atol=1e-5)


def read_cfg(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "cfg.json").read_text())
    return content


def test_centred_weights_and_unknown_metadata_are_kept(tmp_path: Path) -> None:
    """center_writing_weights becomes `centred`, and comes back; other metadata pass through."""
    kwargs = {"center_writing_weights": True}
    metadata = {"sae_lens_version": "6.1.0", "model_from_pretrained_kwargs": kwargs, "mine": [1, {"a": None}]}
    saelens_files.write(tmp_path, "standard", metadata=metadata)

    sae = sae_fast.load(tmp_path)

    assert sae.cfg.centred
    assert sae.cfg.metadata == metadata
    sae.save(tmp_path / "saved")
    assert read_cfg(tmp_path / "saved")["metadata"] == metadata
    bare = sae.replace(SAEConfig(architecture="standard", d_in=8, d_sae=32, centred=True))
    bare.save(tmp_path / "bare")
    assert sae_fast.load(tmp_path / "bare").cfg.centred


@pytest.mark.parametrize("architecture", ["batchtopk", "standard"])
def test_matryoshka_groups_are_kept(architecture: str, tmp_path: Path) -> None:
    """Widths of prefixes on disk, where SAELens has them for a BatchTopK SAE, sizes of groups in memory."""
    vectors = {"b_enc": normal(3, 32)} | ({"threshold": normal(4, 32).abs()} if architecture == "batchtopk" else {})
    cfg = SAEConfig(architecture=architecture, d_in=8, d_sae=32, group_sizes=(4, 12, 16))  # type: ignore[arg-type]
    sae = SAE(cfg, W_enc=normal(1, 8, 32), W_dec=normal(2, 32, 8), b_dec=normal(5, 8), **vectors)

    sae.save(tmp_path)

    loaded = sae_fast.load(tmp_path)
    assert loaded.cfg.group_sizes == (4, 12, 16)
    assert loaded.cfg.architecture == architecture
    metadata = read_cfg(tmp_path)["metadata"]
    details = metadata.get("training_architecture_details", metadata)
    assert details["matryoshka_widths"] == [4, 16, 32]
    if architecture == "batchtopk":
        assert metadata["training_architecture"] == "matryoshka_batchtopk"


def small(architecture: str = "standard", **config: Any) -> SAE:
    cfg = SAEConfig(architecture=architecture, d_in=8, d_sae=32, **config)  # type: ignore[arg-type]
    out = (2, 8) if cfg.hook_names_out else (8,)
    return SAE(cfg, W_enc=normal(1, 8, 32), W_dec=normal(2, 32, *out), b_dec=normal(5, *out), b_enc=normal(3, 32))


def scaled_pursuit() -> SAE:
    scaled = {"normalize_activations": "constant_scalar_rescale", "input_scale": 2.0}
    cfg = SAEConfig(architecture="matching_pursuit", d_in=8, d_sae=32, **scaled)  # type: ignore[arg-type]
    return SAE(cfg, W_dec=normal(2, 32, 8), b_dec=normal(5, 8))


@pytest.mark.parametrize(
    ("sae", "message"),
    [
        (small("groupmax", k=4), "architecture: expected what SAELens has an architecture for, got 'groupmax'"),
        (small(hook_names_out=("a", "b")), "hook_names_out: expected what SAELens"),
        (small("topk", k=4, transcoder=True), "transcoder: expected what SAELens"),
        (scaled_pursuit(), "normalize_activations: expected what"),
        (small().replace(W_dec=None), "W_dec: SAELens saves whole SAEs"),
    ],
    ids=["groupmax", "cross-layer", "topk-transcoder", "scaled", "encoder-only"],
)
def test_what_saelens_cannot_hold_is_refused(sae: SAE, message: str, tmp_path: Path) -> None:
    """Nothing is written that SAELens would compute otherwise; the error names the format that holds it."""
    with pytest.raises(ArgumentError, match=f"{message}.*Save it as 'sae_fast'"):
        sae.save(tmp_path / "out", "saelens")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("transcoder", {"d_out": 7}, r"shape of W_dec: expected \[32, 7\], got \[32, 6\]"),
        ("transcoder", {"d_out": None}, "cfg.json: d_out is missing"),
        ("transcoder", {"apply_b_dec_to_input": True}, "apply_b_dec_to_input: expected False"),
        ("temporal", {"n_heads": 3}, r"d_sae: expected a multiple of bottleneck_factor \* n_heads = 48, got 128"),
        ("temporal", {"n_attn_layers": 2}, r"no tensor attn_layers\.1\.k_ctx\.weight"),
        ("temporal", {"n_attn_layers": 1000000000}, "n_attn_layers: expected at most 64"),
        ("temporal", {"sae_diff_type": "max"}, "sae_diff_type: expected one of relu, topk, got 'max'"),
        ("matching_pursuit", {"max_iterations": 0}, "pursuit: expected a threshold of at least 0"),
        ("matching_pursuit", {"residual_threshold": "small"}, "residual_threshold: expected a number, got 'small'"),
    ],
)
def test_wrong_values_are_named(architecture: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Sizes and options that do not fit the tensors, or make no sense, are errors that name file and key."""
    saelens_files.write(tmp_path, architecture, **changes)

    with pytest.raises(FormatError, match=message):
        sae_fast.load(tmp_path)
