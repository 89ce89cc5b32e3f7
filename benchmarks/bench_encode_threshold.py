"""`encode_threshold` beside the dense JumpReLU, at a threshold that k features of a token exceed on average.

The dense contender forms [n, d_sae] and multiplies it by the mask of what fires, as SAELens does.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sae_fast import ops
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs
from sae_fast.testing import Case, Inputs

Contender = Callable[[Inputs, Prepared, Tensor], SparseActs | Tensor]


def dense(operands: Inputs, weights: Prepared, threshold: Tensor) -> Tensor:
    h = torch.addmm(operands.b_enc, operands.x, weights.matrix)
    return h.relu() * (h > threshold)


CONTENDERS: dict[str, Contender] = {
    "sae_fast": lambda operands, weights, threshold: ops.encode_threshold(operands.x, weights, operands.b_enc, threshold),
    "dense": dense,
}


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.benchmark(group="encode_threshold")
def bench_encode_threshold(contender: str, case: Case, operands: Inputs, run: Callable[..., None]) -> None:
    """All activations above the threshold."""
    weights = ops.prepare_encoder(operands.W_enc)
    h = operands.x.double() @ operands.W_enc.double() + operands.b_enc.double()
    level = float(h.flatten().topk(case.k * case.n).values[-1])
    threshold = torch.full((case.d_sae,), level)
    # What lies within rounding of the threshold may fall on either side.
    clear = (h - level).abs() > 1e-5 * float(h.abs().max())
    exact = torch.where(h > level, h, 0) * clear

    def error(result: SparseActs | Tensor) -> float:
        acts = result.to_dense() if isinstance(result, SparseActs) else result
        return float((acts * clear - exact).abs().max() / exact.max())

    run(lambda: CONTENDERS[contender](operands, weights, threshold), error, mean_l0=float((h > level).sum()) / case.n)
