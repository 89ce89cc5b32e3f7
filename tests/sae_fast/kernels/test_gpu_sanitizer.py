"""compute-sanitizer over the kernels at awkward sizes, where the CUDA toolkit is installed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu

HERE = Path(__file__).parent


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_no_kernel_reads_or_writes_where_it_should_not(tool: str) -> None:
    """No access out of bounds, and no race in shared memory."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "99", sys.executable, "-m", "pytest"]

    result = subprocess.run(
        [*command, HERE / "test_gpu_decode.py", "-q", "-m", "gpu", "-k", "awkward", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stdout + result.stderr
