from pathlib import Path

import published
import pytest
import torch

import sae_fast
from sae_fast.errors import FormatError
from sae_fast.formats import info


def test_top_k_of_normalised_tokens(tmp_path: Path) -> None:
    """Mean 0 and unbiased standard deviation 1, minus pre_bias, k largest, relu; all of it undone after decoding."""
    sample = published.openai()
    w, x = published.doubles({k: v for k, v in sample.files["8.pt"].items() if isinstance(v, torch.Tensor)}), published.inputs()
    mean, std = x.double().mean(1, keepdim=True), x.double().std(1, keepdim=True)
    h = ((x.double() - mean) / (std + 1e-5) - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]
    acts = published.largest(h, published.K)
    out = (acts @ w["decoder.weight"].T + w["pre_bias"]) * std + mean

    sae = sae_fast.load(sample.write(tmp_path))

    published.assert_computes(sae, x, acts, out, exact=False)
    assert (sae.cfg.hook_name, sae.cfg.model_name, sae.cfg.k) == ("blocks.8.hook_resid_post", "gpt2", published.K)


def test_relu_before_version_5(tmp_path: Path) -> None:
    """Without TopK nothing is normalised."""
    sample = published.openai("mlp_post_act", "ReLU")
    w, x = published.doubles({k: v for k, v in sample.files["8.pt"].items() if isinstance(v, torch.Tensor)}), published.inputs()
    acts = ((x.double() - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]).relu()

    sae = sae_fast.load(sample.write(tmp_path))

    published.assert_computes(sae, x, acts, acts @ w["decoder.weight"].T + w["pre_bias"])
    assert sae.cfg.hook_name == "blocks.8.mlp.hook_post"


@pytest.mark.parametrize(
    ("version", "hook_name"),
    [
        ("resid_delta_attn_v5_32k", "blocks.8.hook_attn_out"),
        ("resid_delta_mlp_v5_128k", "blocks.8.hook_mlp_out"),
        ("resid_post_attn_v5_32k", "blocks.8.hook_resid_mid"),
        ("resid_delta_mlp_v4", "blocks.8.hook_mlp_out"),
        ("elsewhere", None),
    ],
)
def test_the_location_is_in_the_path(version: str, hook_name: str | None, tmp_path: Path) -> None:
    """OpenAI's names of places in GPT-2 become hooks; the folder of one layer will do."""
    path = published.openai(version).write(tmp_path)

    assert info(path).cfg.hook_name == info(path.parent).cfg.hook_name == hook_name


def test_other_activations_are_refused(tmp_path: Path) -> None:
    """Identity is not sparse, and TopK without relu after it gives negative activations."""
    sample = published.openai()
    sample.files["8.pt"]["activation_state_dict"]["postact_fn"] = "Identity"
    with pytest.raises(
        FormatError, match=r"8.pt: activation: expected ReLU, or TopK followed by ReLU, got TopK, then Identity"
    ):
        info(sample.write(tmp_path))
