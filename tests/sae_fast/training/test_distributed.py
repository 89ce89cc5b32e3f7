"""Two processes of torchrun against one."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import sae_fast
from sae_fast.errors import ArgumentError
from sae_fast.sparse import SparseActs
from sae_fast.training import RunConfig
from sae_fast.training import train as train_run
from sae_fast.training.checkpoint import checkpoints
from sae_fast.training.distributed import Ranks, require_even
from sae_fast.training.layout import Layout, layout
from sae_fast.training.run import make_variants
from sae_fast.training.selection import among_largest, among_largest_of_row
from sae_fast.training.variants import VARIANTS, Start

FOLDER = Path(__file__).parent
steps = runpy.run_path(str(FOLDER / "distributed_steps.py"))
WHOLE = {name for name, given in steps["CASES"].items() if VARIANTS[given["architecture"]].why_whole}
QUICK = ["data:batchtopk", "data:jumprelu", "features:topk", "features:batchtopk-uneven", "features:jumprelu-transcoder"]
ALL = [f"{mode}:{name}" for mode in ("data", "features") for name in steps["CASES"] if mode == "data" or name not in WHOLE]


def start(n: int, *command: str | Path) -> "subprocess.Popen[str]":
    """A command of Python in n processes, one thread each."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", *map(str, command)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER.parents[2])}
    return subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def torchrun(n: int, *command: str | Path) -> tuple[int, str]:
    """(exit status, stderr) of the same."""
    with start(n, *command) as run:
        said = run.communicate(timeout=600)[1]
    return run.returncode, said


def on_two(*command: str | Path) -> None:
    """A command that is to succeed in two processes."""
    status, said = torchrun(2, *command)
    assert status == 0, said[-4000:]


def assert_same(folder: Path, task: str) -> None:
    """Of a task that was done in several processes, the curve and every tensor of the state are those of one process."""
    mode, _, case = task.partition(":")
    together, alone = load_file(folder / f"{mode}-{case}.safetensors"), steps["results"](case)
    torch.testing.assert_close(together["curve"], alone["curve"], rtol=1e-5, atol=1e-5, msg=lambda text: f"{task}: {text}")
    assert together.keys() == alone.keys()
    for key, value in alone.items():
        scale = float(value.abs().max()) if value.is_floating_point() else 0.0
        close = dict(rtol=1e-4, atol=1e-5 * scale)
        torch.testing.assert_close(together[key], value, **close, msg=lambda text, key=key: f"{task} {key}: {text}")


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """Curves, weights, moments of Adam and counters within rounding, whether rows or features are spread."""
    on_two(FOLDER / "distributed_steps.py", tmp_path, *QUICK)

    for task in QUICK:
        assert_same(tmp_path, task)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, len(ALL), 8))
def test_every_variant_learns_in_two_processes_what_it_learns_in_one(tmp_path: Path, first: int) -> None:
    """Every variant and penalty, SAE and transcoder, in parts of a batch, for several hooks; by rows and by features."""
    tasks = ALL[first : first + 8]
    on_two(FOLDER / "distributed_steps.py", tmp_path, *tasks)

    for task in tasks:
        assert_same(tmp_path, task)


@pytest.mark.slow
def test_rows_and_features_may_both_be_spread(tmp_path: Path) -> None:
    """Four processes: two halves of each batch by two halves of the dictionary; and all four for either."""
    tasks = [f"2:{case}" for case in ("topk", "batchtopk", "matryoshka", "jumprelu", "gated-transcoder", "crosscoder")]
    tasks += ["data:batchtopk", "data:jumprelu-transcoder", "features:topk"]
    status, said = torchrun(4, FOLDER / "distributed_steps.py", tmp_path, *tasks)

    assert status == 0, said[-4000:]
    for task in tasks:
        assert_same(tmp_path, task)


def test_the_steps_show_what_they_compare() -> None:
    """The cases have dead features and the terms of their losses, so that what is equal is not nothing."""
    for case, terms in {"topk": [5], "jumprelu": [7, 8], "matryoshka": [5, 9]}.items():
        largest = steps["results"](case)["curve"].abs().max(0).values

        assert float(largest[3]) > 0
        assert all(float(largest[term]) > 0 for term in terms)


class Runs:
    """A configuration and the folders of its runs."""

    def __init__(self, folder: Path, model: Path, texts: Path, shard_features: bool, finetune_tokens: int) -> None:
        self.folder = folder
        hook = 'hook_name = "blocks.1.hook_resid_post"\nd_sae = 48'
        self.text = (
            f'[model]\nsource = "{model}"\n[corpus]\nsource = "{texts}"\ncontext_length = 32\n'
            f"[train]\ntokens = 12800\nbatch_tokens = 64\nshard_features = {json.dumps(shard_features)}\n"
            f"[finetune]\ntokens = {finetune_tokens}\ncontexts = 4\n[activations]\nheld_out = 0.2\n"
            "[output]\nlog_steps = 100\ncheckpoint_tokens = 1280\n"
            f'[[sae]]\nname = "a"\narchitecture = "topk"\n{hook}\nk = 4\n'
            f'[[sae]]\nname = "b"\narchitecture = "batchtopk"\n{hook}\nk = 4\n'
        )

    def config(self, name: str) -> Path:
        """Of a run whose files come into the folder of this name."""
        path = self.folder / f"{name}.toml"
        path.write_text(self.text.replace("[output]", f'[output]\nfolder = "{name}"'))
        return path

    def checkpoints(self, name: str) -> list[Path]:
        return checkpoints(self.folder / name / "checkpoints")

    def saes(self, name: str) -> dict[str, bytes]:
        folder = self.folder / name / "saes"
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def killed(self, name: str) -> str:
        """Kill one of two processes after a checkpoint, and give what the run says on stderr."""
        with start(2, "-m", "sae_fast.cli", "train", "--quiet", self.config(name)) as run:
            end = time.monotonic() + 300
            while not self.checkpoints(name) and run.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
            children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
            workers = [pid for pid in map(int, children) if b"sae_fast" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            os.kill(workers[-1], signal.SIGKILL)
            said = run.communicate(timeout=300)[1]
        assert run.returncode
        return said


@pytest.fixture
def runs(tmp_path: Path, gpt2_folder: Path, training_texts: Path, request: pytest.FixtureRequest) -> Runs:
    return Runs(tmp_path, gpt2_folder, training_texts, *getattr(request, "param", (False, 0)))


def test_a_run_whose_process_dies_goes_on_when_started_again(runs: Runs) -> None:
    """The other says why it stops, in one message, with a whole checkpoint left; one process may go on from there."""
    said = runs.killed("a")
    left = runs.checkpoints("a")

    assert said.count("stopped, since another one of the run has ended. See what that one said") == 1
    assert "sae_fast/training" not in said
    assert load_file(left[-1])["step"] < 200
    train_run(RunConfig.load(runs.folder / "a.toml"), show_progress=False)
    found = json.loads((runs.folder / "a" / "run.json").read_text())
    assert {result["n_features"] for result in found["results"].values()} == {48}
    assert min(result["explained_variance"] for result in found["results"].values()) > 0.2
    assert len((runs.folder / "a" / "metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
@pytest.mark.parametrize("runs", [(False, 1280), (True, 1280)], ids=["data", "features"], indirect=True)
def test_a_run_in_two_processes_may_be_stopped_anywhere(runs: Runs) -> None:
    """Started again with as many it gives the same bytes, and with one the same SAEs within rounding; fine-tuning too."""
    runs.killed("a")
    shutil.copytree(runs.folder / "a", runs.folder / "one")
    on_two("-m", "sae_fast.cli", "train", runs.folder / "a.toml")
    on_two("-m", "sae_fast.cli", "train", runs.config("whole"))
    whole_run = RunConfig.load(runs.config("one"))
    saes = train_run(replace(whole_run, train=replace(whole_run.train, shard_features=False)), show_progress=False)

    assert runs.saes("a") == runs.saes("whole")
    assert len((runs.folder / "a" / "metrics.jsonl").read_text().splitlines()) == 6
    for name, sae in saes.items():
        together = sae_fast.load(runs.folder / "a" / "saes" / name)
        for key, value in sae.tensors().items():
            torch.testing.assert_close(together.tensors()[key], value, rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(0, 50))
def test_the_largest_are_exactly_as_many_as_wanted(numbers: list[int], wanted: int) -> None:
    """All above the level, and of ties the first; the level is the smallest that is chosen."""
    values = torch.tensor(numbers, dtype=torch.float32) / 3
    chosen, smallest = among_largest(values, wanted, Ranks())
    expected = values.sort(descending=True, stable=True).indices[:wanted]

    assert sorted(expected.tolist()) == chosen.nonzero()[:, 0].tolist()
    assert smallest == (float(values[expected].min()) if len(expected) else 0.0)


def test_the_largest_of_a_row_are_k() -> None:
    """Ties included; `kept` leaves the entries of the chosen."""
    magnitudes = torch.tensor([[3.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 0.0]])
    chosen = among_largest_of_row(magnitudes, 2, Ranks())
    acts = SparseActs.from_topk(torch.arange(4).expand(2, 4), magnitudes, 4)

    assert chosen.sum(1).tolist() == [2, 2]
    assert torch.equal(acts.kept(chosen.flatten()).to_dense(), magnitudes * chosen)


def test_parts_of_a_dictionary_begin_as_the_whole() -> None:
    """Each process draws its own rows of what one process draws, without ever holding all."""
    x, kind = torch.randn(20, 6), VARIANTS["gated"]
    options = kind.Options(hook_name="x", hook_name_out="y", d_sae=20000, l1_coefficient=1.0, start_from_data=True)  # type: ignore[call-arg]
    whole = kind(options, Start(x, x, 1.0, 1.0))
    parts = [kind(options, Start(x, x, 1.0, 1.0, layout=Layout(features=Ranks(rank, 2)))) for rank in range(2)]

    for name in ("W_enc", "W_dec", "b_enc", "b_mag"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_what_cannot_be_spread_is_refused(configure: Callable[..., RunConfig]) -> None:
    """Numbers that do not divide, and matching pursuit by features."""
    config, place = configure({"architecture": "matching_pursuit", "max_iterations": 3}), Layout(mesh=cast("Any", ...))
    with pytest.raises(ArgumentError, match=r"matching_pursuit\): expected another architecture\. For it, each step"):
        make_variants(config, cast("Any", None), place)
    with pytest.raises(ArgumentError, match="a multiple of the 2 processes"):
        require_even(Ranks(0, 2), "batch", 3)
    with pytest.raises(ArgumentError, match="d_sae with shard_features: expected a multiple of the 2 processes, got 7"):
        Layout(features=Ranks(0, 2)).own_features(7)
    with pytest.raises(ArgumentError, match="shard_features: expected a divisor of the 3 processes, got 2"):
        layout(Ranks(0, 3), 2, "cpu")
