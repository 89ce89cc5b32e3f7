import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, NonFiniteError, ShapeError
from sae_fast.sae import SAE, VECTORS_OF, SAEConfig
from sae_fast.testing import assert_well_formed

D_IN, D_SAE = 12, 41
ARCHITECTURES = ("batchtopk", "gated", "jumprelu", "standard", "topk")
"""Encoded by one operation; the others are in tests/sae_fast/architectures."""
by_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def integers(generator: torch.Generator, *shape: int) -> Tensor:
    """Small integers: sums of their products are exact in float32, in any order."""
    return torch.randint(-3, 4, shape, generator=generator).float()


def build(architecture: str, draw: Callable[..., Tensor] = integers, **config: Any) -> SAE:
    """An SAE of small random weights. Decoder rows have one entry, a power of two, so that their norms are exact."""
    generator = torch.Generator().manual_seed(3)
    norms = 2.0 ** torch.randint(-1, 3, (D_SAE,), generator=generator)
    W_dec = torch.zeros(D_SAE, D_IN)
    W_dec[torch.arange(D_SAE), torch.arange(D_SAE) % D_IN] = norms
    tensors = {name: draw(generator, D_SAE) for name in VECTORS_OF[architecture]}
    if architecture == "topk":
        config.setdefault("k", 5)
    cfg = SAEConfig(architecture=architecture, d_in=D_IN, d_sae=D_SAE, **config)  # type: ignore[arg-type]
    return SAE(cfg, W_enc=draw(generator, D_IN, D_SAE), W_dec=W_dec, b_dec=draw(generator, D_IN), **tensors)


def inputs(*leading: int, draw: Callable[..., Tensor] = integers) -> Tensor:
    return draw(torch.Generator().manual_seed(7), *leading, D_IN)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def published_encode(sae: SAE, x: Tensor) -> Tensor:
    """The formula of each architecture as SAELens states it, dense, in the dtype of `x`."""
    cfg, t = sae.cfg, {name: tensor.to(x.dtype) for name, tensor in sae.tensors().items()}
    if cfg.apply_b_dec_to_input:
        x = x - t["b_dec"]
    if cfg.architecture == "gated":
        gate = (x @ t["W_enc"] + t["b_gate"]) > 0
        return gate * (x @ (t["W_enc"] * t["r_mag"].exp()) + t["b_mag"]).relu()
    h = x @ t["W_enc"] + t["b_enc"]
    if cfg.architecture in ("jumprelu", "batchtopk"):
        return h.relu() * (h > t["threshold"])
    if cfg.architecture == "standard":
        return h.relu()
    if cfg.rescale_acts_by_decoder_norm:
        h = h * t["W_dec"].norm(dim=1)
    assert cfg.k is not None
    order = h.relu().sort(dim=-1, descending=True, stable=True).indices[..., : cfg.k]
    return torch.zeros_like(h).scatter(-1, order, h.gather(-1, order).relu())


@pytest.mark.parametrize("apply_b_dec_to_input", [False, True], ids=["raw", "centred"])
@by_architecture
def test_encode_equals_the_published_formula(architecture: str, apply_b_dec_to_input: bool) -> None:
    """With exact arithmetic, folding b_dec into the bias changes nothing at all."""
    sae = build(architecture, apply_b_dec_to_input=apply_b_dec_to_input)
    if architecture == "gated":
        assert sae.r_mag is not None
        sae.r_mag.zero_()
    x = inputs(3, 5)

    acts = sae.encode(x)

    assert_well_formed(acts)
    assert acts.l0 > 0
    assert torch.equal(acts.to_dense(), published_encode(sae, x))


@by_architecture
def test_encode_is_as_accurate_as_its_sums(architecture: str) -> None:
    """With rounded arithmetic, the error stays within the bound of a float32 sum over d_in and the folded bias."""
    sae = build(architecture, draw=normal, apply_b_dec_to_input=True)
    x = inputs(50, draw=normal)

    got = sae.encode(x).to_dense()

    exact = published_encode(sae, x.double())
    gain = sae.r_mag.exp() if sae.r_mag is not None else 1
    sums = (x.abs() + sae.b_dec.abs()) @ sae.W_enc.abs() + 1
    bound = torch.finfo(torch.float32).eps * (D_IN + 4) * float((sums * gain).max())
    both = (got != 0) & (exact != 0)
    assert float(((got != 0) != (exact != 0)).float().mean()) < 1e-3
    assert float((got - exact)[both].abs().max()) < bound


def test_topk_rescaled_by_decoder_norm() -> None:
    """Selection and activations are scaled by decoder norms, and decode divides by them again."""
    sae = build("topk", rescale_acts_by_decoder_norm=True, apply_b_dec_to_input=True)
    x = inputs(20)

    acts = sae.encode(x)

    feature_acts = published_encode(sae, x)
    norms = sae.W_dec.norm(dim=1)
    assert torch.equal(acts.to_dense(), feature_acts)
    assert torch.equal(sae.decode(acts), (feature_acts / norms) @ sae.W_dec + sae.b_dec)
    assert torch.equal(sae.decode(feature_acts), sae.decode(acts))


@by_architecture
def test_decode_takes_sparse_and_dense(architecture: str) -> None:
    """Both forms of the activations give acts @ W_dec + b_dec."""
    sae = build(architecture)
    acts = sae.encode(inputs(2, 3))

    torch.testing.assert_close(sae.decode(acts), sae.decode(acts.to_dense()))
    torch.testing.assert_close(sae.decode(acts), acts.to_dense() @ sae.W_dec + sae.b_dec)


def test_layer_norm_uses_the_unbiased_deviation() -> None:
    """Tokens are centred and divided by σ + 1e-5 with unbiased σ; the output is multiplied by σ and shifted by the mean."""
    sae = build("standard", draw=normal, normalize_activations="layer_norm", apply_b_dec_to_input=True)
    x = inputs(4, 6, draw=normal) * 3 + 2
    mean, sigma = x.mean(-1, keepdim=True), x.std(-1, keepdim=True, unbiased=True)
    expected_acts = published_encode(sae, (x - mean) / (sigma + 1e-5))
    expected = (expected_acts @ sae.W_dec + sae.b_dec) * sigma + mean

    acts = sae.encode(x)

    torch.testing.assert_close(acts.to_dense(), expected_acts)
    torch.testing.assert_close(sae.decode(acts), expected)
    torch.testing.assert_close(sae(x), expected)
    torch.testing.assert_close(sae.decode(acts.to_dense(), acts.mean, acts.scale), expected)


def test_constant_norm_rescale() -> None:
    """Tokens are scaled to norm √d_in and back; a token of zeros stays finite."""
    sae = build("standard", draw=normal, normalize_activations="constant_norm_rescale")
    x = inputs(9, draw=normal) * 5
    x[4] = 0
    factor = math.sqrt(D_IN) / x.norm(dim=1, keepdim=True)
    factor[4] = 1
    expected_acts = published_encode(sae, x * factor)

    acts = sae.encode(x)

    torch.testing.assert_close(acts.to_dense(), expected_acts)
    nonzero = torch.arange(9) != 4
    torch.testing.assert_close(sae.decode(acts)[nonzero], ((expected_acts @ sae.W_dec + sae.b_dec) / factor)[nonzero])
    assert bool(torch.isfinite(sae.decode(acts)).all())


def test_normalised_acts_keep_their_scale_through_selection() -> None:
    """Decoding some rows gives those rows of the whole reconstruction."""
    sae = build("standard", normalize_activations="layer_norm")
    x = inputs(8)
    acts = sae.encode(x)

    torch.testing.assert_close(sae.decode(acts.rows(slice(2, 5))), sae.decode(acts)[2:5])


@pytest.mark.parametrize("normalisation", ["layer_norm", "constant_norm_rescale"])
def test_dense_acts_of_a_normalising_sae_need_their_scale(normalisation: str) -> None:
    """Without the tokens' mean and scale, dense activations cannot be decoded, and the error says so."""
    sae = build("standard", normalize_activations=normalisation)

    with pytest.raises(ArgumentError, match="do not carry the mean and scale"):
        sae.decode(sae.encode(inputs(8)).to_dense())


@by_architecture
def test_folding_decoder_norms_changes_units_only(architecture: str) -> None:
    """Rows get norm one, activations are scaled up by the old norms, reconstructions stay."""
    rescaled = architecture == "topk"
    sae = build(architecture, apply_b_dec_to_input=True, rescale_acts_by_decoder_norm=rescaled)
    x = inputs(30)

    folded = sae.fold_decoder_norm()

    norms = sae.W_dec.norm(dim=1)
    expected = sae.encode(x).to_dense() * (1 if rescaled else norms)
    assert torch.equal(folded.W_dec.norm(dim=1), torch.ones(D_SAE))
    torch.testing.assert_close(folded.encode(x).to_dense(), expected)
    torch.testing.assert_close(folded(x), sae(x))
    assert not folded.cfg.rescale_acts_by_decoder_norm


def test_folding_leaves_zero_rows_alone() -> None:
    """A decoder row of zeros stays zero and its feature finite."""
    sae = build("standard")
    sae.W_dec[4] = 0

    folded = sae.fold_decoder_norm()

    assert torch.equal(folded.W_dec[4], torch.zeros(D_IN))
    assert torch.equal(folded.W_enc[:, 4], sae.W_enc[:, 4])


def test_folding_is_refused_where_it_changes_the_selection() -> None:
    """A topk SAE that selects without decoder norms cannot be folded."""
    with pytest.raises(ArgumentError, match="fold_decoder_norm would change"):
        build("topk").fold_decoder_norm()


def test_hook_z_inputs_come_flat_or_by_head() -> None:
    """[..., n_heads, d_head] is flattened, and forward gives it back in that shape."""
    sae = build("standard", reshape_activations="hook_z")
    x = inputs(2, 5)
    by_head = x.reshape(2, 5, 3, 4)

    assert torch.equal(sae.encode(by_head).to_dense(), sae.encode(x).to_dense())
    assert torch.equal(sae(by_head), sae(x).reshape(2, 5, 3, 4))
    with pytest.raises(ShapeError, match=r"x: expected \[..., d_in = 12\]"):
        build("standard").encode(by_head)


@by_architecture
def test_narrow_weights_keep_biases_and_thresholds_wide(architecture: str) -> None:
    """In bfloat16 only the matrices are narrow; results are float32, and forward keeps the input's dtype."""
    sae = build(architecture, draw=normal).to(dtype=torch.bfloat16)
    x = inputs(2, 3).to(torch.bfloat16)

    for name, tensor in sae.tensors().items():
        assert tensor.dtype == (torch.bfloat16 if name in ("W_enc", "W_dec") else torch.float32)
    assert sae.encode(x).values.dtype == torch.float32
    assert sae.decode(sae.encode(x)).dtype == torch.float32
    assert sae(x).dtype == torch.bfloat16
    assert sae(x).shape == x.shape
    assert sae.to(dtype=torch.float64).b_dec.dtype == torch.float64


def test_check_finite_reaches_the_operation() -> None:
    """encode(check_finite=True) refuses NaN, also where the input is normalised first."""
    x = inputs(4)
    x[1, 1] = float("nan")
    for normalisation in ("none", "layer_norm", "constant_norm_rescale"):
        with pytest.raises(NonFiniteError, match="in 1 of 4 rows"):
            build("standard", normalize_activations=normalisation).encode(x, check_finite=True)


def test_gradients_reach_the_input() -> None:
    """Forward is differentiable in x, as edits in a language model under autograd need."""
    sae = build("jumprelu")
    x = inputs(3).requires_grad_()

    sae(x).square().sum().backward()

    assert x.grad is not None
    assert bool((x.grad != 0).any())


def test_repr_says_what_it_is() -> None:
    """The repr names architecture, sizes and hook instead of printing weights."""
    text = repr(build("topk", hook_name="blocks.1.hook_resid_post"))

    assert text.startswith("SAE(topk, d_in=12, d_sae=41, hook_name='blocks.1.hook_resid_post'")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "relu"}, "architecture: expected one of standard, gated"),
        ({"normalize_activations": "whiten"}, "normalize_activations: expected one of none"),
        ({"reshape_activations": "heads"}, "reshape_activations: expected one of none, hook_z"),
        ({"d_sae": 0}, "d_sae: expected a positive integer, got 0"),
        ({"architecture": "topk"}, "k: expected an integer from 1 to d_sae = 6, got None"),
        ({"architecture": "topk", "k": 7}, "k: expected an integer from 1 to d_sae = 6, got 7"),
        ({"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm: expected False"),
        ({"normalize_activations": "layer_norm", "d_out": 5}, "normalize_activations: expected none"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_configurations_are_checked(changes: dict[str, Any], message: str) -> None:
    """Every impossible configuration is refused with what was expected."""
    with pytest.raises(ArgumentError, match=message):
        SAEConfig(**({"architecture": "standard", "d_in": 4, "d_sae": 6} | changes))


def test_tensors_are_checked() -> None:
    """Missing, superfluous and misshapen tensors are refused by name."""
    cfg = SAEConfig(architecture="jumprelu", d_in=4, d_sae=6)
    tensors = {"W_enc": torch.zeros(4, 6), "W_dec": torch.zeros(6, 4), "b_dec": torch.zeros(4), "b_enc": torch.zeros(6)}
    with pytest.raises(ArgumentError, match="threshold: an SAE of architecture jumprelu needs it"):
        SAE(cfg, **tensors)
    tensors["threshold"] = torch.zeros(6)
    with pytest.raises(ShapeError, match=r"W_dec: expected \[6, 4\], got \[4, 6\]"):
        SAE(cfg, **(tensors | {"W_dec": torch.zeros(4, 6)}))
    with pytest.raises(ArgumentError, match="r_mag: an SAE of architecture jumprelu has no such tensor"):
        SAE(cfg, **tensors, r_mag=torch.zeros(6))
    with pytest.raises(ShapeError, match=r"acts: expected \[\.\.\., 6\], got \[2, 5\]"):
        SAE(cfg, **tensors).decode(torch.zeros(2, 5))
