"""Two processes of torchrun against one."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sae_fast.errors import ArgumentError
from sae_fast.training.distributed import Ranks, require_even
from sae_fast.training.variants import VARIANTS, Start
from sae_fast.training.variants.sharded import sharded

FOLDER = Path(__file__).parent
train = runpy.run_path(str(FOLDER / "distributed_steps.py"))["train"]


def on_two(*command: str | Path) -> None:
    """Run a command of Python in two processes, one thread each."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *map(str, command)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER.parents[2])}
    done = subprocess.run(torchrun, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """Loss, L0, explained variance, dead features and weights within rounding, whether rows or features are spread."""
    alone = train(Ranks(), by_features=False)

    on_two(FOLDER / "distributed_steps.py", tmp_path)

    assert float(alone["curve"][:, 3].max()) > 0
    assert float(alone["curve"][:, 4].max()) > 0
    for spread in ("data", "features"):
        together = load_file(tmp_path / f"{spread}.safetensors")
        torch.testing.assert_close(together["curve"], alone["curve"], rtol=1e-4, atol=1e-5)
        assert together.keys() == alone.keys()
        for key in ("a/weights/W_enc", "a/weights/W_dec", "a/weights/b_enc", "a/weights/b_dec"):
            torch.testing.assert_close(together[key], alone[key], rtol=1e-3, atol=1e-4)
        assert torch.equal(together["a/weights/tokens_since_active"], alone["a/weights/tokens_since_active"])


@pytest.mark.parametrize("spread", ["data", pytest.param("features", marks=pytest.mark.slow)])
def test_a_run_in_two_processes(tmp_path: Path, gpt2_folder: Path, training_texts: Path, spread: str) -> None:
    """The command line under torchrun leaves one set of files, with an SAE of all features."""
    config = tmp_path / "config.toml"
    config.write_text(
        f'[model]\nsource = "{gpt2_folder}"\n[corpus]\nsource = "{training_texts}"\ncontext_length = 32\n'
        f"[train]\ntokens = 1280\nbatch_tokens = 128\nshard_features = {json.dumps(spread == 'features')}\n"
        "[activations]\nheld_out = 0.2\n[output]\nlog_steps = 5\n"
        '[[sae]]\nname = "a"\narchitecture = "topk"\nhook_name = "blocks.1.hook_resid_post"\nd_sae = 48\nk = 4\n'
    )

    on_two("-m", "sae_fast.cli", "train", config)

    found = json.loads((tmp_path / "run" / "run.json").read_text())
    assert found["results"]["a"]["n_features"] == 48
    assert found["results"]["a"]["explained_variance"] > 0.2
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_what_cannot_be_spread_is_refused() -> None:
    """Other architectures, and numbers that do not divide."""
    x = torch.randn(20, 4)
    batchtopk = VARIANTS["batchtopk"]
    with pytest.raises(ArgumentError, match="expected architecture topk"):
        sharded(batchtopk(batchtopk.Options(hook_name="x", d_sae=8, k=2), Start(x, x, 1.0, 1.0)), Ranks(0, 2))  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match="a multiple of the 2 processes"):
        require_even(Ranks(0, 2), "batch", 3)
