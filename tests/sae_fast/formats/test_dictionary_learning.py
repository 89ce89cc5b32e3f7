from collections.abc import Callable
from pathlib import Path

import published
import pytest
import torch
from torch import Tensor

import sae_fast
from sae_fast.errors import FormatError
from sae_fast.formats import info

State = dict[str, Tensor]


def _auto_encoder(x: Tensor, w: State) -> tuple[Tensor, Tensor]:
    acts = ((x - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    return acts, acts @ w["decoder.weight"].T + w["bias"]


def _auto_encoder_new(x: Tensor, w: State) -> tuple[Tensor, Tensor]:
    acts = (x @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    return acts, acts @ w["decoder.weight"].T + w["decoder.bias"]


def _gated(x: Tensor, w: State) -> tuple[Tensor, Tensor]:
    h = (x - w["decoder_bias"]) @ w["encoder.weight"].T
    acts = (h + w["gate_bias"] > 0) * (w["r_mag"].exp() * h + w["mag_bias"]).relu()
    return acts, acts @ w["decoder.weight"].T + w["decoder_bias"]


def _jump_relu(x: Tensor, w: State) -> tuple[Tensor, Tensor]:
    h = x @ w["W_enc"] + w["b_enc"]
    acts = (h * (h > w["threshold"])).relu()
    return acts, acts @ w["W_dec"] + w["b_dec"]


def _topk(x: Tensor, w: State) -> tuple[Tensor, Tensor]:
    acts = published.largest((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"], published.K)
    return acts, acts @ w["decoder.weight"].T + w["b_dec"]


def _batch_topk(x: Tensor, w: State) -> tuple[Tensor, Tensor]:
    positive = ((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    acts = positive * (positive > w["threshold"])
    return acts, acts @ w["decoder.weight"].T + w["b_dec"]


def _matryoshka(x: Tensor, w: State) -> tuple[Tensor, Tensor]:
    positive = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    acts = positive * (positive > w["threshold"])
    return acts, acts @ w["W_dec"] + w["b_dec"]


FORMULAS: dict[str, Callable[[Tensor, State], tuple[Tensor, Tensor]]] = {
    "AutoEncoder": _auto_encoder,
    "AutoEncoderNew": _auto_encoder_new,
    "GatedAutoEncoder": _gated,
    "JumpReluAutoEncoder": _jump_relu,
    "AutoEncoderTopK": _topk,
    "BatchTopKSAE": _batch_topk,
    "MatryoshkaBatchTopKSAE": _matryoshka,
}


@pytest.mark.parametrize("dict_class", FORMULAS)
def test_every_class_computes_what_it_computes_there(dict_class: str, tmp_path: Path) -> None:
    """Activations and reconstructions are those of dictionary_learning's class, as published."""
    sample = published.dictionary_learning(dict_class)
    x = published.inputs()
    acts, out = FORMULAS[dict_class](x.double(), published.doubles(sample.files["ae.pt"]))

    sae = sae_fast.load(sample.write(tmp_path))

    published.assert_computes(sae, x, acts, out, exact=dict_class != "GatedAutoEncoder")
    assert sae.cfg.hook_name == "blocks.3.hook_resid_post"
    assert sae.cfg.model_name == "EleutherAI/pythia-70m-deduped"
    assert sae.cfg.context_size == 128
    assert sae.cfg.k == (published.K if "TopK" in dict_class else None)
    assert sae.cfg.group_sizes == ((4, 8, 12) if dict_class.startswith("Matryoshka") else None)


def test_an_unset_threshold_is_a_relu(tmp_path: Path) -> None:
    """BatchTopKSAE before its threshold was set, at -1, keeps what is positive, as the publisher's code does."""
    sample = published.dictionary_learning("BatchTopKSAE")
    sample.files["ae.pt"]["threshold"] = torch.tensor(-1.0)
    x = published.inputs()
    acts, out = _batch_topk(x.double(), published.doubles(sample.files["ae.pt"]))

    published.assert_computes(sae_fast.load(sample.write(tmp_path)), x, acts, out)


@pytest.mark.parametrize("dict_class", [name for name in FORMULAS if name not in ("AutoEncoderTopK", "BatchTopKSAE")])
def test_the_class_is_told_by_its_tensors(dict_class: str, tmp_path: Path) -> None:
    """Without config.json, and named by the file."""
    sample = published.dictionary_learning(dict_class)
    config = sample.files.pop("config.json")
    path = sample.write(tmp_path) / "ae.pt"

    sae = sae_fast.load(path)

    assert sae.cfg.metadata["dict_class"] == config["trainer"]["dict_class"] == dict_class
    assert sae.cfg.hook_name is None


def test_classes_with_the_same_tensors_are_not_guessed(tmp_path: Path) -> None:
    """AutoEncoderTopK and BatchTopKSAE need the configuration."""
    sample = published.dictionary_learning("BatchTopKSAE")
    del sample.files["config.json"]
    with pytest.raises(FormatError, match=r"AutoEncoderTopK and BatchTopKSAE have the same tensors: expected config.json"):
        info(sample.write(tmp_path))


def test_checkpoints_lie_below_their_configuration(tmp_path: Path) -> None:
    """checkpoints/ae_<step>.pt is read with the config.json above it; of several, one must be named."""
    sample = published.dictionary_learning("AutoEncoderTopK")
    state = sample.files.pop("ae.pt")
    sample.files |= {f"checkpoints/ae_{step}.pt": state for step in (900, 1000)}
    folder = sample.write(tmp_path)

    assert info(folder / "checkpoints" / "ae_1000.pt").cfg.k == published.K
    with pytest.raises(FormatError, match=r"several checkpoints .*: expected one, got ae_900.pt, ae_1000.pt"):
        info(folder / "checkpoints")


@pytest.mark.parametrize(
    ("trainer", "io", "hook_name"),
    [
        ({"submodule_name": "resid_pre_layer_3"}, "out", "blocks.3.hook_resid_pre"),
        ({"submodule_name": "mlp_out_layer_12"}, "out", "blocks.12.hook_mlp_out"),
        ({"submodule_name": "attention_out_layer_5"}, "out", "blocks.5.hook_attn_out"),
        ({"submodule_name": "attn_out_layer1"}, "out", "blocks.1.hook_attn_out"),
        ({"submodule_name": "mlp_layer_2"}, "in", None),
        ({"submodule_name": "router_layer_2"}, "out", None),
        ({"submodule_name": None, "layer": 4}, "out", "blocks.4.hook_resid_post"),
    ],
)
def test_the_hook_is_that_of_the_submodule(trainer: dict, io: str, hook_name: str | None, tmp_path: Path) -> None:
    """SAELens takes every one for the residual stream; here submodule_name decides, and an unknown one is metadata."""
    sample = published.dictionary_learning("AutoEncoder", **trainer)
    sample.files["config.json"]["buffer"]["io"] = io

    cfg = info(sample.write(tmp_path)).cfg

    assert cfg.hook_name == hook_name
    assert ("submodule_name" in cfg.metadata) == (hook_name is None)
    assert ("hook_name_assumed" in cfg.metadata) == (trainer["submodule_name"] is None)


def test_sizes_must_agree(tmp_path: Path) -> None:
    """A configuration of another dictionary is refused."""
    with pytest.raises(FormatError, match=r"config.json: trainer: dict_size: expected 24, the size of the tensors, got 512"):
        info(published.dictionary_learning("AutoEncoder", dict_size=512).write(tmp_path))
    sample = published.dictionary_learning("AutoEncoder")
    sample.files["config.json"]["trainer"]["dict_class"] = "CrossCoder"
    with pytest.raises(FormatError, match=r"dict_class: expected one of AutoEncoder, .*got 'CrossCoder'"):
        info(sample.write(tmp_path / "other"))
