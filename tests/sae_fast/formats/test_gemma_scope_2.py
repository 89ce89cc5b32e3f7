from pathlib import Path
from typing import Any

import published
import pytest
import torch

import sae_fast
from sae_fast.errors import FormatError
from sae_fast.formats import info
from sae_fast.formats._description import Given
from sae_fast.formats.gemma_scope_2 import describe
from sae_fast.sources import open_source

CONFIG = {
    "width": 16384,
    "model_name": "google/gemma-3-4b-pt",
    "architecture": "jump_relu",
    "l0": 150,
    "affine_connection": False,
}
MLP_IN, MLP_OUT = "model.layers.17.pre_feedforward_layernorm.output", "model.layers.17.post_feedforward_layernorm.output"


def acts_of(x: torch.Tensor, params: published.Tensors) -> torch.Tensor:
    h = x.double() @ params["w_enc"] + params["b_enc"]
    return h.relu() * (h > params["threshold"])


@pytest.mark.parametrize("skip", [False, True])
def test_the_published_formula(skip: bool, tmp_path: Path) -> None:
    """relu(h) where h = x w_enc + b_enc > threshold, decoded, and x times the skip as it is stored, [d_in, d_out]."""
    sample = published.gemma_scope_2("transcoder", skip)
    params, x = published.doubles(sample.files["params.safetensors"]), published.inputs()
    acts = acts_of(x, params)
    out = acts @ params["w_dec"] + params["b_dec"]

    sae = sae_fast.load(sample.write(tmp_path))

    published.assert_computes(sae, x, acts, out + x.double() @ params["affine_skip_connection"] if skip else out)
    assert sae.cfg.skip == skip


@pytest.mark.parametrize(
    ("kind", "hook_name", "hook_name_out"),
    [
        ("resid_post", "blocks.7.hook_resid_post", None),
        ("resid_post_all", "blocks.7.hook_resid_post", None),
        ("attn_out", "blocks.7.attn.hook_z", None),
        ("mlp_out_all", "blocks.7.hook_mlp_out", None),
        ("transcoder_all", "blocks.7.mlp.hook_in", "blocks.7.hook_mlp_out"),
    ],
)
def test_the_folder_says_where_it_belongs(kind: str, hook_name: str, hook_name_out: str | None, tmp_path: Path) -> None:
    """Without config.json, site and layer are in the folder's name."""
    cfg = info(published.gemma_scope_2(kind).write(tmp_path)).cfg

    assert (cfg.hook_name, cfg.hook_name_out, cfg.transcoder) == (hook_name, hook_name_out, hook_name_out is not None)
    assert cfg.model_name == "google/gemma-3-1b-pt"
    assert cfg.reshape_activations == ("hook_z" if kind == "attn_out" else "none")


@pytest.mark.parametrize(
    ("config", "hook_name", "hook_name_out"),
    [
        ({"type": "sae", "hf_hook_point_in": "model.layers.17.output"}, "blocks.17.hook_resid_post", None),
        ({"type": "sae", "hf_hook_point_in": "model.layers.17.self_attn.o_proj.input"}, "blocks.17.attn.hook_z", None),
        ({"hf_hook_point_in": MLP_OUT, "hf_hook_point_out": MLP_OUT}, "blocks.17.hook_mlp_out", None),
        ({"hf_hook_point_in": MLP_IN, "hf_hook_point_out": MLP_OUT}, "blocks.17.mlp.hook_in", "blocks.17.hook_mlp_out"),
        ({"type": "sae", "hf_hook_point_in": "vision.layers.3.output"}, "vision.layers.3.output", None),
    ],
)
def test_config_json_says_where_it_belongs(
    config: dict[str, Any], hook_name: str, hook_name_out: str | None, tmp_path: Path
) -> None:
    """config.json outranks the folder's name; a place without a TransformerLens name stays a module path."""
    cfg = info(published.gemma_scope_2(config=CONFIG | config).write(tmp_path)).cfg

    assert (cfg.hook_name, cfg.hook_name_out) == (hook_name, hook_name_out)
    assert (cfg.model_name, cfg.metadata["l0"]) == ("google/gemma-3-4b-pt", 150)


@pytest.mark.parametrize("skip", [False, True])
def test_the_layers_of_a_cross_layer_transcoder_add_up(skip: bool, tmp_path: Path) -> None:
    """Summed over layers, outputs are the publisher's: each output sums all layers' decoders, its own bias and skip once."""
    n_layers = 4
    sample = published.gemma_scope_2_clt(n_layers, skip=skip)
    sample.write(tmp_path)
    x = published.draw(98, x=(16, n_layers, published.D_IN))["x"]
    layers = [published.doubles(sample.files[f"params_layer_{n}.safetensors"]) for n in range(n_layers)]
    expected = torch.stack([layer["b_dec"] for layer in layers]).expand(16, n_layers, -1).clone()
    for n, layer in enumerate(layers):
        expected += torch.einsum("ns,sld->nld", acts_of(x[:, n], layer), layer["w_dec"])
        if skip:
            expected[:, n] += x[:, n].double() @ layer["affine_skip_connection"]

    total = torch.zeros_like(expected)
    for n in range(n_layers):
        sae = sae_fast.load(tmp_path / sample.folder / f"params_layer_{n}.safetensors")
        assert sae.cfg.hook_name == f"blocks.{n}.mlp.hook_in"
        assert sae.cfg.hook_names_out == tuple(f"blocks.{later}.hook_mlp_out" for later in range(n, n_layers))
        assert torch.equal(sae.encode(x[:, n]).to_dense().double(), acts_of(x[:, n], layers[n]))
        total[:, n:] += sae(x[:, n]).double()

    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("with_config", [False, True])
def test_a_crosscoder_writes_at_all_its_layers(with_config: bool, tmp_path: Path) -> None:
    """File i of a crosscoder reads the i-th of its layers and writes at all; its bias is that of its own."""
    folder = tmp_path / ("anything" if with_config else "crosscoder/layer_5_9_12_15_width_1m_l0_big")
    tensors = published.gemma_scope_2_tensors(n_layers=4)
    published.write(folder / "params_layer_2.safetensors", tensors)
    if with_config:
        point = "model.layers.{5,9,12,15}.output"
        published.write(
            folder / "config.json", CONFIG | {"type": "crosscoder", "hf_hook_point_in": point, "hf_hook_point_out": point}
        )
    params, x = published.doubles(tensors), published.inputs()
    out = torch.einsum("ns,sld->nld", acts_of(x, params), params["w_dec"])
    out[:, 2] += params["b_dec"]

    sae = sae_fast.load(folder)

    published.assert_computes(sae, x, acts_of(x, params), out)
    assert sae.cfg.hook_name == "blocks.12.hook_resid_post"
    assert sae.cfg.hook_names_out == tuple(f"blocks.{layer}.hook_resid_post" for layer in (5, 9, 12, 15))


def test_a_folder_of_layers_asks_for_one(tmp_path: Path) -> None:
    """Several layers are listed, and the message says how to name one."""
    sample = published.gemma_scope_2_clt()
    sample.write(tmp_path)
    with pytest.raises(
        FormatError, match=r"several layers .* got params_layer_0.safetensors, .*Name one of them: .*params_layer_0"
    ):
        sae_fast.load(tmp_path / sample.folder)


def test_what_is_not_told_is_not_guessed(tmp_path: Path) -> None:
    """Decoders for several layers without a word of what they are, an unknown architecture, and other tensors are refused."""
    published.write(tmp_path / "a" / "params_layer_1.safetensors", published.gemma_scope_2_tensors(n_layers=4))
    with pytest.raises(FormatError, match="w_dec has layers, and nothing says what writes at them"):
        sae_fast.load(tmp_path / "a")
    with pytest.raises(FormatError, match="architecture: expected jump_relu, got topk"):
        info(published.gemma_scope_2(config=CONFIG | {"architecture": "topk"}).write(tmp_path / "b"))
    published.write(tmp_path / "c" / "params.safetensors", {"weight": torch.ones(3)})
    with pytest.raises(FormatError, match=r"params.safetensors: tensors: expected b_dec, .*, got weight"):
        sae_fast.load(tmp_path / "c")


def test_the_catalogue_fills_gaps_only(tmp_path: Path) -> None:
    """What the folder says of a hook outranks a catalogue; what it does not say comes from there."""
    known = {"hook_name": "blocks.7.hook_mlp_in", "model_name": "gemma", "layer": 7}
    told = describe(open_source(published.gemma_scope_2("transcoder").write(tmp_path)), Given(metadata=known))
    published.write(tmp_path / "other" / "params.safetensors", published.gemma_scope_2_tensors())
    untold = describe(open_source(tmp_path / "other"), Given(metadata=known))

    assert told is not None
    assert untold is not None
    assert (told.cfg.hook_name, told.cfg.model_name) == ("blocks.7.mlp.hook_in", "google/gemma-3-1b-pt")
    assert (untold.cfg.hook_name, untold.cfg.model_name) == ("blocks.7.hook_mlp_in", "gemma")
