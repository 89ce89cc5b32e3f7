import math
from pathlib import Path

import published
import pytest
import torch

import sae_fast
from sae_fast.errors import FormatError
from sae_fast.formats import info

CHECKPOINT = "checkpoints/final.safetensors"


def reference(sample: published.Sample, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(activations, output, decoder norms) step by step in normalised units, the units of training.

    The threshold is compared with the contribution's norm in the units of the output.
    """
    w, settings = published.doubles(sample.files[CHECKPOINT]), sample.files["hyperparams.json"]
    norms = settings["dataset_average_activation_norm"]
    f_in, f_out = (math.sqrt(settings["d_model"]) / norms[side] for side in ("in", "out"))
    h = (x.double() * f_in) @ w["encoder.weight"].T + w["encoder.bias"]
    n = w["decoder.weight"].norm(dim=0)
    trained = h * (h * n / f_out > settings["jump_relu_threshold"])
    return trained * n / f_out, (trained @ w["decoder.weight"].T + w["decoder.bias"]) / f_out, n


@pytest.mark.parametrize("out", [6.3125, 3.5])
def test_as_the_publisher_folds_it(out: float, tmp_path: Path) -> None:
    """Activations are in the model's units and decoder rows have norm one, also where input and output norms differ."""
    sample = published.llama_scope(
        hook_point_in="blocks.8.ln2.hook_normalized" if out == 3.5 else "blocks.15.hook_resid_post",
        hook_point_out="blocks.8.hook_mlp_out" if out == 3.5 else "blocks.15.hook_resid_post",
        dataset_average_activation_norm={"in": 6.3125, "out": out},
    )
    x = published.inputs()
    acts, expected, _ = reference(sample, x)

    sae = sae_fast.load(sample.write(tmp_path))

    published.assert_computes(sae, x, acts, expected, exact=False)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(published.D_SAE))
    assert sae.cfg.transcoder == (out == 3.5)
    assert sae.cfg.hook_name_out == ("blocks.8.hook_mlp_out" if out == 3.5 else None)
    assert sae.cfg.model_name == "meta-llama/Llama-3.1-8B"


def test_how_it_relates_to_saelens(tmp_path: Path) -> None:
    """With decoder columns of norm one, SAELens's (f_in folded into W_enc, threshold times f_in) are f_in times ours."""
    sample = published.llama_scope()
    weights = sample.files[CHECKPOINT]
    weights["decoder.weight"] /= weights["decoder.weight"].norm(dim=0)
    x, f = published.inputs(), math.sqrt(published.D_IN) / 6.3125
    w = published.doubles(weights)
    h = x.double() @ (w["encoder.weight"].T * f) + w["encoder.bias"]
    theirs = h * (h > sample.files["hyperparams.json"]["jump_relu_threshold"] * f)

    sae = sae_fast.load(sample.write(tmp_path))

    torch.testing.assert_close(sae.encode(x).to_dense() * f, theirs.float())
    torch.testing.assert_close(sae(x), ((theirs @ w["decoder.weight"].T + w["decoder.bias"]) / f).float())


def test_without_decoder_norms_in_the_gate(tmp_path: Path) -> None:
    """With sparsity_include_decoder_norm false, rows keep their norms and the threshold is compared with h itself."""
    sample = published.llama_scope(sparsity_include_decoder_norm=False, jump_relu_threshold=0.5)
    w, x = published.doubles(sample.files[CHECKPOINT]), published.inputs()
    f = math.sqrt(published.D_IN) / 6.3125
    h = x.double() @ w["encoder.weight"].T + w["encoder.bias"] / f
    acts = h * (h > 0.5)

    published.assert_computes(
        sae_fast.load(sample.write(tmp_path)), x, acts, acts @ w["decoder.weight"].T + w["decoder.bias"] / f, exact=False
    )


def test_bfloat16_is_folded_in_the_dtype_that_was_asked_for(tmp_path: Path) -> None:
    """Published in bfloat16, folded with one rounding, or with none that matters in float32."""
    sample = published.llama_scope()
    sample.files[CHECKPOINT] = {key: tensor.bfloat16() for key, tensor in sample.files[CHECKPOINT].items()}
    path = sample.write(tmp_path)
    x = published.inputs()
    acts, out, _ = reference(sample, x)

    assert sae_fast.load(path).dtype == torch.bfloat16
    published.assert_computes(sae_fast.load(path, dtype="float32"), x, acts, out, exact=False)


def test_parts(tmp_path: Path) -> None:
    """Some features, or the encoder alone, are those of the whole; the checkpoint and the configuration name it too."""
    path = published.llama_scope().write(tmp_path)
    x, chosen = published.inputs(), [3, 17, 5]
    whole = sae_fast.load(path).encode(x).to_dense()

    torch.testing.assert_close(sae_fast.load(path, features=chosen).encode(x).to_dense(), whole[:, chosen])
    assert torch.equal(sae_fast.load(path / "hyperparams.json", encoder_only=True).encode(x).to_dense(), whole)
    assert torch.equal(sae_fast.load(path / CHECKPOINT).encode(x).to_dense(), whole)


def test_other_models_are_refused(tmp_path: Path) -> None:
    """A second gate, another normalisation, and a norm that is missing or zero."""
    for n, (changes, message) in enumerate(
        [
            ({"use_glu_encoder": True}, "hyperparams.json: an SAE of another kind"),
            ({"norm_activation": "batch-wise"}, "norm_activation: expected one of dataset-wise, inference"),
            ({"dataset_average_activation_norm": {}}, "dataset_average_activation_norm: in is missing"),
            ({"dataset_average_activation_norm": {"in": 0}}, "expected positive norms"),
        ]
    ):
        with pytest.raises(FormatError, match=message):
            info(published.llama_scope(**changes).write(tmp_path / str(n)))
