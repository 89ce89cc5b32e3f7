"""The catalogue is made from SAELens's directory alone, the same text each time."""

import importlib.util
import json
from pathlib import Path

import pytest

from sae_fast.catalogue import rebuild, search
from sae_fast.errors import MissingExtraError, SourceError

DIRECTORY = """
b-release:
  conversion_func: null
  model: gpt2-small
  repo_id: owner/b
  saes:
  - {id: blocks.2.hook_resid_pre, path: blocks.2.hook_resid_pre, l0: 12}
  - id: blocks.3.hook_resid_pre
    path: 3-res
    neuronpedia: gpt2-small/3-res-16k
    conversion_func: null
    repo_id: owner/b
    model: gpt2-small
    saes: [{id: blocks.2.hook_resid_pre, path: x}]
a-release:
  conversion_func: mntss_clt_layer_transcoder
  model: gemma-2-2b
  repo_id: owner/a
  config_overrides: {prepend_bos: true}
  links: {model: https://example.org}
  saes:
  - {id: layer_5, path: 5, norm_scaling_factor: 2.5}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    file = tmp_path / "pretrained_saes.yaml"
    file.write_text(DIRECTORY)
    return file


def test_a_directory_becomes_lines(directory: Path) -> None:
    """Releases are sorted and one to a line; facts that are not needed, and nested copies, are left out."""
    text = rebuild.catalogue_of(rebuild.read(directory), "1.2.3")

    assert json.loads(text) == {
        "source": "pretrained_saes.yaml of sae-lens 1.2.3",
        "n_releases": 2,
        "n_saes": 3,
        "releases": [
            {
                "release": "a-release",
                "repo": "owner/a",
                "format": "circuit_tracer_clt",
                "model": "gemma-2-2b",
                "overrides": {"prepend_bos": True},
                "saes": [["layer_5", "5", None, 5, None, None, 2.5]],
            },
            {
                "release": "b-release",
                "repo": "owner/b",
                "format": "saelens",
                "model": "gpt2-small",
                "saes": [
                    ["blocks.2.hook_resid_pre", None, "blocks.2.hook_resid_pre", 2, None, 12],
                    [
                        "blocks.3.hook_resid_pre",
                        "3-res",
                        "blocks.3.hook_resid_pre",
                        3,
                        16384,
                        None,
                        None,
                        None,
                        "gpt2-small/3-res-16k",
                    ],
                ],
            },
        ],
    }
    assert [line[:13] for line in text.splitlines()] == ['{"source":"pr', '{"release":"a', '{"release":"b', "]}"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    """A YAML file that is no directory of SAEs is not believed."""
    (tmp_path / "other.yaml").write_text("- 1\n- 2\n")

    with pytest.raises(SourceError, match="expected releases with their SAEs"):
        rebuild.read(tmp_path / "other.yaml")


def test_saelens_itself_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is found beside the package without importing it; without the package, the error says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(MissingExtraError, match="pip install --no-deps sae-lens"):
        rebuild.installed_directory()


@pytest.mark.peer
def test_what_ships_is_what_saelens_has() -> None:
    """The catalogue in the package is what the rebuild makes of an installed SAELens of the same version."""
    if importlib.util.find_spec("sae_lens") is None:
        pytest.skip("sae-lens is not installed")
    file = rebuild.installed_directory()
    shipped = (Path(search.__file__).parent / search.DATA).read_text(encoding="utf-8")
    version = rebuild.version_of(file)
    if json.loads(shipped)["source"] != f"{rebuild.DIRECTORY} of sae-lens {version}":
        pytest.skip(f"sae-lens {version} is installed, and the catalogue is of another version")

    assert rebuild.catalogue_of(rebuild.read(file), version) == shipped
