"""sae-bench 0.6.0 reads our results."""

from pathlib import Path

import pytest
import tiny
from peer.environments import PATIENCE_S, Peer

from sae_fast import cli

pytestmark = [pytest.mark.peer, pytest.mark.timeout(2 * PATIENCE_S)]


def test_saebench_reads_what_we_write(saebench: Peer, gpt2_folder: Path, tmp_path: Path) -> None:
    """Its own classes accept the files of `sae-fast eval`, and refuse one with a field less."""
    corpus, sae = tiny.jsonl(tmp_path / "texts.jsonl"), tiny.sae(tmp_path / "sae")
    arguments = ["--model", str(gpt2_folder), "--corpus", str(corpus), "--sae", str(sae), "--tokens", "200", "--quiet"]
    assert cli.main(["eval", *arguments, "--out", str(tmp_path / "out")]) == 0
    (path,) = (tmp_path / "out" / "saebench" / "core").glob("*_eval_results.json")

    saebench.run("run_saebench.py", path)

    path.write_text(path.read_text().replace('"cossim"', '"other"'))
    with pytest.raises(AssertionError, match="cossim"):
        saebench.run("run_saebench.py", path)
