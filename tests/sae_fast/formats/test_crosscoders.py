"""Published crosscoders against the formulas of their publishers."""

from pathlib import Path
from typing import Any

import published
import pytest
import torch
from published import D_IN, D_SAE, N_MODELS, K, Sample
from torch import Tensor

import sae_fast
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.formats import info

NORMALISATIONS = ("CROSSCODER", "SAE", "MIXED", "NONE")


def of_learning(w: dict[str, Tensor], x: Tensor, normalisation: str | None) -> tuple[Tensor, Tensor]:
    """(activations, output [tokens, n, d]) of x [tokens, n, d]; no threshold for None."""
    f = (torch.einsum("bld,ldf->bf", x, w["encoder.weight"]) + w["encoder.bias"]).relu()
    if normalisation is not None:
        per_layer = w["decoder.weight"].norm(dim=2)
        whole, summed = per_layer.square().sum(0).sqrt(), per_layer.sum(0)
        ones = torch.ones_like(summed)
        norms = {"CROSSCODER": summed, "SAE": whole, "MIXED": whole + 0.1 * summed, "NONE": ones}
        f = f * (f * norms[normalisation] > w["threshold"])
    return f, torch.einsum("bf,lfd->bld", f, w["decoder.weight"]) + w["decoder.bias"]


def inputs() -> Tensor:
    return published.inputs(d_in=N_MODELS * D_IN)


@pytest.mark.parametrize("normalisation", [None, *NORMALISATIONS])
def test_science_of_finetunings(normalisation: str | None, tmp_path: Path) -> None:
    """A sum over models, and relu; BatchTopK compares it, times the norm that the configuration names, with one threshold."""
    config = {} if normalisation is None else {"code_normalization": normalisation}
    sample = published.crosscoder_learning(normalisation is not None, **config)
    if normalisation == "NONE":
        sample.files["model.safetensors"]["threshold"] = torch.tensor(5.0)
    w, x = published.doubles(sample.files["model.safetensors"]), inputs()
    acts, out = of_learning(w, x.double().unflatten(1, (N_MODELS, D_IN)), normalisation)

    sae = sae_fast.load(sample.write(tmp_path))

    published.assert_computes(sae, x, acts, out.flatten(1))
    assert (sae.cfg.hook_widths, sae.cfg.hook_names, sae.cfg.hook_name) == ((D_IN, D_IN), (), None)
    assert sae.cfg.k == (None if normalisation is None else K)
    assert sae.cfg.metadata["models"] == ["google/gemma-2-2b", "google/gemma-2-2b-it"]
    assert sae.cfg.metadata["hook_name"] == "blocks.13.hook_resid_post"


def test_the_normalisation_of_the_tensors_and_compiled_keys(tmp_path: Path) -> None:
    """Without a configuration the buffer says it; a compiled module's keys have a prefix; older ones had no buffer."""
    sample = published.crosscoder_learning()
    sample.files["model.safetensors"]["code_normalization_id"] = torch.tensor(2)
    del sample.files["config.json"]
    former, x = published.crosscoder_learning(former=True), inputs()
    w = published.doubles(sample.files["model.safetensors"])
    expected, summed = (of_learning(w, x.double().unflatten(1, (N_MODELS, D_IN)), kind)[0] for kind in ("SAE", "CROSSCODER"))

    assert torch.equal(sae_fast.load(sample.write(tmp_path / "a")).encode(x).to_dense().double(), expected)
    assert torch.equal(sae_fast.load(former.write(tmp_path / "b")).encode(x).to_dense().double(), summed)
    assert info(tmp_path / "b" / former.folder).format == "crosscoder_learning"


def test_connor_kissanes(tmp_path: Path) -> None:
    """Each model's activations are multiplied by its factor before, its reconstruction is divided by it."""
    sample = published.crosscoder_model_diff()
    w, x = published.doubles(sample.files["cc_weights.pt"]), inputs()
    factors = torch.tensor([0.2758961493232058, 0.24422852496546169], dtype=torch.float64)[:, None]
    scaled = x.double().unflatten(1, (N_MODELS, D_IN)) * factors
    acts = (torch.einsum("bld,ldf->bf", scaled, w["W_enc"]) + w["b_enc"]).relu()
    out = (torch.einsum("bf,fld->bld", acts, w["W_dec"]) + w["b_dec"]) / factors

    sae = sae_fast.load(sample.write(tmp_path))

    torch.testing.assert_close(sae.encode(x).to_dense().double(), acts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae.decode(sae.encode(x)).double(), out.flatten(1), rtol=1e-5, atol=1e-4)
    assert sae.cfg.metadata["models"] == ["google/gemma-2-2b", "google/gemma-2-2b-it"]
    assert (sae.cfg.metadata["hook_name"], sae.cfg.context_size) == ("blocks.14.hook_resid_pre", 1024)


def test_a_checkpoint_is_as_it_lies_unless_a_factor_is_given(tmp_path: Path) -> None:
    """What no file holds is not guessed."""
    sample = published.crosscoder_model_diff("someone/else", number=7)
    path = sample.write(tmp_path) / "7.pt"
    w, x = published.doubles(sample.files["7.pt"]), inputs()

    def expected(factor: float) -> Tensor:
        parts = x.double().unflatten(1, (N_MODELS, D_IN)) * factor
        return (torch.einsum("bld,ldf->bf", parts, w["W_enc"]) + w["b_enc"]).relu()

    assert torch.equal(sae_fast.load(path).encode(x).to_dense().double(), expected(1.0))
    assert torch.equal(sae_fast.load(path, norm_scaling_factor=0.5).encode(x).to_dense().double(), expected(0.5))


@pytest.mark.parametrize("sample", [published.crosscoder_learning(), published.crosscoder_model_diff()], ids=["a", "b"])
def test_parts_are_read_alone_and_saved_without_loss(sample: Sample, tmp_path: Path) -> None:
    """Some features, the encoder alone, and our own format."""
    path, x = sample.write(tmp_path), inputs()
    whole = sae_fast.load(path)
    whole.save(tmp_path / "ours", "sae_fast")

    some = sae_fast.load(path, features=[7, 2])

    torch.testing.assert_close(some.encode(x).to_dense(), whole.encode(x).features([7, 2]))
    assert torch.equal(some.W_dec, whole.W_dec[[7, 2]])
    assert torch.equal(sae_fast.load(path, encoder_only=True).encode(x).to_dense(), whole.encode(x).to_dense())
    again = sae_fast.load(tmp_path / "ours")
    assert again.cfg == whole.cfg
    assert torch.equal(again(x), whole(x))
    assert info(path).n_parameters == 2 * N_MODELS * D_IN * D_SAE + N_MODELS * D_IN + D_SAE * (
        1 + (whole.threshold is not None)
    )


def test_hooks_of_one_model_can_be_named(tmp_path: Path) -> None:
    """Trained on several layers instead of several models, it is a crosscoder of these."""
    path = published.crosscoder_learning().write(tmp_path)

    assert sae_fast.load(path, hook_names=["a.output", "b.output"]).cfg.hooks_read == ("a.output", "b.output")
    with pytest.raises(ArgumentError, match="hook_name: a crosscoder reads at several hooks"):
        sae_fast.load(path, hook_name="a.output")


@pytest.mark.parametrize(
    ("config", "changed", "message"),
    [
        ({"code_normalization": "DECOUPLED"}, {}, "code_normalization: expected one of CROSSCODER.*no one activation"),
        ({}, {"threshold": torch.tensor(-1.0)}, "threshold: expected the one set in training"),
        ({"dict_size": 7}, {}, "dict_size: expected 24, the size of the tensors, got 7"),
        ({"encoder_layers_indices": [1]}, {}, "encoder_layers_indices: expected an encoder of everything that is decoded"),
        ({}, {"decoder.weight": torch.zeros(3, D_SAE, D_IN)}, r"shape of decoder.weight: expected \[2, 24, 8\]"),
        ({}, {"running_mean": torch.zeros(2)}, "unknown tensors running_mean"),
    ],
    ids=["decoupled", "no threshold", "size", "indices", "layers", "unknown"],
)
def test_what_is_another_model_is_refused(
    config: dict[str, Any], changed: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    """By name, before weights are read."""
    sample = published.crosscoder_learning(**config)
    sample.files["model.safetensors"] |= changed

    with pytest.raises(FormatError, match=message):
        info(sample.write(tmp_path))


def test_openmosss_crosscoders_are_refused_with_the_reason(tmp_path: Path) -> None:
    """Each of their hooks has activations of its own."""
    with pytest.raises(
        FormatError, match=r"sae_type: expected sae or transcoder, got crosscoder\. Features of its crosscoders"
    ):
        info(published.openmoss(sae_type="crosscoder").write(tmp_path))
