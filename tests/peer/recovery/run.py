"""Runs in a peer's environment: `python -m peer.recovery.run ANSWER PEER [CASE …]` trains by both and writes what they recover.

ANSWER is JSON: a list of {case, who, seed, settings, commit, mean_max_cosine, l0, explained_variance, n_dead}.
"""

import importlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch
from peer.recovery import ours
from peer.recovery.cases import CASES, Case, case
from peer.recovery.planted import SEEDS, planted, score


def main(answer: Path, peer: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    records = []
    for one in [case(name) for name in names] or [one for one in CASES if one.peer == peer]:
        for seed in SEEDS[: one.seeds]:
            records += trained(one, seed)
            answer.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


@cache
def commit() -> str:
    """That of this checkout when the training began."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def trained(one: Case, seed: int) -> list[dict[str, object]]:
    """Both libraries, all settings, on one stream of data."""
    records, data = [], planted(one.planted)
    peers = {"sae_fast": ours, one.peer: importlib.import_module(f"peer.recovery.by_{one.peer.replace('-', '')}")}
    for who, module in peers.items():
        architecture, sweep = one.settings(who)
        for settings in sweep:
            found = score(module.train(architecture, settings, data, seed), data)
            records.append({"case": one.name, "who": who, "seed": seed, "settings": settings, "commit": commit(), **found})
            numbers = ", ".join(f"{key} {value:.3f}" for key, value in found.items())
            sys.stderr.write(f"{one.name}, seed {seed}, {who} {settings}: {numbers}\n")
    return records


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
