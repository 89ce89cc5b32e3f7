"""Gradients through the kernels, in Triton's interpreter, against those of the dense reference."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sae_fast import ops
from sae_fast.sparse import SparseActs
from sae_fast.testing import Case, Inputs

NAMES = ("x", "W_enc", "b_enc", "gain", "offset", "W_dec", "b_dec")

CASES = (
    Case("small", n=7, d_in=5, d_sae=37, k=3),
    Case("none-active", n=3, d_in=5, d_sae=37, k=3, kind="negative"),
    Case("no-token", n=0, d_in=5, d_sae=37, k=3),
    pytest.param(Case("float16", n=7, d_in=5, d_sae=37, k=3, dtype=torch.float16), marks=pytest.mark.slow),
)

ENCODERS: dict[str, Callable[[Inputs, int, ops.Impl], SparseActs]] = {
    "encode_topk": lambda i, k, impl: ops.encode_topk(i.x, i.W_enc, i.b_enc, k, impl=impl),
    "encode_threshold": lambda i, k, impl: ops.encode_threshold(
        i.x, i.W_enc, i.b_enc, i.threshold, i.gain, i.offset, impl=impl
    ),
    "encode_batch_topk": lambda i, k, impl: ops.encode_batch_topk(i.x, i.W_enc, i.b_enc, k, impl=impl),
}


def gradients(case: Case, encoder: str, impl: ops.Impl) -> dict[str, Tensor | None]:
    """Of a sum over activations, reconstructions and errors; exact in float32."""
    operands = case.inputs()
    for name in NAMES:
        getattr(operands, name).requires_grad_()
    acts = ENCODERS[encoder](operands, case.k, impl)
    x_hat = ops.decode(acts, operands.W_dec, operands.b_dec, impl=impl)
    error = ops.decode_error(acts, operands.W_dec, operands.b_dec, operands.x, impl=impl)
    weights = torch.arange(x_hat.numel()).reshape(x_hat.shape) % 3 - 1
    ((x_hat * weights).sum() + error.sum() + (acts.values * (torch.arange(acts.nnz) % 5)).sum()).backward()
    return {name: getattr(operands, name).grad for name in NAMES}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_gradients_through_kernels_equal_the_reference(encoder: str, case: Case) -> None:
    """Encoding, decoding and the backward of both by kernels give the gradients of the dense computation."""
    got = gradients(case, encoder, "triton")

    for name, expected in gradients(case, encoder, "reference").items():
        gradient = got[name]
        assert (gradient is None) == (expected is None)
        assert expected is None or gradient is not None
        if gradient is not None and expected is not None:
            assert torch.equal(gradient, expected), name
