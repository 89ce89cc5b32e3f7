"""SAEs that write elsewhere than they read: transcoders, skip terms, layers of a cross-layer transcoder."""

from typing import Any

import pytest
import torch
from operands import integers, normal

from sae_fast.errors import ArgumentError
from sae_fast.sae import SAE, SAEConfig

D_IN, D_SAE, D_OUT = 6, 23, 5
PLACES = {"hook_name": "blocks.0.hook_mlp_in", "hook_name_out": "blocks.0.hook_mlp_out"}


def build(architecture: str = "standard", d_out: int = D_OUT, dtype: torch.dtype = torch.float32, **config: Any) -> SAE:
    cfg = SAEConfig(architecture=architecture, d_in=D_IN, d_sae=D_SAE, d_out=d_out, transcoder=True, **PLACES, **config)  # type: ignore[arg-type]
    tensors = {
        "W_enc": integers(1, D_IN, D_SAE).to(dtype),
        "W_dec": integers(2, D_SAE, d_out).to(dtype),
        "b_enc": integers(3, D_SAE),
    }
    if architecture == "jumprelu":
        tensors["threshold"] = integers(4, D_SAE).abs()
    if cfg.skip:
        tensors["W_skip"] = integers(6, d_out, D_IN).to(dtype)
    return SAE(cfg, b_dec=integers(5, d_out), **tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
@pytest.mark.parametrize("d_out", [D_OUT, D_IN], ids=["other-width", "same-width"])
def test_what_a_transcoder_writes(architecture: str, skip: bool, d_out: int, dtype: torch.dtype) -> None:
    """Relu or jump of x W_enc + b_enc, W_dec and b_dec, and with a skip connection W_skip x on the raw input."""
    sae = build(architecture, d_out, dtype, skip=skip)
    x = integers(9, 2, 4, D_IN)
    h = x @ integers(1, D_IN, D_SAE) + integers(3, D_SAE)
    acts = h.relu() * (h > integers(4, D_SAE).abs()) if architecture == "jumprelu" else h.relu()
    expected = acts @ integers(2, D_SAE, d_out) + integers(5, d_out) + skip * (x @ integers(6, d_out, D_IN).T)

    y = sae(x)

    assert torch.equal(sae.encode(x).to_dense().float(), acts)
    assert torch.equal(y, expected)
    skipped = sae.skip(x)
    if not skip:
        assert skipped is None
    else:
        assert skipped is not None
        assert torch.equal((sae.decode(sae.encode(x)) + skipped).float(), expected)


def test_no_token_at_all() -> None:
    """Nothing in gives nothing out, of the width that is written."""
    assert build(skip=True)(torch.zeros(0, D_IN)).shape == (0, D_OUT)
    assert build(skip=True)(torch.zeros(2, 0, D_IN)).shape == (2, 0, D_OUT)


def test_where_it_reads_and_writes() -> None:
    """hook_name_write is the place of the output; an SAE writes where it reads."""
    assert build().cfg.hook_name_write == "blocks.0.hook_mlp_out"
    assert SAEConfig(architecture="standard", d_in=4, d_sae=6, hook_name="blocks.0.hook_resid_pre").hook_name_write == (
        "blocks.0.hook_resid_pre"
    )
    assert repr(build(skip=True)).startswith("SAE(standard transcoder, d_in=6, d_sae=23")


@pytest.mark.parametrize("normalisation", ["layer_norm", "constant_norm_rescale"])
def test_a_normalising_transcoder_scales_its_input_alone(normalisation: str) -> None:
    """What it writes has units of its own, as in SAELens: neither mean nor scale of the input comes back."""
    sae = build(normalize_activations=normalisation)
    x = 3 * normal(9, 4, D_IN) + 1
    mean = x.mean(1, keepdim=True)
    inner = (
        (x - mean) / (x.std(1, keepdim=True) + 1e-5)
        if normalisation == "layer_norm"
        else x * 6**0.5 / x.norm(dim=1, keepdim=True)
    )
    assert sae.b_enc is not None
    expected = (inner @ sae.W_enc + sae.b_enc).relu() @ sae.W_dec + sae.b_dec

    torch.testing.assert_close(sae(x), expected)
    torch.testing.assert_close(sae.decode(sae.encode(x).to_dense()), expected)


def test_folding_keeps_the_skip_term() -> None:
    """Decoder norms move into the activations, everything that is written stays."""
    sae = build("jumprelu", skip=True)
    x = integers(9, 7, D_IN)

    folded = sae.fold_decoder_norm()

    torch.testing.assert_close(folded(x), sae(x))
    torch.testing.assert_close(folded.encode(x).to_dense(), sae.encode(x).to_dense() * sae.W_dec.norm(dim=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"apply_b_dec_to_input": True}, "apply_b_dec_to_input: expected False where the output is not the input"),
        ({"transcoder": False, "apply_b_dec_to_input": True}, "apply_b_dec_to_input: expected False"),
        (
            {"transcoder": False, "normalize_activations": "layer_norm"},
            "normalize_activations: expected none where d_out differs",
        ),
        ({"hook_names_out": ("a", "b"), "hook_name_out": "a"}, "hook_names_out: expected no hook_name_out"),
        ({"input_scale": 2.0}, "input_scale: expected a positive number, and 1 without constant_scalar_rescale, got 2.0"),
        ({"input_scale": 0.0, "normalize_activations": "constant_scalar_rescale"}, "input_scale: expected a positive number"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_impossible_places_are_refused(changes: dict[str, Any], message: str) -> None:
    """What cannot be subtracted, undone or told apart is refused at construction."""
    with pytest.raises(ArgumentError, match=message):
        SAEConfig(**({"architecture": "standard", "d_in": 4, "d_sae": 6, "d_out": 5, "transcoder": True} | changes))


def test_a_skip_matrix_belongs_to_a_skip_transcoder() -> None:
    """W_skip without cfg.skip is refused rather than dropped, and cfg.skip without W_skip too."""
    tensors = build().tensors()
    with pytest.raises(ArgumentError, match="W_skip: an SAE of architecture standard has no such tensor"):
        SAE(build().cfg, **tensors, W_skip=integers(1, D_OUT, D_IN))
    with pytest.raises(ArgumentError, match="W_skip: an SAE of architecture standard needs it"):
        SAE(build(skip=True).cfg, **tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
def test_a_layer_of_a_cross_layer_transcoder(skip: bool, dtype: torch.dtype) -> None:
    """It decodes to [..., n_out, d_out], one reconstruction for each place it writes to; a skip term belongs to the first."""
    hooks = tuple(f"blocks.{layer}.hook_mlp_out" for layer in range(3))
    sizes = {"d_in": D_IN, "d_sae": D_SAE, "d_out": D_OUT}
    cfg = SAEConfig(architecture="jumprelu", **sizes, hook_name="blocks.0.hook_mlp_in", hook_names_out=hooks, skip=skip)
    W_enc, W_dec, W_skip = integers(1, D_IN, D_SAE), integers(2, D_SAE, 3, D_OUT), integers(6, D_OUT, D_IN)
    vectors = {"b_enc": integers(3, D_SAE), "threshold": integers(4, D_SAE).abs(), "b_dec": integers(5, 3, D_OUT)}
    matrices = {"W_enc": W_enc, "W_dec": W_dec} | ({"W_skip": W_skip} if skip else {})
    sae = SAE(cfg, **{name: matrix.to(dtype) for name, matrix in matrices.items()}, **vectors)
    x = integers(9, 2, 4, D_IN)
    h = x @ W_enc + vectors["b_enc"]
    acts = h * (h > vectors["threshold"])
    decoded = torch.einsum("bps,sod->bpod", acts, W_dec) + vectors["b_dec"]
    written = decoded.clone()
    if skip:
        written[..., 0, :] += x @ W_skip.T

    assert torch.equal(sae.decode(sae.encode(x)), decoded)
    assert torch.equal(sae.decode(acts), decoded)
    assert torch.equal(sae(x), written)
    skipped = sae.skip(x)
    assert torch.equal(decoded if skipped is None else decoded + skipped, written)
    assert sae.b_dec.dtype == torch.float32
    folded = sae.to(dtype=torch.float32).fold_decoder_norm()
    torch.testing.assert_close(folded.W_dec.flatten(1).norm(dim=1), torch.ones(D_SAE))
    torch.testing.assert_close(folded(x), written)


def test_a_scaled_input() -> None:
    """constant_scalar_rescale multiplies what is encoded and divides what comes back."""
    cfg = SAEConfig(architecture="standard", d_in=4, d_sae=9, normalize_activations="constant_scalar_rescale", input_scale=0.5)
    W_enc, W_dec, b_enc, b_dec = integers(1, 4, 9), integers(2, 9, 4), integers(3, 9), integers(4, 4)
    sae = SAE(cfg, W_enc=W_enc, W_dec=W_dec, b_enc=b_enc, b_dec=b_dec)
    x = integers(9, 7, 4)
    acts = (x * 0.5 @ W_enc + b_enc).relu()

    assert torch.equal(sae.encode(x).to_dense(), acts)
    assert torch.equal(sae(x), (acts @ W_dec + b_dec) / 0.5)
    assert torch.equal(sae.decode(acts), sae(x))
