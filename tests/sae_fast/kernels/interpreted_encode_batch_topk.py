"""encode_batch_topk in Triton's interpreter against the reference."""

from dataclasses import replace

import pytest
import torch

from sae_fast import ops, reference
from sae_fast.kernels import _product
from sae_fast.kernels._choice import INTERPRETED, Choice
from sae_fast.kernels.encode_batch_topk import encode_batch_topk
from sae_fast.testing import CASES, ROUNDED_CASES, Case, assert_same_acts

GROUPS = Choice("groups", INTERPRETED)
CHUNKS = Choice("chunks", INTERPRETED)
KERNEL_CASES = [case for case in CASES if case.dtype != torch.float64]
FEW_ROWS = [replace(case, n=min(case.n, 3)) for case in KERNEL_CASES]

pytestmark = pytest.mark.usefixtures("_poisoned")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens to a block, so that the level is carried over."""
    monkeypatch.setattr(_product, "LEAST_TOKENS", 2)
    monkeypatch.setattr(_product, "WORD_BYTES", 1)


def assert_equals_reference(case: Case, k: float, choice: Choice) -> None:
    operands = case.inputs()
    got = encode_batch_topk(operands.x, ops.prepare_encoder(operands.W_enc), operands.b_enc, k, choice=choice)
    assert_same_acts(got, reference.encode_batch_topk(operands.x, operands.W_enc, operands.b_enc, k))


@pytest.mark.parametrize("case", FEW_ROWS, ids=str)
def test_encode_batch_topk_equals_the_reference(case: Case) -> None:
    """Where arithmetic is exact, features and values are the reference's, ties included."""
    assert_equals_reference(case, min(case.k, case.d_sae), GROUPS)


@pytest.mark.parametrize("k", [0, 0.2, 1.5, 37])
def test_any_k(k: float) -> None:
    """Nothing, fewer than one to a token, a fraction, and all features."""
    assert_equals_reference(replace(FEW_ROWS[3], name="any", d_sae=37), k, GROUPS)


def test_products_into_chunks_equal_the_reference() -> None:
    """So do products into chunks."""
    assert_equals_reference(FEW_ROWS[0], FEW_ROWS[0].k, CHUNKS)


def test_rounded_inputs_choose_what_float64_chooses() -> None:
    """Features are those of float64, where no two values at the border are closer than float32 tells."""
    case = replace(ROUNDED_CASES[0], n=3)
    operands = case.inputs()
    got = encode_batch_topk(operands.x, ops.prepare_encoder(operands.W_enc), operands.b_enc, case.k, choice=GROUPS)
    exact = reference.encode_batch_topk(operands.x.double(), operands.W_enc.double(), operands.b_enc.double(), case.k)

    assert torch.equal(got.crow_indices, exact.crow_indices)
    assert torch.equal(got.col_indices, exact.col_indices)


@pytest.mark.slow
@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
@pytest.mark.parametrize("choice", [GROUPS, CHUNKS], ids=["groups", "chunks"])
def test_every_way_equals_the_reference(choice: Choice, case: Case) -> None:
    """The same with all rows, for both ways."""
    assert_equals_reference(case, case.k - 0.5, choice)
