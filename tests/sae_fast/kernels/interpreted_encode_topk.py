"""encode_topk in Triton's interpreter against the reference."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sae_fast import ops, reference
from sae_fast.errors import ImplementationUnavailableError
from sae_fast.kernels import _product, _select
from sae_fast.kernels import encode_topk as module
from sae_fast.kernels._choice import INTERPRETED, Choice
from sae_fast.kernels.encode_topk import encode_topk, expected_recall
from sae_fast.sparse import SparseActs
from sae_fast.testing import CASES, ROUNDED_CASES, Case, assert_as_accurate, assert_same_acts

GROUPS = Choice("groups", INTERPRETED)
CHUNKS = Choice("chunks", INTERPRETED)
KERNEL_CASES = [case for case in CASES if case.dtype != torch.float64]
FEW_ROWS = [replace(case, n=min(case.n, 3)) for case in KERNEL_CASES]

pytestmark = pytest.mark.usefixtures("_poisoned")


def encoded(case: Case, choice: Choice | None) -> tuple[SparseActs, SparseActs]:
    """(by the kernels, by the reference)."""
    operands = case.inputs()
    weights = ops.prepare_encoder(operands.W_enc)
    got = encode_topk(operands.x, weights, operands.b_enc, case.k, choice=choice)
    return got, reference.encode_topk(operands.x, operands.W_enc, operands.b_enc, case.k)


def of_rows(h: Tensor, k: int, choice: Choice | None = GROUPS, dtype: torch.dtype = torch.float16) -> SparseActs:
    """TopK of given pre-activations h [n, d_sae], exact in `dtype`: x is the identity."""
    n, d_sae = h.shape
    weights = ops.prepare_encoder(h.to(dtype))
    return encode_topk(torch.eye(n), weights, torch.zeros(d_sae), k, choice=choice)


def assert_topk_of(acts: SparseActs, h: Tensor, k: int) -> None:
    eye = torch.eye(len(h))
    assert_same_acts(acts, reference.encode_topk(eye, h, torch.zeros(h.shape[1]), k))


@pytest.mark.parametrize("case", FEW_ROWS, ids=str)
def test_encode_topk_equals_the_reference(case: Case) -> None:
    """Where arithmetic is exact, the product with group words gives the reference's features and values."""
    got, expected = encoded(case, GROUPS)

    assert_same_acts(got, expected)
    assert got.entries_per_row == case.k


@pytest.mark.parametrize("case", FEW_ROWS[:1] + FEW_ROWS[-2:], ids=str)
@pytest.mark.parametrize("choice", [CHUNKS, None], ids=["chunks", "whole-rows"])
def test_the_other_ways_equal_the_reference(choice: Choice | None, case: Case) -> None:
    """So do products into chunks, and whole rows, which serve a k too large for groups."""
    assert_same_acts(*encoded(case, choice))


@pytest.mark.slow
@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
@pytest.mark.parametrize("choice", [GROUPS, CHUNKS, None], ids=["groups", "chunks", "whole-rows"])
def test_every_way_equals_the_reference(choice: Choice | None, case: Case) -> None:
    """The same with all rows, for every way."""
    assert_same_acts(*encoded(case, choice))


def test_tensor_descriptors_equal_the_reference() -> None:
    """Operands copied by descriptor, with tiles that reach past every edge."""
    case = Case("descriptors", n=18, d_in=40, d_sae=70, k=3, dtype=torch.float16)

    assert_same_acts(*encoded(case, Choice("groups", INTERPRETED._replace(descriptors=True))))


def test_rows_with_more_candidates_than_slots_are_rescanned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose candidates do not fit are computed in full: together, and further ones each on its own."""
    monkeypatch.setattr(module, "slots", lambda k: 16)
    monkeypatch.setattr(module, "RESCAN_BYTES", 2 * 4 * 150)
    h = (torch.arange(5 * 150) * 7919 % 11).reshape(5, 150) - 2.0
    h[2] = -1

    assert_topk_of(of_rows(h, 20), h, 20)


def test_clustered_rows() -> None:
    """All of the largest in one group, more than two to a group, and near ties that 28 bits do not tell apart."""
    h = torch.zeros(3, 128, dtype=torch.float32)
    h[0, [2, 3, 10, 11, 18, 19, 26, 27]] = torch.tensor([8.0, 7, 6, 5, 4, 3, 2, 1])
    h[1, :64], h[1, 70] = 5.0, 6.0
    h[2] = 1 + torch.arange(128).flip(0) * 2.0**-23
    weights = ops.prepare_encoder(h)

    got = encode_topk(torch.eye(3), weights, torch.zeros(128), 6, choice=GROUPS)

    assert_topk_of(got, h, 6)


@pytest.mark.parametrize("case", [replace(case, n=4) for case in ROUNDED_CASES], ids=str)
def test_rounded_values_are_as_accurate_as_plain_pytorch(case: Case) -> None:
    """Features are those of float64 where no two values are closer than float32 tells, values as accurate as PyTorch's."""
    operands = case.inputs()
    got = encode_topk(operands.x, ops.prepare_encoder(operands.W_enc), operands.b_enc, case.k, choice=GROUPS)
    wide = [operand.double() for operand in (operands.x, operands.W_enc, operands.b_enc)]
    plain = reference.pre_acts(operands.x, operands.W_enc, operands.b_enc)
    exact = reference.encode_topk(wide[0], wide[1], wide[2], case.k)

    assert torch.equal(got.col_indices, exact.col_indices)
    chosen = (exact.row_indices(), exact.col_indices.long())
    assert_as_accurate(got.values, plain[chosen], exact.values)


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, from inside the interpreter
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_row_that_is_not_finite_leaves_the_others_alone(dtype: torch.dtype, bad: float) -> None:
    """Other rows are as without it, and its own indices lie in range."""
    case = Case("bad", n=3, d_in=6, d_sae=40, k=4, dtype=dtype)
    operands = case.inputs()
    x = operands.x.clone()
    x[1, 2] = bad

    got = encode_topk(x, ops.prepare_encoder(operands.W_enc), operands.b_enc, 4, choice=GROUPS)

    expected = reference.encode_topk(operands.x, operands.W_enc, operands.b_enc, 4)
    others = torch.tensor([True, False, True])
    assert_same_acts(got.rows(others), expected.rows(others))
    assert int(got.col_indices.min()) >= 0
    assert int(got.col_indices.max()) < 40


def test_tokens_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of tokens, the last one smaller, give what one block gives."""
    monkeypatch.setattr(_product, "LEAST_TOKENS", 3)
    monkeypatch.setattr(_product, "WORD_BYTES", 1)

    assert_same_acts(*encoded(Case("blocks", n=7, d_in=5, d_sae=70, k=4), GROUPS))


def test_approximate_finds_the_expected_share() -> None:
    """Of random features it finds `expected_recall`, within four standard deviations."""
    n, d_sae, k = 12, 512, 12
    h = torch.rand(n, d_sae, generator=torch.Generator().manual_seed(0)).half().float()
    weights = ops.prepare_encoder(h.half())
    found = encode_topk(torch.eye(n), weights, torch.zeros(d_sae), k, approximate=True).to_dense() > 0
    right = reference.encode_topk(torch.eye(n), h, torch.zeros(d_sae), k).to_dense() > 0

    recall = float((found & right).sum() / right.sum())

    expected = expected_recall(k, d_sae)
    assert 0.8 < expected < 0.95
    assert abs(recall - expected) < 4 * (expected * (1 - expected) / (n * k)) ** 0.5
    assert recall < 1


def test_double_precision_is_refused() -> None:
    """There is no kernel for float64 weights."""
    weights = ops.prepare_encoder(torch.ones(2, 3, dtype=torch.float64))

    with pytest.raises(ImplementationUnavailableError, match="float64"):
        encode_topk(torch.ones(1, 2), weights, torch.zeros(3), 1)


@pytest.mark.parametrize("slots", [512, 4096])
@pytest.mark.parametrize(("n_single", "n_flagged", "k"), [(30, 3, 17), (5, 0, 8), (0, 2, 40), (13, 1, 13)])
def test_finishing_ranks_candidates_wherever_they_lie(slots: int, n_single: int, n_flagged: int, k: int) -> None:
    """Singles lie from the front and flagged groups from the back, for few slots and for many, compared fewer at a time."""
    generator = torch.Generator().manual_seed(slots + n_single)
    places = [*range(n_single), *range(slots - 16 * n_flagged, slots)]
    values = torch.randint(0, 6, (len(places),), generator=generator).float()
    features = torch.randperm(3 * len(places), generator=generator)[: len(places)].int()
    bits, where = torch.full((1, slots), 2**30, dtype=torch.int32), torch.full((1, slots), 7, dtype=torch.int32)
    bits[0, places], where[0, places] = values.view(torch.int32), features
    counts = torch.tensor([[n_single, n_flagged]], dtype=torch.int32)
    out_features, out_values = torch.arange(k, dtype=torch.int32)[None].clone(), torch.zeros(1, k)

    _select.finish[(1,)](where, bits, counts, out_features, out_values, k, SLOTS=slots)

    dense = torch.zeros(1, 3 * len(places) + k)
    dense[0, features.long()] = values
    order = dense[0].sort(descending=True, stable=True).indices[:k].sort().values
    assert out_features[0].tolist() == order.tolist()
    assert torch.equal(out_values[0], dense[0, order])
