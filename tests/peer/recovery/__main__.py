"""`python -m peer.recovery [FOLDER]`: trains everything, and prints the table of docs/training.md.

To be called with `PYTHONPATH=.:tests` from the root. Environments of peers are made where they are missing; answers of an
earlier call in FOLDER (default: build/recovery) are taken up instead of trained again.
"""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from peer.environments import ROOT, SAELENS, SPARSIFY, Peer
from peer.recovery.cases import CASES, LARGE, Case
from peer.recovery.compare import Comparison, Summary, compare

ENVIRONMENTS: dict[str, Peer] = {"sae-lens": SAELENS, "sparsify": SPARSIFY, "paper": SAELENS}


def answer(case: Case, folder: Path) -> list[dict[str, Any]]:
    """The records of a case, trained unless they are there."""
    path = folder / f"{case.name.replace(' ', '-')}.json"
    if not path.exists():
        ENVIRONMENTS[case.peer].make()
        run(case, path)
    return json.loads(path.read_text(encoding="utf-8"))


def run(case: Case, path: Path) -> None:
    """Train by both libraries in the peer's environment, one thread, and write the records to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))), "OMP_NUM_THREADS": "1"}
    command = [str(ENVIRONMENTS[case.peer].python), "-m", "peer.recovery.run", str(partial), case.peer, case.name]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    partial.rename(path)


def main(folder: Path) -> None:
    answers = {case.name: answer(case, folder) for case in (*CASES, *LARGE)}
    lines = ["| | explained variance | sae_fast: cosine, L0 | peer: cosine, L0 | peer |", "|---|--:|--:|--:|---|"]
    lines.extend(row(case, compare(answers[case.name], case.name)) for case in CASES)
    lines.extend(["", "| | cosine, L0, explained variance, dead | |", "|---|--:|---|"])
    lines.extend(line for case in LARGE for line in large_rows(case, answers[case.name]))
    commits = {str(record["commit"]) for records in answers.values() for record in records}
    sys.stdout.write("\n".join([*lines, "", about(commits), ""]))


def row(case: Case, found: Comparison) -> str:
    """A line of the table."""
    peer = {"paper": "plain PyTorch"}.get(case.peer, case.peer)
    return (
        f"| `{case.name}` | {found.explained_variance:.2f} | {_numbers(found.ours)} | {_numbers(found.theirs)} "
        f"| {peer}{_verdict(found)} |"
    )


def large_rows(case: Case, records: list[dict[str, Any]]) -> list[str]:
    """A line for each library: one seed, one setting."""
    return [
        f"| `{case.architecture}` | {one['mean_max_cosine']:.3f}, {one['l0']:.1f}, {one['explained_variance']:.3f}, "
        f"{one['n_dead']:.0f} | {one['who']} |"
        for one in records
    ]


def about(commits: set[str]) -> str:
    """Machine, versions and the commits of the trainings."""
    peers = [requirement for peer in (SAELENS, SPARSIFY) for requirement in peer.requirements[1:]]
    packages = ", ".join(requirement.replace("==", " ") for requirement in peers)
    machine = f"{_processor()}, one thread of {os.cpu_count()}"
    return f"{machine}; torch {version('torch')}, {packages}; commit {', '.join(sorted(commits))}"


def _numbers(found: Summary) -> str:
    cosine, l0 = found.mean_max_cosine, found.l0
    return f"{mean(cosine):.3f} ± {stdev(cosine):.3f}, {mean(l0):.2f} ± {stdev(l0):.2f}"


def _verdict(found: Comparison) -> str:
    worse = [name for name, good in (("cosine", found.recovers_as_much), ("L0", found.is_as_sparse)) if not good]
    return f"; ours is worse in {' and '.join(worse)}" if worse else ""


def _processor() -> str:
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "recovery")
