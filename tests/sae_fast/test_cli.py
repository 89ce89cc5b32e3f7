import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

import sae_fast
from sae_fast import cli


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit status, standard output, standard error)."""
    status = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_info_prints_the_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Info shows architecture, sizes, hook, model, dtype and memory."""
    folder = tiny.sae(tmp_path / "sae", d_in=32, d_sae=64, architecture="topk", k=4)

    status, out, err = run(capsys, "info", folder)

    lines = {line[:18].strip(): line[18:] for line in out.splitlines()}
    assert (status, err) == (0, "")
    assert lines["format"] == "saelens"
    assert lines["architecture"] == "topk, k = 4"
    assert lines["features"] == "64"
    assert lines["hook"] == "blocks.1.hook_resid_post"
    assert lines["dtype"] == "float32"
    assert lines["parameters"] == f"{2 * 32 * 64 + 64 + 32:,}"


def test_info_reads_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Info works on a Gemma Scope file, whose weights need not be valid numbers."""
    folder = tiny.gemma_scope(tmp_path / "layer_2" / "width_64" / "average_l0_5")

    status, out, _ = run(capsys, "info", folder)

    assert status == 0
    assert "blocks.2.hook_resid_post" in out


def test_convert_writes_the_same_sae(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A Gemma Scope file becomes a SAELens folder that computes the same, with the names given."""
    source = tiny.gemma_scope(tmp_path / "source")
    target = tmp_path / "target"

    status, out, _ = run(capsys, "convert", source, target, "--hook-name", "blocks.1.hook_mlp_out", "--model-name", "tiny")

    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    converted = sae_fast.load(target)
    assert status == 0
    assert "blocks.1.hook_mlp_out" in out
    assert (converted.cfg.hook_name, converted.cfg.model_name) == ("blocks.1.hook_mlp_out", "tiny")
    assert torch.equal(converted(x), sae_fast.load(source)(x))


def test_convert_changes_dtype_and_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--dtype and --fold-decoder-norm apply to what is written."""
    source = tiny.sae(tmp_path / "source", architecture="jumprelu")

    status, _, _ = run(capsys, "convert", source, tmp_path / "target", "--dtype", "float64", "--fold-decoder-norm")

    converted = sae_fast.load(tmp_path / "target")
    assert status == 0
    assert converted.dtype == torch.float64
    torch.testing.assert_close(converted.W_dec.norm(dim=1), torch.ones(64, dtype=torch.float64))


def test_convert_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that holds something is refused and left as it was."""
    source = tiny.sae(tmp_path / "source")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "notes.txt").write_text("mine")

    status, _, err = run(capsys, "convert", source, tmp_path / "target")

    assert status == 2
    assert "not empty" in err
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["notes.txt"]


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An SAE that the format cannot hold is refused before anything is written."""
    source = tiny.sae(tmp_path / "source", architecture="topk")

    status, _, err = run(capsys, "convert", source, tmp_path / "target", "--format", "gemma_scope")

    assert status == 2
    assert "architecture: expected standard, jumprelu or batchtopk" in err
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("source", ["missing", "hf://owner/repo/path"])
def test_errors_are_one_line(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad source gives exit status 2 and one line on standard error, without a traceback."""
    status, out, err = run(capsys, "info", source)

    assert (status, out) == (2, "")
    assert err.startswith("sae-fast: error: ")
    assert err.count("\n") == 1


def test_the_module_runs_as_a_command() -> None:
    """`python -m sae_fast.cli` prints its version, and usage with status 2 when called without a command."""
    version = subprocess.run([sys.executable, "-m", "sae_fast.cli", "--version"], capture_output=True, text=True)
    nothing = subprocess.run([sys.executable, "-m", "sae_fast.cli"], capture_output=True, text=True)

    assert version.stdout == f"sae-fast {sae_fast.__version__}\n"
    assert nothing.returncode == 2
    assert "usage: sae-fast" in nothing.stderr
