"""Training beside other packages: planted dictionaries are recovered at least as well, and steps take at most half the time."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from peer.environments import ROOT, Peer, ready
from peer.recovery.__main__ import ENVIRONMENTS, run
from peer.recovery.cases import CASES, Case
from peer.recovery.compare import compare
from peer.recovery.planted import Trained, planted, score

PATIENCE_S = 3000


@pytest.mark.peer
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_planted_dictionaries_are_recovered_at_least_as_well(case: Case, tmp_path: Path) -> None:
    """Mean max cosine and L0 at equal explained variance, within two standard errors over three seeds."""
    ready(ENVIRONMENTS[case.peer])
    run(case, tmp_path / "answer.json")

    found = compare(json.loads((tmp_path / "answer.json").read_text()), case.name)
    assert (found.recovers_as_much, found.is_as_sparse) == (True, True), found


@pytest.mark.peer
@pytest.mark.timeout(3600)
def test_steps_take_at_most_half_the_time(saelens: Peer, tmp_path: Path) -> None:
    """Of sae-lens's own trainer, for topk and for jumprelu once it is sparse."""
    answer = tmp_path / "answer.json"
    command = [saelens.python, "-m", "benchmarks.training_beside_saelens", answer]
    # Its exit status says the same as the assertion below.
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert answer.exists(), done.stderr[-4000:]

    found = json.loads(answer.read_text())["seconds_per_step"]
    assert {name: one["ratio"] >= 2 for name, one in found.items()} == {"topk": True, "jumprelu": True}


def _records(who: str, points: list[tuple[float, float, float]], shift: float = 0.0) -> list[dict[str, object]]:
    """Three seeds of a curve of (explained variance, cosine, L0), with a little noise between them."""
    return [
        {
            "case": "one",
            "who": who,
            "seed": seed,
            "explained_variance": variance,
            "mean_max_cosine": cosine + shift + 0.01 * seed,
            "l0": l0 - 10 * shift + 0.1 * seed,
        }
        for seed in range(3)
        for variance, cosine, l0 in points
    ]


def test_libraries_are_compared_where_they_explain_the_same_variance() -> None:
    """Settings differ: the level is the middle of what both reach, and values between settings are interpolated."""
    ours = _records("sae_fast", [(0.7, 0.8, 5.0), (0.9, 1.0, 9.0)])
    theirs = _records("sae-lens", [(0.6, 0.7, 3.0), (0.7, 0.8, 5.0), (0.8, 0.9, 7.0)])

    found = compare(ours + theirs, "one")

    assert found.explained_variance == pytest.approx(0.75)
    assert found.ours.mean_max_cosine == pytest.approx((0.85, 0.86, 0.87))
    assert found.ours.l0 == pytest.approx(found.theirs.l0)
    assert found.recovers_as_much
    assert found.is_as_sparse


@pytest.mark.parametrize(("shift", "good"), [(-0.1, False), (-0.01, True), (0.1, True)])
def test_worse_is_what_the_noise_does_not_explain(shift: float, good: bool) -> None:
    """A difference beyond two standard errors fails in both measures; one within them, or to our side, does not."""
    curve = [(0.7, 0.8, 5.0), (0.9, 1.0, 9.0)]
    found = compare(_records("sae_fast", curve, shift) + _records("sae-lens", curve), "one")
    assert (found.recovers_as_much, found.is_as_sparse) == (good, good)


def test_sweeps_that_do_not_meet_are_an_error() -> None:
    """Nothing is extrapolated."""
    apart = _records("sae_fast", [(0.7, 0.8, 5.0)]) + _records("sae-lens", [(0.9, 0.8, 5.0)])
    with pytest.raises(ValueError, match="no explained variance that all reach"):
        compare(apart, "one")


@pytest.mark.parametrize("name", ["transcoder", "layers"])
def test_a_decoder_of_true_directions_has_mean_max_cosine_one(name: str) -> None:
    """Also where a skip term carries a share of every feature, which the decoder then lacks."""
    data = planted(name)
    true, reads = data.rows(data.writes), data.rows(data.reads)
    skip = torch.randn(true.shape[1], reads.shape[1], generator=torch.Generator().manual_seed(0)) / 10

    def run(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.new_ones(len(x), len(true)), x.new_zeros(len(x), true.shape[1])

    def cosine(W_dec: torch.Tensor, W_skip: torch.Tensor | None = None) -> float:
        return score(Trained(run, W_dec, W_skip), data, n=4096)["mean_max_cosine"]

    assert cosine(true) == pytest.approx(1, abs=1e-5)
    assert cosine(true - reads @ skip.T, skip) == pytest.approx(1, abs=1e-5)
    assert cosine(true, skip) < 0.99
