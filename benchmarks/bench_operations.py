"""The operations beside their contenders, under pytest-benchmark: `make bench`.

Every function takes its contenders, and their checks, from where `python -m benchmarks` takes them.
"""

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.contenders import CONTENDERS, Contender, arithmetic
from benchmarks.correct import check
from benchmarks.operands import Operands, Precision, make
from benchmarks.sizes import CPU_SIZES, GPU_SIZES, Size

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = GPU_SIZES[:3] if DEVICE.type == "cuda" else CPU_SIZES[:2]

Run = Callable[[Contender, Size, Precision], None]

operands = lru_cache(maxsize=2)(make)


def by_contender(operation: str) -> pytest.MarkDecorator:
    """Each size, precision and contender of the operation that can run here."""
    cases = [
        pytest.param(contender, size, precision, id=f"{size}-{precision}-{contender.name}")
        for size in SIZES
        for contender in CONTENDERS
        for precision in contender.precisions
        if contender.operation == operation and contender.available(DEVICE) and (DEVICE.type == "cuda" or precision != "tf32")
    ]
    return pytest.mark.parametrize(("contender", "size", "precision"), cases)


@pytest.fixture
def run(benchmark: BenchmarkFixture) -> Run:
    """Check, then time."""

    def check_and_time(contender: Contender, size: Size, precision: Precision) -> None:
        o: Operands = operands(size, precision, DEVICE)
        with torch.no_grad(), arithmetic(precision):
            function = contender.build(o)
            found = check(contender, function(o.x[0]), o)
            benchmark.extra_info |= {"size": size.name, "precision": precision, "contender": contender.name}
            benchmark.extra_info |= {"checked": found is not None} | (vars(found) if found else {})
            benchmark.pedantic(lambda: _synchronised(function(o.x[1])), rounds=5, warmup_rounds=1)

    return check_and_time


def _synchronised(result: object) -> object:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return result


@by_contender("encode_topk")
@pytest.mark.benchmark(group="encode_topk")
def bench_encode_topk(run: Run, contender: Contender, size: Size, precision: Precision) -> None:
    """The k largest activations of each token."""
    run(contender, size, precision)


@by_contender("encode_threshold")
@pytest.mark.benchmark(group="encode_threshold")
def bench_encode_threshold(run: Run, contender: Contender, size: Size, precision: Precision) -> None:
    """All activations above their thresholds."""
    run(contender, size, precision)


@by_contender("encode_batch_topk")
@pytest.mark.benchmark(group="encode_batch_topk")
def bench_encode_batch_topk(run: Run, contender: Contender, size: Size, precision: Precision) -> None:
    """The k n largest activations of the batch."""
    run(contender, size, precision)


@by_contender("decode")
@pytest.mark.benchmark(group="decode")
def bench_decode(run: Run, contender: Contender, size: Size, precision: Precision) -> None:
    """Reconstructions from k active features per token."""
    run(contender, size, precision)


@by_contender("decode_error")
@pytest.mark.benchmark(group="decode_error")
def bench_decode_error(run: Run, contender: Contender, size: Size, precision: Precision) -> None:
    """Squared errors of the reconstructions."""
    run(contender, size, precision)


@by_contender("transpose")
@pytest.mark.benchmark(group="transpose")
def bench_transpose(run: Run, contender: Contender, size: Size, precision: Precision) -> None:
    """Entries by feature."""
    run(contender, size, precision)


@by_contender("reconstruct")
@pytest.mark.benchmark(group="reconstruct")
def bench_reconstruct(run: Run, contender: Contender, size: Size, precision: Precision) -> None:
    """Encode and decode."""
    run(contender, size, precision)
