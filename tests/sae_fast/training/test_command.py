"""`sae-fast train` from the shell: the template, the estimate, a run, and how it stops."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sae_fast
from sae_fast import cli
from sae_fast.commands import train as command
from sae_fast.errors import StoppedError


@pytest.fixture
def config(tmp_path: Path, gpt2_folder: Path, training_texts: Path) -> Path:
    """A small configuration, made from the template as a user would."""
    file = tmp_path / "config.toml"
    assert cli.main(["train", "--new", str(file)]) == 0
    text = file.read_text()
    for before, after in (
        ("path/or/hub-name", str(gpt2_folder)),
        ('"standard-library"', f'"{training_texts}"'),
        ("tokens = 50_000_000", "tokens = 1280\nbatch_tokens = 128"),
        ("# context_length = 128", "context_length = 32"),
        ("blocks.6.", "blocks.1."),
        ("expansion = 16", "d_sae = 48"),
        ("k = [32, 64]", "k = [2, 4]"),
        ("# [activations]", "[activations]\nheld_out = 0.2"),
    ):
        assert before in text
        text = text.replace(before, after, 1)
    file.write_text(text)
    return file


def test_the_template_needs_sources_only(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the template to SAEs: each is named, and so is the report."""
    assert cli.main(["train", str(config), "--quiet"]) == 0

    out = capsys.readouterr().out
    folder = config.parent / "run"
    saes = sorted((folder / "saes").iterdir())
    assert [sae_fast.load(sae).cfg.d_sae for sae in saes] == [48, 48]
    assert all(f"wrote {sae}" in out for sae in saes)
    assert f"report: {folder / 'report.html'}" in out


def test_an_estimate_writes_nothing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tokens, store, memory of each SAE and time of a step."""
    assert cli.main(["train", str(config), "--estimate"]) == 0

    out = capsys.readouterr().out
    assert not (config.parent / "run").exists()
    assert "tokens of training" in out
    assert re.search(r"memory of 1-resid-post-batchtopk-48-k2 +\d", out)
    assert re.search(r"time of a step +[\d.]+ ms", out)


def test_an_estimate_knows_the_store_from_the_limit(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With max_tokens: bfloat16 rows of width 32, and positions."""
    config.write_text(config.read_text().replace("# max_tokens = 10_000_000", "max_tokens = 1_000_000"))

    assert cli.main(["train", str(config), "--estimate"]) == 0

    assert re.search(r"activation store +72.0 MB", capsys.readouterr().out)


def test_a_template_overwrites_nothing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An existing file is left alone."""
    before = config.read_bytes()

    assert cli.main(["train", "--new", str(config)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert config.read_bytes() == before


def test_a_stopped_run_says_how_to_go_on(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the status of an interrupted command."""

    def stopped(*_: object, **__: object) -> None:
        raise StoppedError("stopped after step 3 of 10", advice="The same command goes on from there")

    monkeypatch.setattr("sae_fast.training.run.train", stopped)

    with pytest.raises(SystemExit) as status:
        cli.main(["train", str(config)])
    assert status.value.code == command.INTERRUPTED
    assert "stopped after step 3 of 10" in capsys.readouterr().err


def test_help_loads_no_torch() -> None:
    """And has an example."""
    code = "import sys; from sae_fast import cli\ntry: cli.main(['train', '--help'])\nexcept SystemExit: "
    code += "assert 'torch' not in sys.modules"
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "sae-fast train config.toml" in done.stdout
    assert time.monotonic() - begun < 10
