"""What all benchmarks share: operands, and timing that starts only after the result was checked.

Run with `make bench`; `ARGS="--benchmark-json=FILE benchmarks"` writes the numbers to a file.
"""

import os
import platform
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from sae_fast.testing import BENCHMARK_CASES, Case, Inputs

Run = Callable[..., None]


@pytest.fixture(params=BENCHMARK_CASES, ids=str, scope="session")
def case(request: pytest.FixtureRequest) -> Case:
    """One size."""
    chosen: Case = request.param
    return chosen


@pytest.fixture(scope="session")
def operands(case: Case) -> Inputs:
    """The operands of that size."""
    return case.inputs()


@pytest.fixture
def run(benchmark: BenchmarkFixture, case: Case) -> Run:
    """Check, then time: `run(contender, error, result_bytes=...)`.

    `error(result)` is the largest difference from the float64 result relative to its largest value; it is recorded, and one
    that float32 cannot explain stops the benchmark before it has produced a time.
    """

    def check_and_time(contender: Callable[[], Any], error: Callable[[Any], float], **recorded: object) -> None:
        relative_error = error(contender())
        allowed = torch.finfo(torch.float32).eps * max(case.d_in, case.k)
        assert relative_error <= allowed, f"wrong result: relative error {relative_error:.3g}"
        benchmark.extra_info.update(recorded, **machine(), n_tokens=case.n, relative_error=relative_error)
        with torch.no_grad():
            benchmark.pedantic(contender, rounds=5, warmup_rounds=1)
        if benchmark.stats is not None:
            benchmark.extra_info["tokens_per_s"] = round(case.n / benchmark.stats.stats.median)

    return check_and_time


def machine() -> dict[str, object]:
    """What the times depend on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "n_cores": os.cpu_count(),
        "n_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def relative_error(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest difference, relative to the largest exact value."""
    return float((got.double() - exact).abs().max() / exact.abs().max())
