import math
from pathlib import Path
from typing import Any

import published
import pytest
import torch

import sae_fast
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.formats import info

F_IN, F_OUT = (math.sqrt(published.D_IN) / norm for norm in (5.5, 3.25))
TRANSCODER = {"hook_point_in": "blocks.5.ln2.hook_normalized", "hook_point_out": "blocks.5.hook_mlp_out"}


def weights(sample: published.Sample) -> published.Tensors:
    """W_E, b_E, W_D, b_D and the threshold, whatever they are called."""
    w = published.doubles(sample.files["sae_weights.safetensors"])
    if "encoder.weight" in w:
        return {
            "W_E": w["encoder.weight"].T, "b_E": w["encoder.bias"], "W_D": w["decoder.weight"].T, "b_D": w["decoder.bias"],
            "threshold": w["log_jumprelu_threshold"].exp(),
        }  # fmt: skip
    log_threshold = w.get("activation_function.log_jumprelu_threshold")
    return w if log_threshold is None else w | {"threshold": log_threshold.exp()}


@pytest.mark.parametrize("former", [False, True])
@pytest.mark.parametrize("transcoder", [False, True])
def test_jumprelu_gates_on_decoder_norms(former: bool, transcoder: bool, tmp_path: Path) -> None:
    """X times √d / norm; h counts where h ‖W_D‖ is above the threshold; the output is divided by its own factor."""
    sample = published.openmoss(former, **(TRANSCODER if transcoder else {}))
    w, x = weights(sample), published.inputs()
    h = x.double() * F_IN @ w["W_E"] + w["b_E"]
    acts = h * (h * w["W_D"].norm(dim=1) > w["threshold"])

    sae = sae_fast.load(sample.write(tmp_path))

    out = (acts @ w["W_D"] + w["b_D"]) / (F_OUT if transcoder else F_IN)
    published.assert_computes(sae, x, acts, out, exact=False)
    assert sae.cfg.hook_name_out == (TRANSCODER["hook_point_out"] if transcoder else None)
    assert sae.cfg.model_name == ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B" if former else None)


def test_jumprelu_without_decoder_norms(tmp_path: Path) -> None:
    """With sparsity_include_decoder_norm false, h itself is compared."""
    sample = published.openmoss(sparsity_include_decoder_norm=False)
    w, x = weights(sample), published.inputs()
    h = x.double() * F_IN @ w["W_E"] + w["b_E"]
    acts = h * (h > w["threshold"])

    published.assert_computes(sae_fast.load(sample.write(tmp_path)), x, acts, (acts @ w["W_D"] + w["b_D"]) / F_IN, exact=False)


@pytest.mark.parametrize("by_norm", [False, True])
def test_top_k_by_decoder_norms(by_norm: bool, tmp_path: Path) -> None:
    """The k largest of h ‖W_D‖; activations are then scaled by ‖W_D‖, and the output is the publisher's."""
    sample = published.openmoss(act_fn="topk", sparsity_include_decoder_norm=by_norm)
    w, x = weights(sample), published.inputs()
    norms = w["W_D"].norm(dim=1) if by_norm else torch.ones(published.D_SAE).double()
    ranked = published.largest((x.double() * F_IN @ w["W_E"] + w["b_E"]) * norms, published.K)
    out = (ranked / norms @ w["W_D"] + w["b_D"]) / F_IN

    published.assert_computes(sae_fast.load(sample.write(tmp_path)), x, ranked, out, exact=False)


@pytest.mark.parametrize(
    ("how", "scale"),
    [("inference", lambda x: torch.ones(len(x), 1)), ("token-wise", lambda x: math.sqrt(8) / x.norm(dim=1)[:, None])],
)
def test_other_normalisations(how: str, scale: Any, tmp_path: Path) -> None:
    """Folded weights read activations as they are; token-wise ones divide each by its own norm."""
    sample = published.openmoss(act_fn="relu", norm_activation=how)
    w, x = weights(sample), published.inputs()
    factor = scale(x).double()
    acts = (x.double() * factor @ w["W_E"] + w["b_E"]).relu()

    published.assert_computes(
        sae_fast.load(sample.write(tmp_path)), x, acts, (acts @ w["W_D"] + w["b_D"]) / factor, exact=False
    )


def test_without_a_decoder_bias_and_from_a_pickle(tmp_path: Path) -> None:
    """use_decoder_bias false leaves b_D out; a `.pt` holds the same under `sae`."""
    sample = published.openmoss(use_decoder_bias=False, act_fn="relu")
    tensors = sample.files.pop("sae_weights.safetensors")
    del tensors["b_D"]
    sample.files["sae_weights.pt"] = {"sae": tensors, "version": "2.0.0b34"}
    w, x = published.doubles(tensors), published.inputs()
    acts = (x.double() * F_IN @ w["W_E"] + w["b_E"]).relu()

    published.assert_computes(sae_fast.load(sample.write(tmp_path)), x, acts, acts @ w["W_D"] / F_IN, exact=False)


def test_parts(tmp_path: Path) -> None:
    """Some features, or the encoder alone, whose gate needs decoder norms, are those of the whole."""
    path = published.openmoss().write(tmp_path)
    x, chosen = published.inputs(), [3, 17, 5]
    whole = sae_fast.load(path).encode(x).to_dense()

    torch.testing.assert_close(sae_fast.load(path, features=chosen).encode(x).to_dense(), whole[:, chosen])
    encoder = sae_fast.load(path, encoder_only=True)
    assert torch.equal(encoder.encode(x).to_dense(), whole)
    assert not encoder.has_decoder


def test_the_factor_can_be_given(tmp_path: Path) -> None:
    """A file that does not hold the average norm needs it, and says so."""
    sample = published.openmoss()
    weights = sample.files["sae_weights.safetensors"]
    norm = weights.pop("dataset_average_activation_norm.blocks.5.hook_resid_post")
    x = published.inputs()
    path = sample.write(tmp_path / "without")
    weights["dataset_average_activation_norm.blocks.5.hook_resid_post"] = norm
    whole = sae_fast.load(sample.write(tmp_path / "with"))

    with pytest.raises(FormatError, match=r"the average norm of activations is not in the file.*Pass norm_scaling_factor"):
        sae_fast.load(path)
    given = sae_fast.load(path, norm_scaling_factor=F_IN)

    torch.testing.assert_close(given(x), whole(x))
    with pytest.raises(ArgumentError, match="norm_scaling_factor"):
        sae_fast.load(tmp_path / "with" / sample.folder, norm_scaling_factor=F_IN)


def test_other_models_are_refused(tmp_path: Path) -> None:
    """What depends on a batch, a second gate, and other kinds of dictionary."""
    for n, (changes, message) in enumerate(
        [
            ({"act_fn": "batchtopk"}, "act_fn: expected relu, jumprelu, topk, got batchtopk"),
            ({"norm_activation": "batch-wise"}, "norm_activation: expected dataset-wise, got batch-wise"),
            ({"norm_activation": "token-wise", **TRANSCODER}, "norm_activation: expected dataset-wise, got token-wise"),
            ({"use_glu_encoder": True}, "an encoder with a second gate is not supported"),
            ({"sae_type": "lorsa"}, "sae_type: expected sae or transcoder, got lorsa"),
            ({"expansion_factor": None}, "expansion_factor is missing"),
        ]
    ):
        with pytest.raises(FormatError, match=message):
            info(published.openmoss(**changes).write(tmp_path / str(n)))
