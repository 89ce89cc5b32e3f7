"""What the backward pass computes on active features only, beside the dense products that autograd takes.

The dense contenders start from dense [n, d_sae] activations or gradients and give dense ones.
"""

from collections.abc import Callable

import pytest
from torch import Tensor

from sae_fast import ops
from sae_fast.sparse import SparseActs
from sae_fast.testing import Case, Inputs

from .conftest import relative_error

CONTENDERS = ["sae_fast", "dense"]


@pytest.fixture(scope="session")
def acts(case: Case, operands: Inputs) -> SparseActs:
    """The k largest activations of each token."""
    return ops.encode_topk(operands.x, operands.W_enc, operands.b_enc, case.k)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.benchmark(group="sampled_dot")
def bench_sampled_dot(contender: str, acts: SparseActs, operands: Inputs, run: Callable[..., None]) -> None:
    """The gradient of decode by the activations; x stands for the gradient of the reconstruction."""
    rows, entries = ops.prepare_decoder(operands.W_dec).rows, (acts.row_indices(), acts.col_indices.long())
    exact = ops.sampled_dot(acts, operands.x.double(), rows.double())

    def error(result: Tensor) -> float:
        return relative_error(result if contender == "sae_fast" else result[entries], exact)

    contenders: dict[str, Callable[[], Tensor]] = {
        "sae_fast": lambda: ops.sampled_dot(acts, operands.x, rows),
        "dense": lambda: operands.x @ rows.T,
    }
    run(contenders[contender], error)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.benchmark(group="weight_gradient")
def bench_weight_gradient(contender: str, acts: SparseActs, operands: Inputs, run: Callable[..., None]) -> None:
    """The gradient of decode by W_dec, the order by feature included."""
    dense = acts.to_dense()
    exact = dense.double().T @ operands.x.double()
    contenders: dict[str, Callable[[], Tensor]] = {
        "sae_fast": lambda: ops.weight_gradient(ops.transpose(acts), operands.x),
        "dense": lambda: dense.T @ operands.x,
    }
    run(contenders[contender], lambda gradient: relative_error(gradient, exact))


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.benchmark(group="bias_gradient")
def bench_bias_gradient(contender: str, acts: SparseActs, run: Callable[..., None]) -> None:
    """The sum of each feature's values, the order by feature included."""
    dense = acts.to_dense()
    exact = dense.double().sum(0)
    contenders: dict[str, Callable[[], Tensor]] = {
        "sae_fast": lambda: ops.bias_gradient(ops.transpose(acts)),
        "dense": lambda: dense.sum(0),
    }
    run(contenders[contender], lambda gradient: relative_error(gradient, exact))
