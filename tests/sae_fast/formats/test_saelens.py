import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sae_fast
from sae_fast.errors import ArgumentError, FormatError, NonFiniteError
from sae_fast.formats import info, saelens
from sae_fast.formats._description import Given
from sae_fast.sources import open_source

ARCHITECTURES = ("standard", "gated", "topk", "jumprelu", "batchtopk")
by_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def x() -> Tensor:
    return torch.randn(6, 32, generator=torch.Generator().manual_seed(1))


def edit(folder: Path, **changes: Any) -> Path:
    """Change keys of cfg.json; None removes one."""
    file = folder / "cfg.json"
    cfg = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in cfg.items() if value is not None}))
    return folder


def edit_tensors(folder: Path, **changes: Tensor | None) -> Path:
    """Change tensors of the weights file; None removes one."""
    file = folder / "sae_weights.safetensors"
    tensors = load_file(file) | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)
    return folder


@by_architecture
def test_weights_and_configuration_are_read(architecture: str, tmp_path: Path) -> None:
    """Every tensor arrives as stored, and cfg.json fills the configuration."""
    folder = tiny.sae(tmp_path / "sae", architecture=architecture)

    sae = sae_fast.load(folder)

    stored = load_file(folder / "sae_weights.safetensors")
    assert sae.tensors().keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in sae.tensors().items())
    assert sae.cfg.architecture == architecture
    assert (sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.d_out) == (32, 64, 32)
    assert sae.cfg.hook_name == "blocks.1.hook_resid_post"
    assert (sae.cfg.model_name, sae.cfg.context_size, sae.cfg.prepend_bos) == ("tiny", 64, True)
    assert sae.cfg.apply_b_dec_to_input
    assert sae.cfg.metadata["sae_lens_version"] == "6.54.12"
    assert sae.encode(x()).l0 > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@by_architecture
def test_save_and_load_round_trip(architecture: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """A saved SAE loads with the same configuration, tensors and dtypes."""
    sae = sae_fast.load(tiny.sae(tmp_path / "sae", architecture=architecture), dtype=dtype)

    sae.save(tmp_path / "again")
    again = sae_fast.load(tmp_path / "again")

    assert again.cfg == sae.cfg
    assert again.dtype == dtype
    for name, tensor in sae.tensors().items():
        assert torch.equal(again.tensors()[name], tensor)
        assert again.tensors()[name].dtype == tensor.dtype


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """Keys are sorted, and nothing of the time or the process is in the files."""
    sae = sae_fast.load(tiny.sae(tmp_path / "sae", architecture="jumprelu"))

    sae.save(tmp_path / "a")
    sae.save(tmp_path / "b")
    sae.save(tmp_path / "b")

    names = ["cfg.json", "sae_weights.safetensors"]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == names
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_saved_files_have_ordinary_permissions(tmp_path: Path) -> None:
    """Files are readable as the umask says, not by their owner alone."""
    sae = sae_fast.load(tiny.sae(tmp_path / "sae"))
    old = os.umask(0o022)
    try:
        sae.save(tmp_path / "out")
    finally:
        os.umask(old)

    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {0o644}


def test_batchtopk_is_saved_as_saelens_saves_it(tmp_path: Path) -> None:
    """cfg.json says jumprelu, with the training architecture and k in the metadata."""
    sae = sae_fast.load(tiny.sae(tmp_path / "sae", architecture="jumprelu"))
    cfg = sae_fast.SAEConfig(architecture="batchtopk", d_in=32, d_sae=64, k=7)
    sae_fast.SAE(cfg, **sae.tensors()).save(tmp_path / "out")

    saved = json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert saved["architecture"] == "jumprelu"
    assert saved["metadata"]["training_architecture"] == "batchtopk"
    assert saved["metadata"]["sae_lens_version"] == "6.0.0"
    assert sae_fast.load(tmp_path / "out").cfg.k == 7


def test_info_reads_headers_only(tmp_path: Path) -> None:
    """Info gives configuration, dtype and sizes, also where the weights are not finite."""
    folder = tiny.sae(tmp_path / "sae", architecture="topk")
    edit_tensors(folder, b_enc=torch.full((64,), float("nan")))

    found = info(folder / "cfg.json")

    assert (found.format, found.path, found.dtype) == ("saelens", (folder / "cfg.json").as_posix(), torch.float32)
    assert found.cfg.k == 4
    assert found.n_parameters == 2 * 32 * 64 + 64 + 32
    assert found.memory_bytes == 4 * found.n_parameters


def test_names_can_be_replaced_at_load(tmp_path: Path) -> None:
    """hook_name and model_name given to load win over the files."""
    folder = tiny.sae(tmp_path / "sae")

    cfg = sae_fast.load(folder, hook_name="blocks.2.hook_mlp_out", model_name="other").cfg

    assert (cfg.hook_name, cfg.model_name) == ("blocks.2.hook_mlp_out", "other")


def test_folding_at_load_happens_before_rounding(tmp_path: Path) -> None:
    """With a wider dtype asked for, decoder norms are divided out in that dtype."""
    folder = tmp_path / "sae"
    sae_fast.load(tiny.sae(tmp_path / "wide", architecture="standard"), dtype="bfloat16").save(folder)

    sae = sae_fast.load(folder, dtype="float64", fold_decoder_norm=True)

    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64, dtype=torch.float64), rtol=1e-12, atol=0)
    with pytest.raises(ArgumentError, match="dtype: expected float32"):
        sae_fast.load(folder, dtype="int8")


def test_old_layout(tmp_path: Path) -> None:
    """A cfg.json from before SAELens 6 has everything at the top level, other names, and the settings of the training run."""
    folder = tiny.sae(tmp_path / "sae", architecture="standard")
    old = {
        "hook_point": "blocks.3.attn.hook_z", "hook_point_layer": 3, "hook_point_head_index": None, "model_name": "gpt2-small",
        "context_size": 128, "d_in": 32, "d_sae": 64, "dtype": "torch.float32", "device": "mps", "lr": 4e-4, "seed": 42,
        "normalize_activations": False, "l1_coefficient": 8e-5, "wandb_project": "sae", "use_ghost_grads": True,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(old))
    edit_tensors(folder, scaling_factor=torch.ones(64))

    cfg = sae_fast.load(folder).cfg

    assert (cfg.architecture, cfg.hook_name, cfg.model_name) == ("standard", "blocks.3.attn.hook_z", "gpt2-small")
    assert (cfg.prepend_bos, cfg.apply_b_dec_to_input, cfg.reshape_activations) == (True, True, "hook_z")
    edit_tensors(folder, scaling_factor=torch.full((64,), 1.5))
    with pytest.raises(FormatError, match="scaling_factor: expected all ones"):
        sae_fast.load(folder)


def test_old_topk_is_an_activation_function(tmp_path: Path) -> None:
    """Before SAELens 6, topk was written as an activation function with k among its arguments; tanh-relu is refused."""
    folder = tiny.sae(tmp_path / "sae", architecture="standard")
    edit(folder, metadata=None, activation_fn_str="topk", activation_fn_kwargs={"k": 9}, architecture=None)

    assert (sae_fast.load(folder).cfg.architecture, sae_fast.load(folder).cfg.k) == ("topk", 9)
    with pytest.raises(FormatError, match="activation_fn: expected one of relu, topk, got 'tanh-relu'"):
        sae_fast.load(edit(folder, activation_fn_str="tanh-relu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixie_dust": 1, "aether": 2}, r"cfg.json: unknown keys aether, pixie_dust"),
        ({"architecture": "onnx"}, r"cfg.json: architecture: expected one of standard.*got 'onnx'"),
        ({"d_in": 31}, r"cfg.json: d_in: expected 32, as in the weights, got 31"),
        ({"normalize_activations": "unit_ball"}, r"cfg.json: normalize_activations: expected one of none"),
        ({"k": None}, r"cfg.json: k is missing"),
        ({"k": 65}, r"cfg.json: .*k: expected an integer from 1 to d_sae = 64, got 65"),
        ({"k": "4"}, r"cfg.json: k: expected a number, got '4'"),
        ({"apply_b_dec_to_input": "yes"}, r"cfg.json: apply_b_dec_to_input: expected true or false, got 'yes'"),
        ({"metadata": [1]}, r"cfg.json: metadata: expected a mapping, got \[1\]"),
        ({"metadata": {"hook_name": 3}}, r"cfg.json: metadata: hook_name: expected a text, got 3"),
    ],
    ids=["unknown-keys", "architecture", "d_in", "normalisation", "no-k", "k", "k-text", "flag", "metadata", "hook"],
)
def test_a_wrong_configuration_names_file_and_key(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Whatever cfg.json says that is not understood is an error with file, key, expected and got."""
    folder = edit(tiny.sae(tmp_path / "sae"), **changes)

    with pytest.raises(FormatError, match=message):
        sae_fast.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"W_dec": torch.zeros(32, 64)}, r"W_dec: expected \[64, 32\], got \[32, 64\]"),
        ({"b_enc": None}, "no tensor b_enc"),
        ({"W_skip": torch.zeros(32, 32)}, "unknown tensors W_skip"),
        ({"W_enc": None}, "no tensor W_enc"),
        ({"W_enc": torch.zeros(32, 64, dtype=torch.int32)}, "dtype of W_enc: expected float64.*got int32"),
    ],
    ids=["shape", "missing", "unknown", "no-encoder", "dtype"],
)
def test_wrong_tensors_name_file_and_tensor(changes: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    """Missing, unknown and misshapen tensors are errors that name them."""
    folder = edit_tensors(tiny.sae(tmp_path / "sae"), **changes)

    with pytest.raises(FormatError, match=f"sae_weights.safetensors: .*{message}"):
        sae_fast.load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec"])
def test_weights_that_are_not_finite_are_refused(name: str, value: float, tmp_path: Path) -> None:
    """One NaN or infinity anywhere is an error that names the tensor."""
    folder = tiny.sae(tmp_path / "sae")
    tensor = load_file(folder / "sae_weights.safetensors")[name].clone()
    tensor.view(-1)[5] = value

    with pytest.raises(NonFiniteError, match=f"{name} holds NaN or infinite values"):
        sae_fast.load(edit_tensors(folder, **{name: tensor}))


def test_an_infinite_threshold_switches_a_feature_off(tmp_path: Path) -> None:
    """A threshold of infinity is allowed: that feature never fires."""
    folder = tiny.sae(tmp_path / "sae", architecture="jumprelu")
    threshold = load_file(folder / "sae_weights.safetensors")["threshold"]
    threshold[3] = float("inf")

    assert sae_fast.load(edit_tensors(folder, threshold=threshold)).encode(x())[..., 3].abs().sum() == 0


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    """Truncated weights and broken JSON name the file."""
    folder = tiny.sae(tmp_path / "sae")
    weights = folder / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(FormatError, match="not a safetensors file"):
        sae_fast.load(folder)
    weights.write_bytes(whole)
    (folder / "cfg.json").write_text("{")
    with pytest.raises(FormatError, match=r"cfg.json: not valid JSON"):
        sae_fast.load(folder)
    (folder / "cfg.json").write_text("[]")
    with pytest.raises(FormatError, match=r"cfg.json: expected a JSON object, got list"):
        sae_fast.load(folder)


def test_a_failed_save_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If writing fails half way, the old SAE is still whole and nothing else is left."""
    sae = sae_fast.load(tiny.sae(tmp_path / "sae"))
    other = sae_fast.load(tiny.sae(tmp_path / "other", seed=5))
    sae.save(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space left"):
        other.save(tmp_path / "out")

    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_metadata_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    """Nothing is written for metadata that could not be read again."""
    sae = sae_fast.load(tiny.sae(tmp_path / "sae"))
    cfg = sae_fast.SAEConfig(architecture="topk", d_in=32, d_sae=64, k=4, metadata={"when": object()})

    with pytest.raises(ArgumentError, match="metadata cannot be written as JSON"):
        sae_fast.SAE(cfg, **sae.tensors()).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_catalogue_knows_better(tmp_path: Path) -> None:
    """Its overrides of normalisation and of the model's loading hold, as in SAELens; names fill in what files leave open."""
    folder = tiny.sae(tmp_path / "sae")
    told = {
        "normalize_activations": "constant_norm_rescale",
        "model_from_pretrained_kwargs": {"center_writing_weights": True},
        "model_name": "another",
        "layer": 1,
    }

    description = saelens.describe(open_source(folder), Given(metadata=told))

    assert description is not None
    cfg = description.cfg
    assert (cfg.normalize_activations, cfg.centred, cfg.model_name) == ("constant_norm_rescale", True, "tiny")
    assert cfg.metadata["model_from_pretrained_kwargs"] == {"center_writing_weights": True}


def test_the_head_of_an_sae_of_one_head_is_kept(tmp_path: Path) -> None:
    """It encodes that head's activation; which one it is stays in the metadata."""
    folder = edit(tiny.sae(tmp_path / "sae"), metadata={"hook_name": "blocks.0.attn.hook_q", "hook_head_index": 3})

    assert sae_fast.load(folder).cfg.metadata == {"hook_head_index": 3}
