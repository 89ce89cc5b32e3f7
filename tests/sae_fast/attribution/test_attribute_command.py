"""The command `sae-fast attribute`."""

import json
from pathlib import Path

import pytest
import tiny
from random_saes import transcoders

from sae_fast import cli

TOKENIZER = tiny.byte_level_tokenizer()
TARGET, OTHER = TOKENIZER.decode([300]), TOKENIZER.decode([310])


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = cli.main(["attribute", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_table_and_graph(gpt2_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the strongest features of each SAE and writes a graph that names the target."""
    for layer, sae in enumerate(transcoders()):
        sae.save(tmp_path / f"tc{layer}")
    saes = [part for layer in range(3) for part in ("--sae", tmp_path / f"tc{layer}")]
    status, out, _ = run(
        capsys, "--model", gpt2_folder, *saes, "--prompt", "The old sailor counted", "--target", TARGET,
        "--graph", tmp_path / "graph.json", "--rows", 3,
    )  # fmt: skip

    assert status == 0
    assert f"logit of {TARGET!r} (logit" in out
    assert out.count("blocks.") == 3
    content = json.loads((tmp_path / "graph.json").read_text())
    assert [node["clerp"].startswith(f'Output "{TARGET}"') for node in content["nodes"] if node["feature_type"] == "logit"] == [
        True
    ]


@pytest.mark.parametrize("method", ["integrated", "ablation"])
def test_methods(gpt2_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    """Every method runs from the command, for a logit difference as well."""
    sae = tiny.sae(tmp_path / "sae")
    status, out, _ = run(
        capsys, "--model", gpt2_folder, "--sae", sae, "--prompt", "The old sailor", "--target", TARGET, "--versus", OTHER,
        "--method", method, "--top", 5, "--steps", 4,
    )  # fmt: skip

    assert status == 0
    assert f"minus that of {OTHER!r}" in out
    assert f"({method})" in out


def test_a_target_of_several_tokens_is_refused(gpt2_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pieces are named, so that one can see what to ask for."""
    status, _, err = run(
        capsys, "--model", gpt2_folder, "--sae", tiny.sae(tmp_path / "sae"), "--prompt", "The", "--target", " xylophone"
    )

    assert status == 2
    assert "--target: expected the text of one token, got ' xylophone', which is" in err
