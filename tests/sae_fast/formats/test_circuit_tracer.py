from pathlib import Path

import published
import pytest
import torch

import sae_fast
from sae_fast.errors import FormatError
from sae_fast.formats import info


@pytest.mark.parametrize("jumps", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_transcoders_of_one_layer(jumps: bool, skip: bool, tmp_path: Path) -> None:
    """ReLU or JumpReLU of raw x, decoder as stored, and x @ W_skip.T, which SAELens refuses."""
    sample = published.circuit_tracer_plt(jumps, skip)
    w, x = published.doubles(sample.files["layer_3.safetensors"]), published.inputs()
    h = x.double() @ w["W_enc"].T + w["b_enc"]
    acts = h * (h > w["activation_function.threshold"]) if jumps else h.relu()
    out = acts @ w["W_dec"] + w["b_dec"]

    sae = sae_fast.load(sample.write(tmp_path))

    published.assert_computes(sae, x, acts, out + x.double() @ w["W_skip"].T if skip else out)
    assert (sae.cfg.hook_name, sae.cfg.hook_name_out) == ("blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out")
    assert sae.cfg.model_name == "Qwen/Qwen3-4B"


@pytest.mark.parametrize(
    ("model", "hook_name_out"), [("Qwen/Qwen3-4B", "blocks.3.hook_mlp_out"), ("google/gemma-3-4b-it", "blocks.3.mlp.hook_out")]
)
def test_what_circuit_tracer_calls_the_output_of_the_mlp(model: str, hook_name_out: str, tmp_path: Path) -> None:
    """mlp.hook_out is hook_mlp_out, but in models with a norm between them."""
    sample = published.circuit_tracer_plt()
    text = sample.files["config.yaml"].replace("Qwen/Qwen3-4B", model).replace("hook_mlp_out", "mlp.hook_out")
    sample.files["config.yaml"] = text

    assert info(sample.write(tmp_path)).cfg.hook_name_out == hook_name_out


def test_hooks_without_a_configuration_are_assumed(tmp_path: Path) -> None:
    """Some published sets have no config.yaml; what is assumed says so."""
    cfg = info(published.circuit_tracer_plt(config=False).write(tmp_path)).cfg

    assert (cfg.hook_name, cfg.hook_name_out) == ("blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out")
    assert "assumed" in str(cfg.metadata["hook_name_assumed"])


@pytest.mark.parametrize("jumps", [False, True])
def test_the_layers_of_a_cross_layer_transcoder_add_up(jumps: bool, tmp_path: Path) -> None:
    """Thresholds count, which SAELens leaves out, and the sum over layers is circuit-tracer's reconstruction."""
    n_layers = 4
    sample = published.circuit_tracer_clt(jumps, n_layers)
    sample.write(tmp_path)
    x = published.draw(97, x=(16, n_layers, published.D_IN))["x"]
    expected = torch.zeros(16, n_layers, published.D_IN, dtype=torch.float64)
    total = torch.zeros_like(expected)
    for n in range(n_layers):
        w = published.doubles(sample.files[f"W_enc_{n}.safetensors"] | sample.files[f"W_dec_{n}.safetensors"])
        h = x[:, n].double() @ w[f"W_enc_{n}"].T + w[f"b_enc_{n}"]
        acts = h * (h > w[f"threshold_{n}"]) if jumps else h.relu()
        expected[:, n:] += torch.einsum("ns,sld->nld", acts, w[f"W_dec_{n}"])
        expected[:, n] += w[f"b_dec_{n}"]

        sae = sae_fast.load(tmp_path / sample.folder / f"W_{'dec' if n == 2 else 'enc'}_{n}.safetensors")

        assert torch.equal(sae.encode(x[:, n]).to_dense().double(), acts)
        assert sae.cfg.hook_name == f"blocks.{n}.hook_resid_mid"
        assert sae.cfg.hook_names_out == tuple(f"blocks.{later}.hook_mlp_out" for later in range(n, n_layers))
        total[:, n:] += sae(x[:, n]).double()

    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-4)


def test_folders_of_layers_ask_for_one(tmp_path: Path) -> None:
    """Both kinds list their layers."""
    clt = published.circuit_tracer_clt()
    clt.write(tmp_path)
    with pytest.raises(
        FormatError, match=r"several layers of a cross-layer transcoder: .*Name one of them: .*W_enc_0.safetensors"
    ):
        info(tmp_path / clt.folder)
    plt = published.circuit_tracer_plt()
    plt.files["layer_10.safetensors"] = plt.files["layer_3.safetensors"]
    with pytest.raises(
        FormatError, match=r"several layers of circuit-tracer transcoders: expected one, got layer_3.safetensors, lay"
    ):
        info(plt.write(tmp_path).parent)


def test_half_a_layer_is_refused(tmp_path: Path) -> None:
    """A layer without its decoder names the file that is missing."""
    sample = published.circuit_tracer_clt()
    del sample.files["W_dec_1.safetensors"]
    with pytest.raises(FormatError, match=r"W_dec_1.safetensors: no such file: expected W_enc_1.safetensors and W_dec_1"):
        info(sample.write(tmp_path))
