"""Damaged files of every format: no crash, no hang, no code run, no memory beyond the files' own size, one kind of error.

`mutations.py` beside this file says what is done to them. A batch runs in a process of its own, so that a crash of the
interpreter is a failure of the test and not its end.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import published
import pytest
import torch

import sae_fast
from sae_fast.errors import FormatError

ROOT = Path(__file__).resolve().parents[3]
SECONDS_OF_A_BATCH = 300


def run_batch(folder: Path, first: int, count: int) -> dict[str, int]:
    """How many of `count` mutated files were loaded or refused, by the kind of error."""
    here = Path(__file__).parent
    path = os.pathsep.join(str(place) for place in (ROOT, ROOT / "tests", here))
    result = subprocess.run(
        [sys.executable, here / "mutations.py", folder, str(first), str(count)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS_OF_A_BATCH,
        check=False,
    )
    lines = result.stdout.splitlines()
    last = lines[-1] if lines else "nothing"
    assert result.returncode == 0, f"exit {result.returncode} at: {last}\n{result.stderr[-2000:]}"
    assert last.startswith("done ")
    return json.loads(last.removeprefix("done "))["outcomes"]


def test_mutated_files_are_refused_in_peace(tmp_path: Path) -> None:
    """Whatever happens to a file, it loads or raises one of this package's errors."""
    outcomes = run_batch(tmp_path, 0, 400)

    assert sum(outcomes.values()) == 400
    assert outcomes["FormatError"] > 200


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 11_000, 1000))
def test_ten_thousand_mutated_files(first: int, tmp_path: Path) -> None:
    """The same with other damage."""
    assert sum(run_batch(tmp_path, first, 1000).values()) == 1000


def _laughing(levels: int) -> dict:
    inner: dict = {"l": 1}
    for _ in range(levels):
        inner = {"a": inner, "b": inner}
    return inner


def _holding_itself() -> dict:
    inner: dict = {"l": 1}
    inner["self"] = inner
    return inner


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (lambda: {"noise": _laughing(26)}, "more than 65536 entries"),
        (lambda: {"noise": _holding_itself()}, "dictionaries inside one another to more than 32 levels"),
        (lambda: {"encoder_linear.weight": torch.ones(1).expand(2**20, 2**20)}, "is more than what the file holds for it"),
    ],
    ids=["laughs", "itself", "expanded"],
)
def test_small_files_do_not_grow(extra: Callable[[], dict], message: str, is_old: bool, tmp_path: Path) -> None:
    """Dictionaries shared over and over, or holding themselves, and tensors larger than their storage are refused at once."""
    sample = published.goodfire()
    state = sample.files[str(sample.file)] | extra()
    path = sample.write(tmp_path)
    torch.save(state, path, _use_new_zipfile_serialization=not is_old)
    with pytest.raises(FormatError, match=message):
        sae_fast.load(path)


def test_old_pickles_do_not_reserve_memory(tmp_path: Path) -> None:
    """Before version 1.6 of torch, a number in the index said how much to take; one beyond the file's size is refused."""
    sample = published.goodfire()
    path = sample.write(tmp_path)
    torch.save(sample.files[str(sample.file)], path, _use_new_zipfile_serialization=False)
    assert sae_fast.load(path).cfg.d_sae == published.D_SAE
    # After the place of a storage: its number of elements in one byte, or in four.
    path.write_bytes(re.sub(rb"(cpuq.)K\xc0", lambda found: found[1] + b"J\xff\xff\xff\x7f", path.read_bytes()))
    with pytest.raises(FormatError, match=r"its index speaks of \d+ bytes of tensors in a file of \d+"):
        sae_fast.load(path)


class _Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


PICKLED = [name for name, make in published.SAMPLES.items() if make().tensor_files()[0].endswith((".pt", ".pth"))]


@pytest.mark.parametrize("name", PICKLED)
def test_pickles_run_no_code(name: str, tmp_path: Path) -> None:
    """A pickle that holds more than tensors and plain values is refused before any of it is carried out."""
    sample = published.SAMPLES[name]()
    file = sample.tensor_files()[0]
    canary = tmp_path / "canary"
    sample.files[file] = {**sample.files[file], "innocent": _Malicious(canary)}
    path = sample.write(tmp_path)
    with pytest.raises(FormatError, match=r"holds more than tensors and plain values .*Files that would run code are not read"):
        sae_fast.load(path)
    assert not canary.exists()

    torch.load(path.parent / file if path.is_file() else path / file, weights_only=False)

    assert canary.exists(), "the pickle would have run code"
