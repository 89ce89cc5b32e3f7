"""Runs every `interpreted_*.py` beside this file in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted(path.name for path in HERE.glob("interpreted_*.py"))


def run_interpreted(file: str, markers: str) -> None:
    """Run one file by pytest in a process of its own, and fail with its output if it fails."""
    pytest.importorskip("triton", reason="Triton is not installed")
    command = [sys.executable, "-m", "pytest", HERE / file, "-q", "-m", markers, "-p", "no:cacheprovider", "--color=no"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        pytest.fail(f"{file} in the interpreter:\n{result.stdout}{result.stderr}", pytrace=False)
    print(result.stdout)  # noqa: T201


@pytest.mark.parametrize("file", FILES)
def test_kernels_in_the_interpreter(file: str) -> None:
    """The kernels compute what the reference computes, on CPU tensors."""
    run_interpreted(file, "not slow and not gpu")


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_kernels_in_the_interpreter_on_more_sizes(file: str) -> None:
    """The same for the exhaustive cases."""
    run_interpreted(file, "slow and not gpu")
