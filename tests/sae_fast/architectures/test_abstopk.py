import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operands import integers

from sae_fast.architectures import encode_abstopk, reference
from sae_fast.ops import prepare_encoder
from sae_fast.sae import SAE, SAEConfig
from sae_fast.testing import assert_well_formed


def by_magnitude(h: list[float], k: int) -> list[float]:
    """The definition in plain Python: sort by magnitude, then by feature."""
    largest = sorted(range(len(h)), key=lambda feature: (-abs(h[feature]), feature))[:k]
    return [value if feature in largest else 0.0 for feature, value in enumerate(h)]


@pytest.mark.parametrize(
    ("n", "d_in", "d_sae", "k"), [(31, 17, 101, 7), (1, 5, 13, 1), (11, 7, 37, 37), (4, 3, 1, 1), (0, 5, 13, 3)]
)
def test_the_largest_in_magnitude_keep_their_sign(n: int, d_in: int, d_sae: int, k: int, dtype: torch.dtype) -> None:
    """Features, ties and values are those of sorting |h|, of any size and dtype."""
    x, W_enc, b_enc = integers(1, n, d_in), integers(2, d_in, d_sae), integers(3, d_sae)

    acts = encode_abstopk(x.to(dtype), prepare_encoder(W_enc.to(dtype)), b_enc, k)

    assert_well_formed(acts)
    expected = torch.tensor([by_magnitude(row, k) for row in (x @ W_enc + b_enc).tolist()]).reshape(n, d_sae)
    assert torch.equal(acts.to_dense().float(), expected)
    assert acts.topk_view()[0].shape == (n, k)
    assert torch.equal(reference.abstopk(x.to(dtype), W_enc.to(dtype), b_enc, k).float(), expected)


@pytest.mark.parametrize("n_positive", [0, 2, 5])
@pytest.mark.parametrize("n_negative", [0, 1, 4])
def test_rows_of_few_values_are_filled_with_the_lowest_unused_features(n_positive: int, n_negative: int) -> None:
    """With fewer than k pre-activations other than zero, the row stores zeros at the lowest features that are left."""
    k, d_sae = 8, 12
    h = torch.zeros(d_sae)
    h[:n_positive] = 1.0 + torch.arange(n_positive)
    h[2 * n_positive : 2 * n_positive + 2 * n_negative : 2] = -1.5
    fired = h.nonzero()[:, 0].tolist()
    unused = [feature for feature in range(d_sae) if feature not in fired]

    acts = encode_abstopk(torch.ones(1, 1), prepare_encoder(h[None]), torch.zeros(d_sae), k)

    expected = sorted(fired[:k] + unused[: max(0, k - len(fired))])
    assert acts.col_indices.tolist()[:k] == expected if len(fired) <= k else len(acts.col_indices) == k
    assert_well_formed(acts)


def test_gradients_reach_input_and_weights() -> None:
    """The encoding is differentiable, and its gradient is that of the chosen pre-activations."""
    x, W_enc, b_enc = (integers(seed, *shape).double() for seed, shape in ((1, (3, 4)), (2, (4, 9)), (3, (9,))))
    x, W_enc = (x + 0.1).requires_grad_(), W_enc.requires_grad_()

    encode_abstopk(x, prepare_encoder(W_enc), b_enc, 3).to_dense().square().sum().backward()

    got = (x.grad, W_enc.grad)
    x.grad = W_enc.grad = None
    reference.abstopk(x, W_enc, b_enc, 3).square().sum().backward()
    torch.testing.assert_close(got, (x.grad, W_enc.grad))


@pytest.mark.parametrize("rescaled", [False, True])
def test_an_sae_of_this_architecture(rescaled: bool) -> None:
    """b_dec, the decoder norms and leading dimensions are treated as for topk; decode takes negative values."""
    cfg = SAEConfig(
        architecture="abstopk", d_in=6, d_sae=20, k=4, apply_b_dec_to_input=True, rescale_acts_by_decoder_norm=rescaled
    )
    W_enc, W_dec, b_enc, b_dec = integers(1, 6, 20), integers(2, 20, 6) + 0.5, integers(3, 20), integers(4, 6)
    x = integers(5, 2, 3, 6)
    norms = W_dec.norm(dim=1) if rescaled else torch.ones(20)
    h = ((x - b_dec) @ W_enc + b_enc) * norms
    expected = torch.tensor([by_magnitude(row, 4) for row in h.flatten(0, 1).tolist()]).reshape(2, 3, 20)

    sae = SAE(cfg, W_enc=W_enc, W_dec=W_dec, b_enc=b_enc, b_dec=b_dec)
    acts = sae.encode(x)

    torch.testing.assert_close(acts.to_dense(), expected)
    assert bool((acts.values < 0).any())
    torch.testing.assert_close(sae(x), (expected / norms) @ W_dec + b_dec)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=12), st.data())
def test_any_row_and_any_k(h: list[int], data: st.DataObject) -> None:
    """Ties, zeros and signs in every mixture: the definition, and k distinct features in order."""
    k = data.draw(st.integers(1, len(h)))

    acts = encode_abstopk(torch.ones(1, 1), prepare_encoder(torch.tensor([h]).float()), torch.zeros(len(h)), k)

    assert_well_formed(acts)
    assert acts.nnz == k
    assert acts.to_dense()[0].tolist() == by_magnitude([float(value) for value in h], k)
