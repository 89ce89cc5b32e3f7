import re
from pathlib import Path

import published
import pytest
import tiny

import sae_fast
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.formats import READABLE, info


def test_the_format_is_found_by_content(tmp_path: Path) -> None:
    """A folder's files decide, whatever its name, and text paths work as Path objects do."""
    tiny.sae(tmp_path / "gemma_scope")
    tiny.gemma_scope(tmp_path / "saelens")

    assert info(tmp_path / "gemma_scope").format == "saelens"
    assert info(str(tmp_path / "saelens")).format == "gemma_scope"


def test_every_format_is_documented() -> None:
    """docs/formats.md has a row for each, and no other."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")

    assert tuple(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == READABLE


def test_what_several_formats_fit_is_not_guessed(tmp_path: Path) -> None:
    """A folder with two SAEs of different formats asks for the file."""
    published.write(tmp_path / "params.npz", published.gemma_scope().files["params.npz"])
    for name, content in published.sparsify().files.items():
        published.write(tmp_path / name, content)
    with pytest.raises(
        FormatError, match=r"its content fits several formats \(gemma_scope, sparsify\)\. Name the file that is meant"
    ):
        info(tmp_path)

    assert info(tmp_path / "params.npz").format == "gemma_scope"
    assert info(tmp_path / "cfg.json").format == "sparsify"


def test_a_missing_path_says_so(tmp_path: Path) -> None:
    """A path that does not exist is named."""
    with pytest.raises(FormatError, match=r"nowhere: no such file or folder"):
        sae_fast.load(tmp_path / "nowhere")


def test_other_content_lists_what_was_found(tmp_path: Path) -> None:
    """A folder or file that holds no SAE is shown with what was expected in it."""
    with pytest.raises(FormatError, match="got an empty folder"):
        sae_fast.load(tmp_path)
    (tmp_path / "cfg.json").write_text("{}")
    with pytest.raises(
        FormatError, match=r"no SAE found: expected a file or folder in one of the formats .*saelens, .* got cfg.json"
    ):
        sae_fast.load(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(FormatError, match=r"notes.txt: no SAE found"):
        sae_fast.load(tmp_path / "notes.txt")


def test_save_checks_format_and_place(tmp_path: Path) -> None:
    """An unknown format, and a file where the folder should be, are refused."""
    sae = sae_fast.load(tiny.sae(tmp_path / "sae"))
    with pytest.raises(ArgumentError, match=r"format: expected one of .*saelens, .* got 'onnx'"):
        sae.save(tmp_path / "out", "onnx")  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="expected a folder, got a file"):
        sae.save(tmp_path / "file")
