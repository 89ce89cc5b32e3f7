import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from file_server import FileServer

import sae_fast
from sae_fast import cli
from sae_fast.commands.info import pairs_of
from sae_fast.formats import SourceInfo


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


def test_info_tells_transcoders_and_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A transcoder shows where it writes and how wide; JSON has all of the configuration."""
    cfg = sae_fast.SAEConfig(
        architecture="batchtopk",
        d_in=4,
        d_out=6,
        d_sae=8,
        k=2,
        transcoder=True,
        skip=True,
        hook_name="blocks.0.hook_mlp_in",
        hook_name_out="blocks.0.hook_mlp_out",
        group_sizes=(2, 6),
        metadata={"note": 1},
    )
    info = SourceInfo("here", "ours", cfg, torch.bfloat16, {"a.safetensors": 1000, "b.safetensors": 2_000_000}, True)

    lines = dict(pairs_of(info))
    assert lines["architecture"] == "batchtopk skip transcoder, k = 2, matryoshka groups 2, 6"
    assert (lines["d_in"], lines["d_out"]) == (4, 6)
    assert (lines["hook"], lines["writes at"]) == ("blocks.0.hook_mlp_in", "blocks.0.hook_mlp_out")
    assert lines["files"] == "a.safetensors, b.safetensors, 2.0 MB to fetch"

    folder = tiny.sae(tmp_path / "sae")
    status, out, _ = run(capsys, "info", folder, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["config"]["hook_name"] == "blocks.1.hook_resid_post"
    assert found["file_bytes"] == {"sae_weights.safetensors": (folder / "sae_weights.safetensors").stat().st_size}
    assert not found["is_to_be_fetched"]


def test_list_without_criteria_shows_releases(capsys: pytest.CaptureFixture[str]) -> None:
    """One line to a release, with model, number of SAEs, layers and widths; the same as JSON."""
    status, out, _ = run(capsys, "list")
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in out.splitlines()}

    assert status == 0
    assert len(lines) == 171
    assert " ".join(lines["gpt2-small-res-jb"]).split() == ["gpt2-small", "13", "0", "to", "11", "24,576"]

    _, out, _ = run(capsys, "list", "--json")
    assert sum(release["n_saes"] for release in json.loads(out)) == 13_857


@pytest.mark.parametrize("width", ["65536", "65k", "65,536"])
def test_list_narrows_down(width: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Widths are numbers, or as Gemma Scope calls them; what is listed can be given to load."""
    status, out, _ = run(
        capsys, "list", "--model", "gemma-2-2b", "--layer", "20", "--width", width, "--hook", "resid_post", "--l0", "50-90"
    )

    head, *rows = out.splitlines()
    assert status == 0
    assert head.split() == ["NAME", "MODEL", "HOOK", "FEATURES", "L0"]
    assert rows
    for row in rows:
        name, model, hook, features, l0 = row.split()
        assert sae_fast.catalogue.get(name).model == model == "gemma-2-2b"
        assert (hook, features) == ("blocks.20.hook_resid_post", "65,536")
        assert 50 <= float(l0) <= 90


def test_list_as_json_has_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has all that is known, and where the files are."""
    _, out, _ = run(capsys, "list", "--release", "gpt2-small-res-jb", "--layer", "8", "--width", "24576", "--json")

    found = next(entry for entry in json.loads(out) if entry["release"] == "gpt2-small-res-jb")
    assert found["name"] == "gpt2-small-res-jb/blocks.8.hook_resid_pre"
    assert found["source"] == "hf://jbloom/GPT2-Small-SAEs-Reformatted/blocks.8.hook_resid_pre"
    assert found["overrides"] == {"model_from_pretrained_kwargs": {"center_writing_weights": True}}


def test_list_says_when_nothing_fits(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty answer is an error that repeats the question and names the models there are."""
    status, out, err = run(capsys, "list", "--model", "gemma-2-2", "--layer", "20")

    assert (status, out) == (2, "")
    assert "no SAE of the catalogue fits --model gemma-2-2, --layer 20. Its models are " in err
    assert "gemma-2-2b, " in err


def test_fetch_says_where_the_files_are(hub: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each source has a line with number and size, and into a mirror the files are named."""
    repo = "jbloom/GPT2-Small-SAEs-Reformatted"
    for layer in (7, 8):
        tiny.sae(hub.root / repo / f"blocks.{layer}.hook_resid_pre")
    names = [f"gpt2-small-res-jb/blocks.{layer}.hook_resid_pre" for layer in (7, 8)]

    status, out, err = run(capsys, "fetch", *names, "--mirror", tmp_path / "mirror")

    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[0].startswith(f"{names[0]}: 2 files, ")
    assert lines[4].strip() == str(tmp_path / "mirror" / repo / "blocks.8.hook_resid_pre" / "cfg.json")
    status, out, _ = run(capsys, "info", names[1])
    assert status == 0
    assert dict(line.split(maxsplit=1) for line in out.splitlines())["path"] == f"hf://{repo}/blocks.8.hook_resid_pre"


@pytest.mark.parametrize("command", ["list", "info", "fetch", "convert"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--help has examples that begin with the command."""
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])

    out, _ = capsys.readouterr()
    assert f"examples:\n  sae-fast {command}" in out


def test_a_reader_that_stops_is_no_error() -> None:
    """`sae-fast list | head` ends without a message."""
    code = "import sys; from sae_fast.cli import main; sys.exit(main(['list', '--model', 'gemma-3-1b-pt']))"
    listing = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.readline()
    listing.stdout.close()

    assert listing.stderr.read() == ""
    assert listing.wait() == 0
    listing.stderr.close()


@pytest.mark.parametrize("source", ["missing", "gpt2-small-res-jb", "hf://owner/repo/path"])
def test_errors_are_one_line(source: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad source gives exit status 2 and one line on standard error, without a traceback."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

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
