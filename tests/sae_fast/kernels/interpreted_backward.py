"""Kernels of the backward pass, and transpose, in Triton's interpreter against the reference."""

import pytest
import torch

from sae_fast import reference
from sae_fast.kernels import weight_gradient as weight_gradient_module
from sae_fast.kernels.bias_gradient import bias_gradient
from sae_fast.kernels.sampled_dot import sampled_dot
from sae_fast.kernels.transpose import transpose
from sae_fast.kernels.weight_gradient import weight_gradient
from sae_fast.sparse import SparseActs
from sae_fast.testing import CASES, ROUNDED_CASES, Case, assert_as_accurate

by_case = pytest.mark.parametrize("case", [case for case in CASES if case.dtype != torch.float64], ids=str)

pytestmark = pytest.mark.usefixtures("_poisoned")


def ragged(case: Case) -> SparseActs:
    """Rows and columns of all lengths: empty ones, and full ones, and negative values."""
    operands = case.inputs()
    acts = reference.encode_threshold(operands.x, operands.W_enc, operands.b_enc, operands.threshold - 4)
    dense = acts.to_dense()
    dense[::5], dense[3::7] = 0, torch.arange(case.d_sae) % 5 - 2.0
    dense[:, 2::9] = 0
    return SparseActs.from_dense(dense)


@by_case
def test_sampled_dot_equals_the_reference(case: Case) -> None:
    """Every entry gets the product of its token's vector and its feature's row."""
    acts, operands = ragged(case), case.inputs()

    got = sampled_dot(acts, operands.x, operands.W_dec)

    assert got.dtype == torch.float32
    assert torch.equal(got, reference.sampled_dot(acts, operands.x, operands.W_dec))


@by_case
@pytest.mark.parametrize("limit", [None, 9], ids=["short", "long"])
def test_weight_gradient_equals_the_reference(limit: int | None, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every feature gets its sum, zero without entries, whether summed by one program or in parts."""
    if limit is not None:
        monkeypatch.setattr(weight_gradient_module, "SHORTEST_LONG", limit)
        monkeypatch.setattr(weight_gradient_module, "SPLITS", 3)
    operands, by_feature = case.inputs(), reference.transpose(ragged(case))

    got = weight_gradient(by_feature, operands.x)

    assert got.dtype == torch.float32
    assert torch.equal(got, reference.weight_gradient(by_feature, operands.x))


@by_case
def test_bias_gradient_and_transpose_equal_the_reference(case: Case) -> None:
    """Sums by feature, and the stable order by feature."""
    acts = ragged(case)
    by_feature, expected = transpose(acts), reference.transpose(acts)

    assert torch.equal(bias_gradient(expected), reference.bias_gradient(expected))
    for field in ("feature_ptr", "rows", "values"):
        assert torch.equal(getattr(by_feature, field), getattr(expected, field))
        assert getattr(by_feature, field).dtype == getattr(expected, field).dtype


@pytest.mark.parametrize("d_sae", [1, 2, 65535, 65536, 65537, 1 << 20])
def test_transpose_beyond_16_bits(d_sae: int) -> None:
    """Keys of 16 bits hold up to 65,536 features; more take 32."""
    features = torch.tensor([[0], [d_sae - 1], [d_sae // 2], [0], [d_sae - 1]])
    acts = SparseActs.from_topk(features, torch.arange(5.0)[:, None], d_sae)

    by_feature, expected = transpose(acts), reference.transpose(acts)

    for field in ("feature_ptr", "rows", "values"):
        assert torch.equal(getattr(by_feature, field), getattr(expected, field))


@pytest.mark.parametrize("case", ROUNDED_CASES, ids=str)
def test_sums_are_as_accurate_as_plain_pytorch(case: Case) -> None:
    """With rounded products, errors against float64 are at most those of float32 matrix products."""
    operands = case.inputs()
    acts = reference.encode_topk(operands.x, operands.W_enc, operands.b_enc, case.k)
    by_feature, dense = reference.transpose(acts), acts.to_dense()
    entries = (acts.row_indices(), acts.col_indices.long())

    dots = sampled_dot(acts, operands.x, operands.W_dec)
    plain, exact = operands.x.float() @ operands.W_dec.float().T, operands.x.double() @ operands.W_dec.double().T
    assert_as_accurate(dots, plain[entries], exact[entries])
    exact = dense.double().T @ operands.x.double()
    assert_as_accurate(weight_gradient(by_feature, operands.x), dense.T @ operands.x.float(), exact)
    assert_as_accurate(bias_gradient(by_feature), dense.sum(0), dense.double().sum(0))
