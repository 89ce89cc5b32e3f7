"""`decode`, `decode_error` and `transpose` of k active features per token, beside dense and sparse matrix products.

The dense contender starts from dense activations, which its encoder has; `torch_sparse` is torch's own CSR product.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sae_fast import ops
from sae_fast.sparse import FeatureMajor, SparseActs
from sae_fast.testing import Case, Inputs

from .conftest import relative_error


def decoders(acts: SparseActs, operands: Inputs) -> dict[str, Callable[[], Tensor]]:
    weights, b_dec = ops.prepare_decoder(operands.W_dec), operands.b_dec
    dense, csr = acts.to_dense(), acts.to_torch()
    return {
        "sae_fast": lambda: ops.decode(acts, weights, b_dec),
        "dense": lambda: torch.addmm(b_dec, dense, weights.matrix),
        "torch_sparse": lambda: csr @ weights.matrix + b_dec,
    }


@pytest.fixture(scope="session")
def acts(case: Case, operands: Inputs) -> SparseActs:
    """The k largest activations of each token."""
    return ops.encode_topk(operands.x, operands.W_enc, operands.b_enc, case.k)


@pytest.fixture(scope="session")
def exact(acts: SparseActs, operands: Inputs) -> Tensor:
    """The reconstruction in float64."""
    return ops.decode(acts.to(dtype=torch.float64), operands.W_dec.double(), operands.b_dec.double())


@pytest.mark.parametrize("contender", ["sae_fast", "dense", "torch_sparse"])
@pytest.mark.benchmark(group="decode")
def bench_decode(contender: str, acts: SparseActs, exact: Tensor, operands: Inputs, run: Callable[..., None]) -> None:
    """Reconstructions."""
    run(decoders(acts, operands)[contender], lambda x_hat: relative_error(x_hat, exact))


@pytest.mark.parametrize("contender", ["sae_fast", "dense"])
@pytest.mark.benchmark(group="decode_error")
def bench_decode_error(contender: str, acts: SparseActs, exact: Tensor, operands: Inputs, run: Callable[..., None]) -> None:
    """Squared errors of the reconstructions."""
    weights, x = ops.prepare_decoder(operands.W_dec), operands.x
    dense = decoders(acts, operands)["dense"]
    contenders: dict[str, Callable[[], Tensor]] = {
        "sae_fast": lambda: ops.decode_error(acts, weights, operands.b_dec, x),
        "dense": lambda: (x - dense()).square().sum(1),
    }
    exact_error = (x.double() - exact).square().sum(1)
    run(contenders[contender], lambda error: relative_error(error, exact_error))


@pytest.mark.parametrize("contender", ["sae_fast", "sort"])
@pytest.mark.benchmark(group="transpose")
def bench_transpose(contender: str, acts: SparseActs, run: Callable[..., None]) -> None:
    """Entries by feature; `sort` is torch's stable sort."""
    contenders: dict[str, Callable[[], FeatureMajor]] = {
        "sae_fast": lambda: ops.transpose(acts),
        "sort": lambda: ops.transpose(acts, impl="reference"),
    }
    expected = ops.transpose(acts, impl="reference")

    def error(result: FeatureMajor) -> float:
        same = torch.equal(result.rows, expected.rows) and torch.equal(result.values, expected.values)
        return 0.0 if same else float("inf")

    run(contenders[contender], error, nnz=acts.nnz)
