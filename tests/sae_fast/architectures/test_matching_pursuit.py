import pytest
import torch
from operands import normal
from torch import Tensor

from sae_fast.architectures import encode_matching_pursuit, reference
from sae_fast.config import MatchingPursuit
from sae_fast.errors import ArgumentError
from sae_fast.ops import prepare_encoder
from sae_fast.sae import SAE, SAEConfig
from sae_fast.testing import assert_well_formed

UNBOUNDED = MatchingPursuit(residual_threshold=0, stop_on_duplicate_support=False)


def pursue(x: Tensor, W_dec: Tensor, steps: int, threshold: float, stop_on_duplicate: bool) -> Tensor:
    """The definition for one token, in plain Python on float64."""
    acts, residual = torch.zeros(len(W_dec), dtype=torch.float64), x.double()
    for _ in range(steps):
        best = int((W_dec.double() @ residual).relu().argmax())
        value = max(0.0, float(W_dec[best].double() @ residual))
        known = float(acts[best]) != 0 or value == 0
        acts[best] += value
        residual = residual - value * W_dec[best].double()
        if (stop_on_duplicate and known) or float(residual.norm()) < threshold:
            break
    return acts


def unit_rows(seed: int, d_sae: int, d: int) -> Tensor:
    rows = normal(seed, d_sae, d)
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize(
    "pursuit",
    [
        MatchingPursuit(),
        MatchingPursuit(max_iterations=3),
        MatchingPursuit(residual_threshold=1.5),
        MatchingPursuit(residual_threshold=0, stop_on_duplicate_support=False, max_iterations=25),
    ],
    ids=["default", "three-steps", "coarse", "no-stop"],
)
@pytest.mark.parametrize(("n", "d_in", "d_sae"), [(13, 11, 53), (1, 2, 3), (0, 4, 5)])
def test_the_pursuit_of_each_token(n: int, d_in: int, d_sae: int, pursuit: MatchingPursuit) -> None:
    """Every stopping rule gives what pursuing one token after another gives."""
    x, W_dec = 3 * normal(1, n, d_in), unit_rows(2, d_sae, d_in)
    rules = (pursuit.max_iterations or d_in, pursuit.residual_threshold, pursuit.stop_on_duplicate_support)

    acts = encode_matching_pursuit(x, prepare_encoder(W_dec.T), pursuit)

    assert_well_formed(acts)
    expected = torch.stack([pursue(row, W_dec, *rules) for row in x]) if n else torch.zeros(0, d_sae)
    torch.testing.assert_close(acts.to_dense(), expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reference.matching_pursuit(x, W_dec, pursuit), expected.float(), rtol=1e-5, atol=1e-5)
    assert bool((acts.values > 0).all())


def test_every_dtype_pursues_alike(dtype: torch.dtype) -> None:
    """In each dtype the pursuit is the reference's on the same weights."""
    x, W_dec = normal(1, 9, 12).to(dtype), unit_rows(2, 40, 12).to(dtype)
    pursuit = MatchingPursuit(max_iterations=4)

    acts = encode_matching_pursuit(x, prepare_encoder(W_dec.T), pursuit)

    torch.testing.assert_close(acts.to_dense(), reference.matching_pursuit(x, W_dec, pursuit))
    assert acts.values.dtype == torch.promote_types(dtype, torch.float32)


def test_orthogonal_rows_are_found_exactly() -> None:
    """Over an orthonormal dictionary the pursuit ends with the positive coordinates, and the rest stays unexplained."""
    x = torch.tensor([[2.0, -1.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0]])

    acts = encode_matching_pursuit(x, prepare_encoder(torch.eye(4)), UNBOUNDED)

    assert torch.equal(acts.to_dense(), x.relu())
    assert acts.l0 == 1.0


def test_the_bias_comes_back_only_where_it_was_subtracted() -> None:
    """Tied weights: b_dec plays no part unless apply_b_dec_to_input."""
    x, W_dec, b_dec = normal(1, 2, 3, 6), unit_rows(2, 20, 6), normal(3, 6)
    for applied in (True, False):
        sae = SAE(
            SAEConfig(architecture="matching_pursuit", d_in=6, d_sae=20, apply_b_dec_to_input=applied), W_dec=W_dec, b_dec=b_dec
        )
        shift = b_dec if applied else torch.zeros(6)
        expected = torch.stack([pursue(row - shift, W_dec, 6, 0.01, True) for row in x.flatten(0, 1)]).float().reshape(2, 3, 20)

        torch.testing.assert_close(sae.encode(x).to_dense(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sae(x), expected @ W_dec + shift, rtol=1e-5, atol=1e-5)
        assert torch.equal(sae.W_enc, W_dec.T)
        assert sorted(sae.tensors()) == ["W_dec", "b_dec"]


def test_gradients_are_those_of_the_definition() -> None:
    """The values are differentiable in input and weights; the choice of rows is not."""
    x, W_dec = normal(1, 5, 6).double().requires_grad_(), unit_rows(2, 20, 6).double().requires_grad_()
    pursuit = MatchingPursuit(max_iterations=3)

    encode_matching_pursuit(x, prepare_encoder(W_dec.T), pursuit).to_dense().square().sum().backward()

    got = (x.grad, W_dec.grad)
    x.grad = W_dec.grad = None
    reference.matching_pursuit(x, W_dec, pursuit).square().sum().backward()
    torch.testing.assert_close(got, (x.grad, W_dec.grad))


def test_what_cannot_be() -> None:
    """A transcoder, a negative threshold, no iterations, and folding are refused."""
    base = {"architecture": "matching_pursuit", "d_in": 6, "d_sae": 20}
    for changes in ({"transcoder": True}, {"d_out": 5}, {"skip": True}, {"hook_names_out": ("a", "b")}):
        with pytest.raises(ArgumentError, match="matching_pursuit reconstructs its own input"):
            SAEConfig(**(base | changes))
    for pursuit in (MatchingPursuit(residual_threshold=-1), MatchingPursuit(max_iterations=0)):
        with pytest.raises(ArgumentError, match="pursuit: expected a threshold of at least 0"):
            SAEConfig(**base, pursuit=pursuit)
    with pytest.raises(ArgumentError, match="pursuit: expected None for an SAE of architecture standard"):
        SAEConfig(architecture="standard", d_in=6, d_sae=20, pursuit=MatchingPursuit())
    sae = SAE(SAEConfig(**base), W_dec=unit_rows(2, 20, 6), b_dec=torch.zeros(6))
    with pytest.raises(ArgumentError, match="fold_decoder_norm would change what a matching_pursuit SAE selects"):
        sae.fold_decoder_norm()
    with pytest.raises(ArgumentError, match="W_dec: an SAE of architecture matching_pursuit needs it"):
        SAE(SAEConfig(**base), b_dec=torch.zeros(6))
