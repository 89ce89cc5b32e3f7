"""The backward pass on active features only beside the dense products that autograd takes, under pytest-benchmark.

`bench_training_step` is the whole of it: top-k encode, decode, squared error, and gradients by all weights. The dense contender
is what SAELens trains with: addmm, topk, scatter, addmm.
"""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.bench_operations import DEVICE, SIZES, operands
from benchmarks.operands import Operands
from benchmarks.sizes import Size
from sae_fast import ops

Function = Callable[[], Tensor]

by_size = pytest.mark.parametrize("size", SIZES, ids=str)
by_contender = pytest.mark.parametrize("contender", ["sae_fast", "dense"])

RELATIVE_ERROR = 2e-5
"""Of a gradient in float32 against float64."""


def check_and_time(benchmark: BenchmarkFixture, function: Function, expected: Tensor) -> None:
    """Time `function` after its result was found right."""
    error = float((function().double() - expected.double()).norm() / expected.double().norm())
    assert error < RELATIVE_ERROR, f"wrong result: relative error {error:.3g}"
    benchmark.extra_info["relative_error"] = error

    def synchronised() -> None:
        function()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(synchronised, rounds=5, warmup_rounds=1)


def of(size: Size) -> Operands:
    return operands(size, "fp32", DEVICE)


@by_size
@by_contender
@pytest.mark.benchmark(group="sampled_dot")
def bench_sampled_dot(benchmark: BenchmarkFixture, contender: str, size: Size) -> None:
    """The gradient of decode by the activations; x stands for the gradient of the reconstruction."""
    o = of(size)
    acts, rows, x = o.acts, o.decoder.rows, o.x[0]
    entries = (acts.row_indices(), acts.col_indices.long())
    contenders: dict[str, Function] = {
        "sae_fast": lambda: ops.sampled_dot(acts, x, rows),
        "dense": lambda: (x @ rows.T)[entries],
    }
    check_and_time(benchmark, contenders[contender], ops.sampled_dot(acts, x.double(), rows.double(), impl="torch"))


@by_size
@by_contender
@pytest.mark.benchmark(group="weight_gradient")
def bench_weight_gradient(benchmark: BenchmarkFixture, contender: str, size: Size) -> None:
    """The gradient of decode by W_dec, the order by feature included."""
    o = of(size)
    acts, dense, x = o.acts, o.dense_acts, o.x[0]
    contenders: dict[str, Function] = {
        "sae_fast": lambda: ops.weight_gradient(ops.transpose(acts), x),
        "dense": lambda: dense.T @ x,
    }
    check_and_time(benchmark, contenders[contender], dense.T @ x)


@by_size
@by_contender
@pytest.mark.benchmark(group="bias_gradient")
def bench_bias_gradient(benchmark: BenchmarkFixture, contender: str, size: Size) -> None:
    """The sum of each feature's values, the order by feature included."""
    acts, dense = of(size).acts, of(size).dense_acts
    contenders: dict[str, Function] = {
        "sae_fast": lambda: ops.bias_gradient(ops.transpose(acts)),
        "dense": lambda: dense.sum(0),
    }
    check_and_time(benchmark, contenders[contender], dense.sum(0))


@by_size
@by_contender
@pytest.mark.benchmark(group="training step")
def bench_training_step(benchmark: BenchmarkFixture, contender: str, size: Size) -> None:
    """Forward and backward of the squared error of a top-k SAE; the gradient by W_dec is compared."""
    o = of(size)
    x, k = o.x[0], size.k
    rows, W_dec, b_enc, b_dec = (t.detach().clone().requires_grad_() for t in (o.rows, o.W_dec, o.b_enc, o.b_dec))

    def sparse_loss() -> Tensor:
        acts = ops.encode_topk(x, rows.T, b_enc, k)
        return ops.decode_error(acts, W_dec, b_dec, x).mean()

    def dense_loss() -> Tensor:
        h = torch.addmm(b_enc, x, rows.T)
        values, indices = h.topk(k, dim=1)
        acts = torch.zeros_like(h).scatter(1, indices, values.relu())
        return (x - torch.addmm(b_dec, acts, W_dec)).square().sum(1).mean()

    losses: dict[str, Function] = {"sae_fast": sparse_loss, "dense": dense_loss}

    def step(loss: Function) -> Tensor:
        return torch.autograd.grad(loss(), [W_dec, rows, b_enc, b_dec])[0]

    check_and_time(benchmark, lambda: step(losses[contender]), step(dense_loss))
