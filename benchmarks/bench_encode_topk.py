"""Top-k encoders: `encode_topk` and `encode_batch_topk` beside the dense ways to the same activations.

The dense contenders form [n, d_sae], select with torch.topk and scatter into another [n, d_sae], as SAELens does. Weights are
prepared outside the timing.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sae_fast import ops
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs
from sae_fast.testing import Case, Inputs

Contender = Callable[[Inputs, Prepared, int], SparseActs | Tensor]


def dense_topk(operands: Inputs, weights: Prepared, k: int) -> Tensor:
    h = torch.addmm(operands.b_enc, operands.x, weights.matrix)
    values, indices = h.topk(k, dim=1, sorted=False)
    return torch.zeros_like(h).scatter_(1, indices, values.relu_())


def dense_batch_topk(operands: Inputs, weights: Prepared, k: int) -> Tensor:
    acts = torch.addmm(operands.b_enc, operands.x, weights.matrix).relu_()
    values, indices = acts.flatten().topk(k * len(acts), sorted=False)
    return torch.zeros_like(acts.flatten()).scatter_(0, indices, values).view_as(acts)


TOPK: dict[str, Contender] = {
    "sae_fast": lambda operands, weights, k: ops.encode_topk(operands.x, weights, operands.b_enc, k),
    "dense": dense_topk,
}
BATCH_TOPK: dict[str, Contender] = {
    "sae_fast": lambda operands, weights, k: ops.encode_batch_topk(operands.x, weights, operands.b_enc, k),
    "dense": dense_batch_topk,
}


@pytest.mark.parametrize("contender", TOPK)
@pytest.mark.benchmark(group="encode_topk")
def bench_encode_topk(contender: str, case: Case, operands: Inputs, run: Callable[..., None]) -> None:
    """The k largest activations of each token."""
    weights = ops.prepare_encoder(operands.W_enc)
    exact = exact_acts(operands).topk(case.k).values

    def error(result: SparseActs | Tensor) -> float:
        rows = result.topk_view()[1] if isinstance(result, SparseActs) else result.topk(case.k).values
        return float((rows.double().sort(descending=True).values - exact).abs().max() / exact.max())

    run(lambda: TOPK[contender](operands, weights, case.k), error, result_bytes=result_bytes(contender, case))


@pytest.mark.parametrize("contender", BATCH_TOPK)
@pytest.mark.benchmark(group="encode_batch_topk")
def bench_encode_batch_topk(contender: str, case: Case, operands: Inputs, run: Callable[..., None]) -> None:
    """The k n largest activations of the batch."""
    weights = ops.prepare_encoder(operands.W_enc)
    exact = exact_acts(operands).flatten().topk(case.k * case.n).values

    def error(result: SparseActs | Tensor) -> float:
        values = result.values if isinstance(result, SparseActs) else result[result != 0]
        return float((values.double().sort(descending=True).values - exact).abs().max() / exact.max())

    run(lambda: BATCH_TOPK[contender](operands, weights, case.k), error, result_bytes=result_bytes(contender, case))


def exact_acts(operands: Inputs) -> Tensor:
    """Dense activations in float64."""
    return (operands.x.double() @ operands.W_enc.double() + operands.b_enc.double()).relu()


def result_bytes(contender: str, case: Case) -> int:
    """Size of what is handed on: values, features and row pointer, or the dense matrix."""
    return case.n * case.k * 8 + (case.n + 1) * 8 if contender == "sae_fast" else case.n * case.d_sae * 4
