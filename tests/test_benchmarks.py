"""The benchmarks measure what they say, and refuse to time a wrong result."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import measure, results, table, training
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.correct import WrongResultError, check
from benchmarks.operands import Operands, make
from benchmarks.sizes import KINDS, Kind, Size
from benchmarks.timing import Times, time_in_turns

TINY = Size("tiny", 24, 512, 80, 4, 6, "a test")
CPU = torch.device("cpu")


def contender(operation: str, name: str) -> Contender:
    return next(c for c in CONTENDERS if (c.operation, c.name) == (operation, name))


@pytest.mark.parametrize("kind", KINDS)
def test_every_contender_is_checked_and_timed(kind: Kind) -> None:
    """At a tiny size of each kind of input, all contenders that can run here are right, and entries say what was found."""
    entries = measure.measure(
        (replace(TINY, kind=kind),), CPU, measure.Budget(60, each=0.01, rounds=3), report=lambda line: None
    )

    left_out = [entry for entry in entries if "left_out" in entry]
    assert left_out == []
    named = {(entry["operation"], entry["contender"], entry["precision"]) for entry in entries}
    assert {(c.operation, c.name, p) for c in CONTENDERS if c.available(CPU) for p in c.precisions if p != "tf32"} == named
    for entry in entries:
        assert entry["ms"] > 0
        assert entry["runs"] == 3
        if entry["contender"] == "sae_fast" and entry["checked"]:
            assert entry["mismatches"] == 0
            assert entry["recall"] in (1.0, None)
    json.dumps(entries)


def test_a_wrong_result_is_refused() -> None:
    """A contender that loses the largest activation of a token is not timed."""
    o = make(TINY, "fp32", CPU)
    right = contender("encode_topk", "eager")
    dense = right.build(o)(o.x[0])
    assert isinstance(dense, Tensor)
    wrong = dense.clone()
    wrong[3, wrong[3].argmax()] = 0

    assert check(right, dense, o) is not None
    with pytest.raises(WrongResultError, match="mismatches=1"):
        check(right, wrong, o)
    with pytest.raises(WrongResultError, match="error="):
        check(right, dense * 1.01, o)


@pytest.mark.parametrize("kind", KINDS)
def test_the_threshold_lets_about_l0_features_fire(kind: Kind) -> None:
    """The mean number of firing features is near the one that the size names."""
    o: Operands = make(replace(TINY, kind=kind, d_sae=4096, l0=40), "fp32", CPU)
    finite = o.x[0].isfinite().all(1)

    fired = (o.x[0] @ o.W_enc + o.b_enc > o.threshold)[finite].sum(1).float().mean()

    assert 20 < float(fired) < 80


def test_turns_and_quartiles() -> None:
    """Functions run in turns on rotating inputs; the spread is that of the quartiles."""
    seen: list[tuple[str, int]] = []
    inputs = tuple(torch.full((1,), float(i)) for i in range(2))

    times = time_in_turns({n: lambda x, n=n: seen.append((n, int(x))) for n in "ab"}, inputs, seconds=0, rounds=9)  # type: ignore[misc]

    assert seen == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 0), ("b", 0)]
    assert len(times["a"].ms) == 3
    assert Times([4.0, 1.0, 3.0, 2.0, 5.0]).median == 3
    assert Times([4.0, 1.0, 3.0, 2.0, 5.0]).spread == (2, 4)


def test_results_become_tables(tmp_path: Path) -> None:
    """Kept results are read back and rendered with the speed-up over the baseline, and what was left out."""
    entry = {"size": "tiny", "precision": "fp32", "operation": "encode_topk", "checked": True, "error": 1e-6, "runs": 3}
    entries = [
        entry | {"contender": "eager", "ms": 8.0, "ms_spread": (7, 9), "tokens_per_s": 10.0},
        entry | {"contender": "sae_fast", "ms": 2.0, "ms_spread": (1, 3), "tokens_per_s": 40.0},
        {"size": "tiny", "precision": "bf16", "left_out": "out of time"},
    ]
    results.write("cpu", CPU, entries, folder=tmp_path)

    page = table.render(results.read_all(tmp_path))

    assert "| tiny | fp32 | sae_fast | 2 (1–3) | 4.00 | 40 |" in page
    assert "* tiny, bf16: out of time" in page
    assert "No GPU has run these benchmarks yet" in page


def test_the_page_is_what_the_results_say() -> None:
    """docs/benchmarks.md holds the tables of the results in the repository."""
    text = table.PAGE.read_text(encoding="utf-8")

    assert text.split(table.BEGIN)[1].split(table.END)[0].strip() == table.render(results.read_all()).strip()


def test_training_steps_are_checked_and_timed() -> None:
    """Both contenders begin with the loss of the specification."""
    entries = training.measure_training((TINY,), CPU, measure.Budget(60, each=0.01, rounds=3), report=lambda line: None)

    assert {entry["contender"]: entry["runs"] for entry in entries} == {"eager": 3, "sae_fast": 3}
    assert all(entry["error"] < 1e-5 and entry["ms"] > 0 for entry in entries)


def test_a_wrong_step_of_training_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed whose first loss is another."""
    exact = training._exact_loss
    monkeypatch.setattr(training, "_exact_loss", lambda o: 1.001 * exact(o))

    with pytest.raises(WrongResultError, match="the first loss is off"):
        training.measure_training((TINY,), CPU, measure.Budget(60, each=0.01, rounds=3), report=lambda line: None)
