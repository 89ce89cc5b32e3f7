import builtins
from pathlib import Path
from typing import Any

import published
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from sae_fast.errors import FormatError, MissingExtraError
from sae_fast.formats import _yaml
from sae_fast.formats._yaml import read_yaml
from sae_fast.sources import LocalFolder

PLAIN = [
    published.CONFIG_YAML.format(kind="transcoder_set", read="mlp.hook_in", written="hook_mlp_out"),
    published.CONF_YAML.format(d_in=2304, expansion=4.0, k=192, tied="true"),
    "a: 1\nb:\n  c: -0.5\n  d: null\n  e:\n    f: Text with blanks\n    g: ''\nh: ~\ni: 1.0e-4\n",
    "transcoders:\n  - \"hf://google/x/params.npz\"\n  - 'hf://google/y/params.npz'\nlast: false\n",
    "d_model:\n    value: 2560\nempty:\nd_feature:\n    value: 163840\n",
]
MORE = ["a: [1, 2]\n", "a: &x 1\nb: *x\n", "a: |\n  text\n", "a: {b: 1}\n", "a: yes\n", "a: 1_000\n", "a: 0o17\n", "- 1\n- 2\n"]


def read(folder: Path, text: str) -> Any:
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return read_yaml(LocalFolder(folder), "config.yaml").values


@pytest.fixture
def without_pyyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML is not installed."""
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)


@pytest.mark.parametrize("text", PLAIN)
@pytest.mark.usefixtures("without_pyyaml")
def test_published_files_need_no_pyyaml(text: str, tmp_path: Path) -> None:
    """Mappings and lists of plain values read as PyYAML reads them, without it."""
    assert read(tmp_path, text) == yaml.safe_load(text)


@pytest.mark.parametrize("text", MORE)
@pytest.mark.usefixtures("without_pyyaml")
def test_more_than_that_names_the_extra(text: str, tmp_path: Path) -> None:
    """What the plain reader does not know for sure is left to PyYAML, and the message says how to get it."""
    with pytest.raises(MissingExtraError, match=r"config.yaml: .*pip install 'sae-fast\[formats\]'"):
        read(tmp_path, text)


@pytest.mark.parametrize("text", MORE[:-1])
def test_more_than_that_is_read_with_pyyaml(text: str, tmp_path: Path) -> None:
    """With PyYAML, everything is what it says."""
    assert read(tmp_path, text) == yaml.safe_load(text)


def test_what_is_no_mapping_is_refused(tmp_path: Path) -> None:
    """Lists, nothing but brackets, and bytes that are no text."""
    with pytest.raises(FormatError, match=r"config.yaml: expected a YAML mapping, got list"):
        read(tmp_path, "- 1\n- 2\n")
    with pytest.raises(FormatError, match=r"config.yaml: not valid YAML"):
        read(tmp_path, "[" * 5000)


LINE = st.text(alphabet="ab1.-: '\"#~[{&*|>!%@`\t", max_size=12)


@example(lines=[(0, "1:\t")])
@given(lines=st.lists(st.tuples(st.integers(0, 3), LINE), max_size=6))
def test_the_plain_reader_agrees_with_pyyaml_or_declines(lines: list[tuple[int, str]]) -> None:
    """It never reads a text as something else than PyYAML does."""
    text = "\n".join("  " * indent + line for indent, line in lines)
    got = _yaml._plain(text)
    if got is not None:
        try:
            expected = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            pytest.fail(f"read {text!r} as {got}, PyYAML refuses: {error}")
        assert got == {str(key): value for key, value in expected.items()}
