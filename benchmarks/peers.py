"""sae-lens and sae_fast on the same weights, in one process, in turns.

sae-lens pins older packages, so it lives in an environment of its own, `.venv-peers/benchmarks`, with the same PyTorch as ours.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks import results
from benchmarks.results import ROOT

VENV = ROOT / ".venv-peers" / "benchmarks"
PEER = "sae-lens==6.54.12"


def run(python: str | None = None) -> None:
    """Measure with the interpreter `python`, or with that of an environment that is made if it is not there."""
    interpreter = Path(python) if python else _environment()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "entries.json"
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([interpreter, "-m", "benchmarks.beside_saelens", answer], check=True, cwd=ROOT, env=environment)
        content = json.loads(answer.read_text(encoding="utf-8"))
    path = results.write("peers", torch.device("cpu"), content["entries"], packages=content["packages"])
    print(path)


def _environment() -> Path:
    python = VENV / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        print(f"Making {VENV.relative_to(ROOT)} with {PEER} (minutes)")
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        pip = [python, "-m", "pip", "-qq", "--disable-pip-version-check", "install"]
        pin = f"torch=={torch.__version__.split('+')[0]}"
        # First alone, so that pip takes the wheel it would take for us; then as a constraint, so that it stays.
        subprocess.run([*pip, pin], check=True)
        constraint = VENV / "constraints.txt"
        constraint.write_text(f"{pin}\n", encoding="utf-8")
        subprocess.run([*pip, "--constraint", constraint, PEER], check=True)
    return python
