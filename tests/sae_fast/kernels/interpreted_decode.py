"""decode and decode_error in Triton's interpreter against the reference."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sae_fast import ops, reference
from sae_fast.kernels import _dense
from sae_fast.kernels._gather import Cut
from sae_fast.kernels.decode import decode, gathered
from sae_fast.kernels.decode_error import decode_error, gathered_error
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs
from sae_fast.testing import CASES, ROUNDED_CASES, Case, Inputs, assert_as_accurate

KERNEL_CASES = [case for case in CASES if case.dtype != torch.float64]
by_case = pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
by_rounded_case = pytest.mark.parametrize("case", ROUNDED_CASES, ids=str)

PATHS: dict[str, Callable[[SparseActs, Prepared, Tensor], Tensor]] = {
    "gathered": lambda acts, W, b: gathered(acts, W, b, Cut(512, 1)),
    "split": lambda acts, W, b: gathered(acts, W, b, Cut(128, 3)),
    "dense": _dense.decode,
}
by_path = pytest.mark.parametrize("path", PATHS)

pytestmark = pytest.mark.usefixtures("_poisoned")


def ragged(case: Case) -> tuple[SparseActs, Inputs]:
    """Rows of all lengths: empty ones, full ones, and what exceeds the threshold in the others; negative values too."""
    operands = case.inputs()
    acts = reference.encode_threshold(operands.x, operands.W_enc, operands.b_enc, operands.threshold - 4)
    dense = acts.to_dense()
    dense[::5], dense[3::7] = 0, torch.arange(case.d_sae) % 5 - 2.0
    return SparseActs.from_dense(dense), operands


@by_case
@by_path
def test_decode_equals_the_reference(path: str, case: Case) -> None:
    """Where arithmetic is exact every way to decode gives the reference's reconstruction, for rows of all lengths."""
    acts, operands = ragged(case)

    x_hat = PATHS[path](acts, ops.prepare_decoder(operands.W_dec), operands.b_dec)

    assert x_hat.dtype == torch.float32
    assert torch.equal(x_hat, reference.decode(acts, operands.W_dec, operands.b_dec))


@by_case
@pytest.mark.parametrize("chosen", [False, True], ids=["gathered", "chosen"])
def test_decode_error_equals_the_reference(chosen: bool, case: Case) -> None:
    """Squared errors are those of the reference up to the order of the sum."""
    acts, operands = ragged(case)
    weights = ops.prepare_decoder(operands.W_dec)

    if chosen:
        error = decode_error(acts, weights, operands.b_dec, operands.x)
    else:
        error = gathered_error(acts, weights, operands.b_dec, operands.x, Cut(256, 1))

    expected = reference.decode_error(acts, operands.W_dec.double(), operands.b_dec, operands.x)
    assert error.dtype == torch.float32
    assert torch.allclose(error.double(), expected, rtol=1e-6, atol=0)


@by_rounded_case
@by_path
def test_decode_is_as_accurate_as_plain_pytorch(path: str, case: Case) -> None:
    """With rounded products the error against float64 is at most that of a float32 matrix product."""
    operands = case.inputs()
    acts = reference.encode_topk(operands.x, operands.W_enc, operands.b_enc, case.k)

    x_hat = PATHS[path](acts, ops.prepare_decoder(operands.W_dec), operands.b_dec)

    dense = acts.to_dense()
    plain = dense @ operands.W_dec.float() + operands.b_dec
    assert_as_accurate(x_hat, plain, dense.double() @ operands.W_dec.double() + operands.b_dec.double())


@by_rounded_case
def test_decode_error_is_as_accurate_as_plain_pytorch(case: Case) -> None:
    """So is the squared error."""
    operands = case.inputs()
    acts = reference.encode_topk(operands.x, operands.W_enc, operands.b_enc, case.k)

    error = decode_error(acts, ops.prepare_decoder(operands.W_dec), operands.b_dec, operands.x)

    plain = operands.x.float() - (acts.to_dense() @ operands.W_dec.float() + operands.b_dec)
    exact = operands.x.double() - (acts.to_dense().double() @ operands.W_dec.double() + operands.b_dec.double())
    assert_as_accurate(error, plain.square().sum(1), exact.square().sum(1))


@pytest.mark.parametrize("d_out", [1, 3, 130, 257])
def test_decode_into_another_width(d_out: int) -> None:
    """A transcoder writes another width than it reads; no width needs to divide anything."""
    case = replace(CASES[3], d_in=d_out)
    acts, operands = ragged(case)

    x_hat = decode(acts, ops.prepare_decoder(operands.W_dec), operands.b_dec)

    assert torch.equal(x_hat, reference.decode(acts, operands.W_dec, operands.b_dec))


def test_no_entries_give_the_bias() -> None:
    """Tokens without an active feature, and no tokens at all."""
    W_dec, b_dec = torch.ones(13, 5), torch.arange(5.0)
    for n in (0, 3):
        acts = SparseActs.from_dense(torch.zeros(n, 13))
        assert torch.equal(decode(acts, ops.prepare_decoder(W_dec), b_dec), b_dec.repeat(n, 1))
        assert torch.equal(decode_error(acts, ops.prepare_decoder(W_dec), b_dec, b_dec.repeat(n, 1)), torch.zeros(n))


def test_weights_of_inactive_features_are_never_read() -> None:
    """NaN in a decoder row reaches only the tokens on which that feature is active."""
    acts, operands = ragged(CASES[0])
    W_dec = operands.W_dec.clone()
    W_dec[50] = float("nan")

    x_hat = decode(acts, ops.prepare_decoder(W_dec), operands.b_dec)

    active = acts.to_dense()[:, 50] != 0
    assert torch.equal(x_hat.isnan().any(1), active)


def test_the_dense_way_keeps_all_bits_of_an_activation() -> None:
    """Three bfloat16 numbers hold a float32 activation exactly."""
    values = torch.tensor([1 + 2**-23, 3.1415927, -1e-20, 2.0**60 * (1 - 2**-24)])
    acts = SparseActs.from_topk(torch.zeros(4, 1, dtype=torch.int64), values[:, None], d_sae=1)

    x_hat = _dense.decode(acts, ops.prepare_decoder(torch.ones(1, 1, dtype=torch.bfloat16)), torch.zeros(1))

    assert torch.equal(x_hat[:, 0], values)
