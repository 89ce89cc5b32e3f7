"""Training beside sae-lens: planted dictionaries are recovered at least as well, and steps take at most half the time."""

import json
import os
import subprocess
from pathlib import Path
from statistics import mean, stdev

import pytest
from peer.environments import ROOT, Peer

pytestmark = [pytest.mark.peer, pytest.mark.timeout(3600)]
PATIENCE_S = 3000


@pytest.mark.parametrize("name", ["topk", "batchtopk", "standard", "gated", "jumprelu"])
def test_planted_dictionaries_are_recovered_at_least_as_well(name: str, saelens: Peer, tmp_path: Path) -> None:
    """Mean max cosine over three seeds, within the noise between seeds; docs/training.md has the table."""
    _run(saelens, "tests/peer/run_saelens_recovery.py", tmp_path / "answer.json", name)

    found = json.loads((tmp_path / "answer.json").read_text())[name]
    ours, theirs = ([one["mean_max_cosine"] for one in found[who]] for who in ("sae_fast", "sae-lens"))
    noise = max(stdev(ours), stdev(theirs), 0.005)
    assert mean(ours) >= mean(theirs) - 2 * noise


def test_steps_take_at_most_half_the_time(saelens: Peer, tmp_path: Path) -> None:
    """Of sae-lens's own trainer, for topk and for jumprelu once it is sparse."""
    _run(saelens, "-m", "benchmarks.training_beside_saelens", tmp_path / "answer.json")

    found = json.loads((tmp_path / "answer.json").read_text())["seconds_per_step"]
    assert {name: one["ratio"] >= 2 for name, one in found.items()} == {"topk": True, "jumprelu": True}


def _run(saelens: Peer, *arguments: str | Path) -> None:
    """In sae-lens's environment, with this checkout importable; the exit status of a benchmark is not looked at."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [saelens.python, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    answer = Path(arguments[1] if str(arguments[0]) != "-m" else arguments[2])
    assert answer.exists(), done.stderr[-4000:]
