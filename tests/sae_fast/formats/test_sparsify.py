from pathlib import Path
from typing import Any

import published
import pytest
import torch
from torch import Tensor

import sae_fast
from sae_fast.errors import FormatError
from sae_fast.formats import info


def pre_acts(x: Tensor, w: published.Tensors, centred: bool) -> Tensor:
    return (x.double() - (w["b_dec"] if centred else 0)) @ w["encoder.weight"].T + w["encoder.bias"]


def group_max(h: Tensor, k: int) -> Tensor:
    values, places = h.relu().unflatten(-1, (k, -1)).max(dim=-1)
    places = places + torch.arange(0, h.shape[-1], h.shape[-1] // k)
    return torch.zeros_like(h).scatter(-1, places, values)


@pytest.mark.parametrize("num_latents", [0, published.D_SAE])
def test_top_k_of_the_centred_input(num_latents: int, tmp_path: Path) -> None:
    """b_dec is subtracted, W_dec is [d_sae, d_in] as stored, and num_latents 0 means d_in times the expansion factor."""
    sample = published.sparsify(num_latents=num_latents)
    w, x = published.doubles(sample.files["sae.safetensors"]), published.inputs()
    acts = published.largest(pre_acts(x, w, centred=True), published.K)

    sae = sae_fast.load(sample.write(tmp_path))

    published.assert_computes(sae, x, acts, acts @ w["W_dec"] + w["b_dec"])
    assert (sae.cfg.hook_name, sae.cfg.model_name) == ("blocks.3.hook_resid_post", "EleutherAI/pythia-70m")
    assert sae.cfg.context_size == 2048


def test_group_max(tmp_path: Path) -> None:
    """The largest of each of k groups of neighbours."""
    sample = published.sparsify(activation="groupmax", k=6)
    w, x = published.doubles(sample.files["sae.safetensors"]), published.inputs()
    acts = group_max(pre_acts(x, w, centred=True), 6)

    published.assert_computes(sae_fast.load(sample.write(tmp_path)), x, acts, acts @ w["W_dec"] + w["b_dec"])


def test_signed_takes_the_largest_in_magnitude(tmp_path: Path) -> None:
    """Old files may be signed: no relu, ranked by magnitude."""
    sample = published.sparsify(signed=True)
    w, x = published.doubles(sample.files["sae.safetensors"]), published.inputs()
    h = pre_acts(x, w, centred=True)
    places = h.abs().topk(published.K, dim=-1).indices
    acts = torch.zeros_like(h).scatter(-1, places, h.gather(-1, places))

    published.assert_computes(sae_fast.load(sample.write(tmp_path)), x, acts, acts @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize(
    "config", [{"transcode": True}, {"transcode": True, "skip_connection": True}, {"skip_connection": True}]
)
def test_transcoders(config: dict[str, Any], tmp_path: Path) -> None:
    """With `transcode` nothing is subtracted; a skip from before that flag still subtracts b_dec; the skip reads raw x."""
    sample = published.sparsify("skip-transcoder-Llama-3.2-1B-131k/layers.5.mlp", **config)
    if "transcode" not in config:
        del sample.files["cfg.json"]["transcode"]
    w, x = published.doubles(sample.files["sae.safetensors"]), published.inputs()
    acts = published.largest(pre_acts(x, w, centred="transcode" not in config), published.K)
    out = acts @ w["W_dec"] + w["b_dec"]

    sae = sae_fast.load(sample.write(tmp_path))

    published.assert_computes(sae, x, acts, out + x.double() @ w["W_skip"].T if "W_skip" in w else out)
    assert sae.cfg.transcoder
    assert (sae.cfg.hook_name, sae.cfg.hook_name_out) == ("blocks.5.mlp.hook_in", "blocks.5.hook_mlp_out")


@pytest.mark.parametrize(
    ("folder", "hook_name"),
    [
        ("run/layers.10", "blocks.10.hook_resid_post"),
        ("run/h.3.attn", "blocks.3.hook_attn_out"),
        ("run/layers.0.attention", "blocks.0.hook_attn_out"),
        ("run/layers.4.mlp/seed1", "blocks.4.hook_mlp_out"),
        ("run/layers.4.mlp.down_proj", None),
        ("run/embed_tokens", "hook_embed"),
        ("run/somewhere", None),
    ],
)
def test_the_folder_is_named_after_the_module(folder: str, hook_name: str | None, tmp_path: Path) -> None:
    """Sparsify writes no hook; a module that has no TransformerLens name stays in the metadata."""
    cfg = info(published.sparsify(folder).write(tmp_path)).cfg

    assert cfg.hook_name == hook_name
    assert cfg.metadata["hookpoint"] in folder
    assert cfg.model_name == "EleutherAI/pythia-70m"


@pytest.mark.parametrize("content", ["{", '{"model": "other"}', "[1]"])
def test_what_lies_above_may_have_nothing_to_do_with_it(content: str, tmp_path: Path) -> None:
    """A config.json in the folder above that is not of a training run is left alone."""
    sample = published.sparsify()
    path = sample.write(tmp_path)
    (path.parent / "config.json").write_text(content, encoding="utf-8")

    assert info(path).cfg.model_name is None


def test_modules_of_gemma_stay_module_paths(tmp_path: Path) -> None:
    """In Gemma 2 and 3 a norm follows the MLP, and hook_mlp_out lies beyond it."""
    sample = published.sparsify("run/layers.5.mlp")
    sample.around["run/config.json"]["model"] = "google/gemma-2-2b"

    assert info(sample.write(tmp_path)).cfg.hook_name == "model.layers.5.mlp.output"


def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """K beyond the features, groups that do not divide them, a missing k, a text for a number."""
    for n, (config, message) in enumerate(
        [
            ({"k": 25}, "k: expected an integer from 1 to d_sae = 24, got 25"),
            ({"activation": "groupmax", "k": 7}, "a number of groups that divides d_sae = 24"),
            ({"k": None}, "cfg.json: k is missing"),
            ({"d_in": "eight"}, "cfg.json: d_in: expected a number, got 'eight'"),
            ({"activation": "softmax"}, "activation: expected one of topk, groupmax"),
        ]
    ):
        with pytest.raises(FormatError, match=message):
            info(published.sparsify(**config).write(tmp_path / str(n)))
