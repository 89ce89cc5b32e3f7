"""encode_threshold in Triton's interpreter against the reference."""

from dataclasses import replace

import pytest
import torch

from sae_fast import ops, reference
from sae_fast.kernels import _product
from sae_fast.kernels._choice import INTERPRETED, Choice
from sae_fast.kernels.encode_threshold import encode_threshold
from sae_fast.testing import CASES, ROUNDED_CASES, Case, assert_as_accurate, assert_same_acts

GROUPS = Choice("groups", INTERPRETED)
CHUNKS = Choice("chunks", INTERPRETED)
KERNEL_CASES = [case for case in CASES if case.dtype != torch.float64]
FEW_ROWS = [replace(case, n=min(case.n, 3)) for case in KERNEL_CASES]

pytestmark = pytest.mark.usefixtures("_poisoned")


def assert_equals_reference(case: Case, choice: Choice, lower: float = 0.0) -> None:
    """JumpReLU, and gated with gain and offset, at thresholds `lower` below those of the case."""
    operands = case.inputs()
    weights = ops.prepare_encoder(operands.W_enc)
    threshold = operands.threshold - lower
    for arguments in ((operands.b_enc, threshold), (operands.b_enc, threshold, operands.gain, operands.offset)):
        got = encode_threshold(operands.x, weights, *arguments, choice=choice)
        assert_same_acts(got, reference.encode_threshold(operands.x, operands.W_enc, *arguments))


@pytest.mark.parametrize("case", FEW_ROWS, ids=str)
def test_encode_threshold_equals_the_reference(case: Case) -> None:
    """Where arithmetic is exact, features and values are the reference's, those that equal their threshold left out."""
    assert_equals_reference(case, GROUPS)


@pytest.mark.parametrize("case", [FEW_ROWS[0], FEW_ROWS[-1]], ids=str)
def test_groups_with_many_hits(case: Case) -> None:
    """Where nearly every feature fires, negative values included, all are found in order."""
    assert_equals_reference(case, GROUPS, lower=20)


@pytest.mark.parametrize("case", [FEW_ROWS[0], FEW_ROWS[-1]], ids=str)
def test_products_into_chunks_equal_the_reference(case: Case) -> None:
    """So do products into chunks."""
    assert_equals_reference(case, CHUNKS)


@pytest.mark.slow
@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
@pytest.mark.parametrize("choice", [GROUPS, CHUNKS], ids=["groups", "chunks"])
def test_every_way_equals_the_reference(choice: Choice, case: Case) -> None:
    """The same with all rows, for both ways."""
    assert_equals_reference(case, choice)
    assert_equals_reference(case, choice, lower=20)


@pytest.mark.parametrize("case", [replace(case, n=4) for case in ROUNDED_CASES], ids=str)
def test_rounded_values_are_as_accurate_as_plain_pytorch(case: Case) -> None:
    """Features are those of float64 (no pre-activation here is within rounding of its threshold), values as accurate."""
    operands = case.inputs()
    threshold = operands.threshold.abs() + 8
    got = encode_threshold(operands.x, ops.prepare_encoder(operands.W_enc), operands.b_enc, threshold, choice=GROUPS)
    wide = [operand.double() for operand in (operands.x, operands.W_enc, operands.b_enc, threshold)]
    exact = reference.encode_threshold(wide[0], wide[1], wide[2], wide[3])
    plain = reference.pre_acts(operands.x, operands.W_enc, operands.b_enc)

    assert got.nnz > 10
    assert torch.equal(got.crow_indices, exact.crow_indices)
    assert torch.equal(got.col_indices, exact.col_indices)
    assert_as_accurate(got.values, plain[exact.row_indices(), exact.col_indices.long()], exact.values)


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, from inside the interpreter
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_row_that_is_not_finite_leaves_the_others_alone(dtype: torch.dtype, bad: float) -> None:
    """Other rows are as without it, and NaN fires nothing."""
    operands = Case("bad", n=3, d_in=6, d_sae=40, k=4, dtype=dtype).inputs()
    x = operands.x.clone()
    x[1, 2] = bad

    got = encode_threshold(x, ops.prepare_encoder(operands.W_enc), operands.b_enc, operands.threshold, choice=GROUPS)

    expected = reference.encode_threshold(operands.x, operands.W_enc, operands.b_enc, operands.threshold)
    others = torch.tensor([True, False, True])
    assert_same_acts(got.rows(others), expected.rows(others))
    assert not got.rows(slice(1, 2)).values.isnan().any()


def test_tokens_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of tokens, the last one smaller, give what one block gives."""
    monkeypatch.setattr(_product, "LEAST_TOKENS", 3)
    monkeypatch.setattr(_product, "WORD_BYTES", 1)

    assert_equals_reference(Case("blocks", n=7, d_in=5, d_sae=70, k=4), GROUPS)
