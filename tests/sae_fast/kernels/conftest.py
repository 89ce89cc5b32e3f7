"""Harness of the kernel tests. Three kinds of file lie here:

* `test_*.py` compiles kernels ahead of time (`compile_ahead.py`), and runs those marked `gpu` where there is one;
* `interpreted_*.py` runs kernels in Triton's interpreter, on CPU tensors. `test_interpreter.py` gives each such file a process
  of its own, since Triton decides at import. By hand: `TRITON_INTERPRET=1 python -m pytest tests/sae_fast/kernels/FILE`;
* `pytest.ini` makes the folder run without the rest of the tests: torch, triton and pytest are enough.
"""

import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # behind the others: theirs is the `conftest` that tests import


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the interpreter its tests are skipped; without a card, or with the interpreter, those that need one."""
    interpreting = os.environ.get("TRITON_INTERPRET") == "1"
    obstacle = _why_not_interpreted() if interpreting else "needs TRITON_INTERPRET=1, set before Python starts"
    for item in items:
        if HERE not in item.path.parents:
            continue
        if item.path.name.startswith("interpreted_") and obstacle:
            item.add_marker(pytest.mark.skip(reason=obstacle))
        if item.get_closest_marker("gpu") and (interpreting or not _has_cuda()):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def _poisoned() -> Iterator[None]:
    """`torch.empty` gives NaN, or the largest integer: what a kernel leaves unwritten shows."""
    import torch

    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the kernels compiled in this session need."""
    from compile_ahead import REPORTS

    if REPORTS:
        terminalreporter.section("kernels compiled ahead of time")
    for report in REPORTS:
        terminalreporter.write_line(str(report))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _why_not_interpreted() -> str | None:
    """Why the installed versions cannot interpret kernels; None if they can."""
    installed = {name: tuple(map(int, version(name).split(".")[:2])) for name in ("triton", "numpy")}
    if installed["triton"] < (3, 7) and installed["numpy"] >= (2, 4):
        return "the interpreter of Triton before 3.7 fails with NumPy 2.4 and later"
    return None
