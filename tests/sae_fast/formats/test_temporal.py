from pathlib import Path

import published
import pytest
import torch
from torch.nn import functional

import sae_fast
from sae_fast.errors import FormatError
from sae_fast.formats import info

SCALE = 0.0078125


def attend(w: published.Tensors, layer: int, context: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    def linear(name: str, z: torch.Tensor) -> torch.Tensor:
        return z @ w[f"attn_layers.{layer}.{name}.weight"].T + w[f"attn_layers.{layer}.{name}.bias"]

    q, k, v = (
        linear(name, z).unflatten(1, (2, -1)).transpose(0, 1)
        for name, z in (("q_target", target), ("k_ctx", context), ("v_ctx", context))
    )
    return linear("c_proj", functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).flatten(1))


def reference(w: published.Tensors, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(novel codes, reconstruction) of one sequence, as in the authors' forward pass."""
    lam, encoder = 1 / (4 * x.shape[1]), w.get("E", w["D"].T)
    rest, predicted = x.double() * SCALE - w["b"].flatten(), torch.zeros(1, dtype=torch.float64)
    for layer in range(2):
        z = (rest * lam @ encoder).relu()
        p = attend(w, layer, torch.cat([torch.zeros_like(z[:1]), z[:-1]]), z).relu()
        d = p @ w["D"]
        share = (d * rest).sum(1, keepdim=True) / (d.norm(dim=1, keepdim=True) + 1e-6) ** 2
        predicted, rest = predicted + p * share, rest - share * d
    novel = published.largest((rest * lam @ encoder).relu(), published.K)
    return novel, ((novel + predicted) @ w["D"] + w["b"].flatten()) / SCALE


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("wide_bias", [True, False])
def test_the_published_formula(tied: bool, wide_bias: bool, tmp_path: Path) -> None:
    """Novel codes and reconstruction, with a bias of [1, d] or [d], of inputs times the scaling factor."""
    sample = published.temporal(tied, wide_bias)
    x = published.inputs(12) * 64
    novel, out = reference(published.doubles(sample.files["latest_ckpt.safetensors"]), x)

    sae = sae_fast.load(sample.write(tmp_path))

    torch.testing.assert_close(sae.encode(x).to_dense().double(), novel, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sae(x).double(), out, rtol=1e-4, atol=1e-3)
    assert (sae.cfg.hook_name, sae.cfg.model_name) == ("blocks.12.hook_resid_post", "google/gemma-2-2b")


def test_a_training_checkpoint(tmp_path: Path) -> None:
    """latest_ckpt.pt has the tensors under `sae`."""
    sample = published.temporal()
    tensors = sample.files.pop("latest_ckpt.safetensors")
    expected = sae_fast.load(published.temporal().write(tmp_path / "a"))
    sample.files["latest_ckpt.pt"] = {"sae": tensors}
    x = published.inputs(12)

    assert torch.equal(sae_fast.load(sample.write(tmp_path / "b"))(x), expected(x))


def test_a_broken_configuration_is_refused(tmp_path: Path) -> None:
    """A missing number, another way to be sparse, and heads that do not divide the features."""
    for n, (old, new, message) in enumerate(
        [
            ("  n_heads: 2\n", "", "conf.yaml: sae: n_heads is missing"),
            ("topk", "batchtopk", "sae_diff_type: expected one of relu, topk, got 'batchtopk'"),
            ("n_heads: 2", "n_heads: 5", "a multiple of bottleneck_factor"),
            ("tied_weights: true", "tied_weights: 3", "tied_weights: expected true or false"),
        ]
    ):
        sample = published.temporal()
        sample.files["conf.yaml"] = sample.files["conf.yaml"].replace(old, new, 1)
        with pytest.raises(FormatError, match=message):
            info(sample.write(tmp_path / str(n)))
