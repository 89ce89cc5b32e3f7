import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import sae_fast
from sae_fast.errors import ArgumentError, FormatError, NonFiniteError
from sae_fast.formats import info


def arrays(d_in: int = 6, d_sae: int = 10) -> dict[str, np.ndarray]:
    """Small integers, so that the formula is exact."""
    generator = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return generator.integers(-2, 3, shape).astype(np.float32)

    return {
        "W_enc": draw(d_in, d_sae), "W_dec": draw(d_sae, d_in), "b_enc": draw(d_sae), "b_dec": draw(d_in),
        "threshold": np.abs(draw(d_sae)),
    }  # fmt: skip


def write(folder: Path, **changes: np.ndarray | None) -> Path:
    """A folder with params.npz; None leaves an array out."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {name: array for name, array in (arrays() | changes).items() if array is not None}
    np.savez(folder / "params.npz", **content)  # type: ignore[arg-type]
    return folder


def test_the_published_formula(tmp_path: Path) -> None:
    """A = relu(h) where h = x @ W_enc + b_enc > threshold; x_hat = a @ W_dec + b_dec; nothing is subtracted from x."""
    params = {name: torch.from_numpy(array) for name, array in arrays().items()}
    x = torch.arange(24.0).reshape(4, 6) - 12
    h = x @ params["W_enc"] + params["b_enc"]
    acts = h.relu() * (h > params["threshold"])

    sae = sae_fast.load(write(tmp_path))

    assert torch.equal(sae.encode(x).to_dense(), acts)
    assert torch.equal(sae(x), acts @ params["W_dec"] + params["b_dec"])


def test_lower_case_names_compressed_files_and_the_file_itself(tmp_path: Path) -> None:
    """w_enc and w_dec, np.savez_compressed, and the path of the file work too."""
    content = arrays()
    content["w_enc"], content["w_dec"] = content.pop("W_enc"), content.pop("W_dec")
    np.savez_compressed(tmp_path / "weights.npz", **content)  # type: ignore[arg-type]

    sae = sae_fast.load(tmp_path / "weights.npz")

    assert torch.equal(sae.W_enc, torch.from_numpy(arrays()["W_enc"]))
    assert info(tmp_path / "weights.npz").format == "gemma_scope"


@pytest.mark.parametrize(
    ("path", "hook_name", "model_name"),
    [
        ("layer_20/width_16k/average_l0_71", "blocks.20.hook_resid_post", None),
        ("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "blocks.20.hook_resid_post", "google/gemma-2-2b"),
        ("gemma-scope-9b-it-res/layer_9/width_16k/average_l0_88", "blocks.9.hook_resid_post", "google/gemma-2-9b-it"),
        ("gemma-scope-2b-pt-mlp/layer_3/width_65k/average_l0_9", "blocks.3.hook_mlp_out", "google/gemma-2-2b"),
        ("gemma-scope-27b-pt-att/layer_0/width_16k/canonical", "blocks.0.attn.hook_z", "google/gemma-2-27b"),
        ("mlp/layer_5", "blocks.5.hook_mlp_out", None),
        ("somewhere", None, None),
    ],
)
def test_hook_and_model_are_in_the_path(path: str, hook_name: str | None, model_name: str | None, tmp_path: Path) -> None:
    """Layer, site and model come from the folders' names; what they do not say stays open."""
    cfg = info(write(tmp_path / path)).cfg

    assert (cfg.hook_name, cfg.model_name) == (hook_name, model_name)
    assert (cfg.architecture, cfg.prepend_bos, cfg.context_size) == ("jumprelu", True, 1024)
    assert cfg.reshape_activations == ("hook_z" if "att" in path else "none")
    assert ("hook_name_assumed" in cfg.metadata) == (path.startswith("layer_"))


def test_the_hook_can_be_given(tmp_path: Path) -> None:
    """A hook given to load replaces the guess."""
    folder = write(tmp_path / "layer_2")

    assert sae_fast.load(folder, hook_name="blocks.2.hook_mlp_out").cfg.hook_name == "blocks.2.hook_mlp_out"


def test_transcoders_read_before_the_mlp_and_write_after_it(tmp_path: Path) -> None:
    """The path tells a transcoder, which reads the normalised activation before the norm's weight."""
    cfg = info(write(tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_1" / "width_16k" / "average_l0_41")).cfg

    assert cfg.transcoder
    assert (cfg.hook_name, cfg.hook_name_out) == ("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out")


def test_embedding_saes_read_the_embedding_before_it_is_scaled(tmp_path: Path) -> None:
    """hook_embed is √d times what they were trained on: input and reconstruction, bias included, are rescaled."""
    params = {name: torch.from_numpy(array).double() for name, array in arrays(d_in=4).items()}
    x = (torch.arange(24.0) - 12).reshape(6, 4)
    h = x.double() / 2 @ params["W_enc"] + params["b_enc"]
    acts = h.relu() * (h > params["threshold"])
    folder = write(tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k", **arrays(d_in=4))

    sae = sae_fast.load(folder)

    assert sae.cfg.hook_name == "hook_embed"
    assert torch.equal(sae.encode(x).to_dense().double(), acts)
    torch.testing.assert_close(sae(x).double(), (acts @ params["W_dec"] + params["b_dec"]) * 2)


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "batchtopk"])
def test_save_and_load_compute_the_same(architecture: str, tmp_path: Path) -> None:
    """What the format can hold comes back, with a subtracted b_dec folded into b_enc."""
    sae = sae_fast.load(tiny.sae(tmp_path / "sae", architecture=architecture))
    x = torch.randn(9, 32, generator=torch.Generator().manual_seed(0))

    sae.save(tmp_path / "out", "gemma_scope")
    again = sae_fast.load(tmp_path / "out")

    assert torch.equal(again.encode(x).to_dense(), sae.encode(x).to_dense())
    assert torch.equal(again(x), sae(x))


def test_bfloat16_is_widened(tmp_path: Path) -> None:
    """Numpy has no bfloat16: such weights are written exactly, as float32."""
    sae = sae_fast.load(tiny.sae(tmp_path / "sae", architecture="jumprelu"), dtype="bfloat16")

    sae.save(tmp_path / "out", "gemma_scope")

    assert torch.equal(sae_fast.load(tmp_path / "out").W_enc, sae.W_enc.float())


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """The archive holds no time of day."""
    sae = sae_fast.load(write(tmp_path / "source"))

    sae.save(tmp_path / "a", "gemma_scope")
    sae.save(tmp_path / "b", "gemma_scope")

    assert (tmp_path / "a" / "params.npz").read_bytes() == (tmp_path / "b" / "params.npz").read_bytes()
    assert b"\x00\x00\x21\x00" in (tmp_path / "a" / "params.npz").read_bytes(), "the zip epoch, 1980-01-01"


@pytest.mark.parametrize("architecture", ["topk", "gated"])
def test_what_the_format_cannot_hold_is_refused(architecture: str, tmp_path: Path) -> None:
    """Architectures without one threshold per feature, and input normalisation, cannot be written."""
    sae = sae_fast.load(tiny.sae(tmp_path / "sae", architecture=architecture))
    with pytest.raises(ArgumentError, match="architecture: expected standard, jumprelu or batchtopk for Gemma Scope"):
        sae.save(tmp_path / "out", "gemma_scope")
    normalising = sae_fast.load(tiny.sae(tmp_path / "other", architecture="standard", normalize_activations="layer_norm"))
    with pytest.raises(ArgumentError, match="no input normalisation"):
        normalising.save(tmp_path / "out", "gemma_scope")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": None}, "no tensor threshold"),
        ({"affine_skip_connection": np.zeros((6, 6))}, "unknown tensors affine_skip_connection"),
        ({"W_dec": np.zeros((6, 10), np.float32)}, r"W_dec: expected \[10, 6\], got \[6, 10\]"),
        ({"W_enc": None}, r"W_enc: expected an array \[d_in, d_sae\], got none"),
        ({"b_dec": np.zeros(6, np.int64)}, "dtype of b_dec: expected float64, float32, float16 or bfloat16, got int64"),
    ],
    ids=["missing", "unknown", "shape", "no-encoder", "dtype"],
)
def test_wrong_arrays_name_the_file(changes: dict[str, np.ndarray | None], message: str, tmp_path: Path) -> None:
    """Headers are checked before the arrays are read."""
    with pytest.raises(FormatError, match=f"params.npz: .*{message}"):
        info(write(tmp_path, **changes))


def test_nan_and_damage_are_refused(tmp_path: Path) -> None:
    """NaN weights name the array; a file that is no archive says so; pickled objects are not loaded."""
    broken = arrays()["b_enc"]
    broken[0] = np.nan
    with pytest.raises(NonFiniteError, match=r"params.npz: b_enc holds NaN"):
        sae_fast.load(write(tmp_path / "nan", b_enc=broken))
    (tmp_path / "params.npz").write_bytes(b"PK nothing")
    with pytest.raises(FormatError, match="not an npz file"):
        sae_fast.load(tmp_path)
    with pytest.raises(FormatError, match=r"not an npz file .*b_enc"):
        sae_fast.load(write(tmp_path / "pickle", b_enc=np.array([{"a": 1}] * 10, dtype=object)))


def test_the_saved_configuration_survives_in_saelens_format(tmp_path: Path) -> None:
    """Converting to a SAELens folder keeps hook, model and architecture."""
    sae = sae_fast.load(write(tmp_path / "gemma-scope-2b-pt-res" / "layer_7"))

    sae.save(tmp_path / "out")

    assert sae_fast.load(tmp_path / "out").cfg.hook_name == "blocks.7.hook_resid_post"
    assert json.loads((tmp_path / "out" / "cfg.json").read_text())["architecture"] == "jumprelu"
