"""The oldest Triton that is supported compiles every kernel too."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent
OTHERS = sorted(path for path in HERE.glob("test_*.py") if path != Path(__file__) and "gpu" not in path.name)


def oldest() -> str:
    """The lowest version that pyproject.toml permits, such as `3.6.0`."""
    extras = tomllib.loads((HERE.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    version = extras["triton"][0].split(";")[0].split(">=")[1]
    return f"{version}.0"


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_every_kernel_compiles_with_the_oldest_triton(tmp_path: Path) -> None:
    """The whole matrix of cards and configurations, with that version put before the installed one."""
    pytest.importorskip("triton", reason="Triton is not installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    installed = subprocess.run([*pip, f"triton=={oldest()}"], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"Triton {oldest()} cannot be installed: {installed.stderr.strip().splitlines()[-1]}")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    found = subprocess.run(
        [sys.executable, "-c", "import triton; print(triton.__version__)"], env=environment, capture_output=True, text=True
    )
    assert found.stdout.strip() == oldest()

    options = ["-q", "-m", "not gpu", "-k", "compile", "-p", "no:cacheprovider", "--color=no"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *OTHERS, *options], env=environment, capture_output=True, text=True
    )

    print(result.stdout)  # noqa: T201
    if result.returncode:
        pytest.fail(f"with Triton {oldest()}:\n{result.stdout}{result.stderr}", pytrace=False)
