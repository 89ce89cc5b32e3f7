"""The specification against plain loops over Python numbers."""

import math

import pytest
import torch

from sae_fast import reference
from sae_fast.testing import CASES, Case, assert_well_formed

SMALL = [case for case in CASES if case.n * case.d_sae < 600]
by_case = pytest.mark.parametrize("case", SMALL, ids=str)


def pre_acts(case: Case) -> list[list[float]]:
    """X @ W_enc + b_enc as lists of Python floats."""
    operands = case.inputs()
    x, W_enc, b_enc = operands.x.tolist(), operands.W_enc.tolist(), operands.b_enc.tolist()
    columns = range(case.d_sae)
    return [[math.fsum(row[i] * W_enc[i][f] for i in range(case.d_in)) + b_enc[f] for f in columns] for row in x]


@by_case
def test_encode_topk_takes_the_largest_and_breaks_ties_downwards(case: Case) -> None:
    """Each row holds the k features that come first by activation, then by index, zeros included."""
    operands = case.inputs()

    acts = reference.encode_topk(operands.x, operands.W_enc, operands.b_enc, case.k)

    assert_well_formed(acts)
    indices, values = acts.topk_view()
    for row, (found, found_values) in enumerate(zip(indices.tolist(), values.tolist(), strict=True)):
        activations = [max(h, 0.0) for h in pre_acts(case)[row]]
        expected = sorted(sorted(range(case.d_sae), key=lambda f: (-activations[f], f))[: case.k])
        assert found == expected
        assert found_values == [activations[f] for f in expected]


@by_case
def test_encode_threshold_fires_strictly_above(case: Case) -> None:
    """A feature fires where h > threshold, with value gain * h + offset."""
    operands = case.inputs()
    threshold, gain, offset = operands.threshold, operands.gain, operands.offset

    acts = reference.encode_threshold(operands.x, operands.W_enc, operands.b_enc, threshold, gain, offset)

    assert_well_formed(acts)
    expected = torch.zeros(case.n, case.d_sae)
    n_firing = 0
    for row, h in enumerate(pre_acts(case)):
        for f in range(case.d_sae):
            if h[f] > float(threshold[f]):
                expected[row, f] = float(gain[f]) * h[f] + float(offset[f])
                n_firing += 1
    assert torch.equal(acts.to_dense().float(), expected)
    assert acts.nnz == n_firing


def test_encode_threshold_at_the_threshold_does_not_fire() -> None:
    """H equal to the threshold is silent."""
    one = torch.ones(1)

    acts = reference.encode_threshold(torch.tensor([[1.0], [1.5]]), torch.ones(1, 1), torch.zeros(1), one)

    assert acts.to_dense().tolist() == [[0.0], [1.5]]


@by_case
def test_encode_batch_topk_takes_the_largest_of_the_batch(case: Case) -> None:
    """The floor(k n) largest positive activations of all tokens, ties to the earlier token, then the lower feature."""
    operands = case.inputs()
    k = case.k - 0.5

    acts = reference.encode_batch_topk(operands.x, operands.W_enc, operands.b_enc, k)

    assert_well_formed(acts)
    entries = [(-h, row, f) for row, values in enumerate(pre_acts(case)) for f, h in enumerate(values) if h > 0]
    expected = sorted((row, f) for _, row, f in sorted(entries)[: int(k * case.n)])
    assert list(zip(acts.row_indices().tolist(), acts.col_indices.tolist(), strict=True)) == expected


@by_case
def test_decode_and_its_error(case: Case) -> None:
    """x_hat is the weighted sum of decoder rows plus b_dec; the error is the squared distance to x."""
    operands = case.inputs()
    acts = reference.encode_topk(operands.x, operands.W_enc, operands.b_enc, case.k)

    x_hat = reference.decode(acts, operands.W_dec, operands.b_dec)
    error = reference.decode_error(acts, operands.W_dec, operands.b_dec, operands.x)

    dense, W_dec = acts.to_dense().tolist(), operands.W_dec.tolist()
    for row in range(case.n):
        expected = [
            math.fsum(dense[row][f] * W_dec[f][i] for f in range(case.d_sae)) + float(operands.b_dec[i])
            for i in range(case.d_in)
        ]
        assert x_hat[row].tolist() == expected
        distance = math.fsum((a - b) ** 2 for a, b in zip(expected, operands.x[row].tolist(), strict=True))
        assert float(error[row]) == pytest.approx(distance, rel=1e-6)


def test_narrow_weights_round_the_input_and_accumulate_in_float32() -> None:
    """With bfloat16 weights x is rounded to bfloat16, the products are exact and the result is float32."""
    x = torch.tensor([[1.0 + 2**-9, 1.0]])
    W_enc = torch.tensor([[1.0], [2**-12]], dtype=torch.bfloat16)

    h = reference.pre_acts(x, W_enc, torch.zeros(1))

    assert h.dtype == torch.float32
    assert h.item() == 1.0 + 2**-12


def test_topk_gradients_reach_the_selected_features_only() -> None:
    """Encode and decode are differentiable, and features that were not selected get no gradient."""
    case = CASES[0]
    operands = case.inputs()
    W_enc = operands.W_enc.clone().requires_grad_()

    acts = reference.encode_topk(operands.x, W_enc, operands.b_enc, case.k)
    reference.decode_error(acts, operands.W_dec, operands.b_dec, operands.x).sum().backward()

    touched = W_enc.grad.abs().sum(0) > 0  # type: ignore[union-attr]
    selected = torch.zeros(case.d_sae, dtype=torch.bool)
    selected[acts.col_indices[acts.values > 0].long()] = True
    assert bool(touched.any())
    assert not bool((touched & ~selected).any())
