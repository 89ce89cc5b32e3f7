"""Every published format is the same on the hub, on a file server and on this machine, whole and in part."""

from pathlib import Path

import published
import pytest
import torch
from file_server import FileServer

import sae_fast
from sae_fast import formats
from sae_fast.config import THRESHOLD_ARCHITECTURES
from sae_fast.sae import SAE

FEATURES = [20, 3, 11]


def placed(hub: FileServer, name: str) -> tuple[Path, str]:
    """(folder or file of a sample on this machine, what names it on the hub)."""
    path = published.SAMPLES[name]().write(hub.root / "owner" / name)
    return path, f"hf://{path.relative_to(hub.root).as_posix()}"


def assert_same(found: SAE, expected: SAE) -> None:
    """All tensors are equal, bit for bit, and so is the configuration."""
    tensors, others = found.tensors(), expected.tensors()
    assert tensors.keys() == others.keys()
    for key, tensor in tensors.items():
        assert tensor.dtype == others[key].dtype
        assert torch.equal(tensor, others[key]), key
    assert found.cfg == expected.cfg


@pytest.mark.parametrize("name", published.SAMPLES)
def test_the_hub_is_like_this_machine(hub: FileServer, name: str) -> None:
    """Whole, its encoder alone, and where features do not compete some of them; info agrees."""
    path, source = placed(hub, name)
    cfg = formats.info(path).cfg

    assert formats.info(source).cfg == cfg
    if not cfg.tied:
        assert_same(sae_fast.load(source, encoder_only=True), sae_fast.load(path, encoder_only=True))
    if cfg.architecture in THRESHOLD_ARCHITECTURES:
        assert_same(sae_fast.load(source, features=FEATURES), sae_fast.load(path, features=FEATURES))
    assert_same(sae_fast.load(source), sae_fast.load(path))


@pytest.mark.parametrize("name", published.SAMPLES)
def test_what_was_fetched_loads_offline(hub: FileServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After fetch, recognising and loading the SAE asks the hub nothing."""
    path, source = placed(hub, name)
    formats.fetch(source)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.forget()

    assert_same(sae_fast.load(source), sae_fast.load(path))
    assert hub.requests == []


@pytest.mark.parametrize("name", published.SAMPLES)
def test_a_mirror_holds_what_is_needed(hub: FileServer, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fetch brings is enough to load the same SAE without a network."""
    path, source = placed(hub, name)
    expected = sae_fast.load(path)
    formats.fetch(source, mirror=tmp_path / "mirror")
    monkeypatch.setenv("SAE_FAST_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    assert_same(sae_fast.load(source), expected)


@pytest.mark.parametrize("has_index", [True, False], ids=["index-page", "no-index-page"])
@pytest.mark.parametrize("name", published.SAMPLES)
def test_a_file_server_is_like_this_machine(hub: FileServer, name: str, has_index: bool) -> None:
    """With an index page a folder loads; without one, a file does."""
    path, source = placed(hub, name)
    hub.has_index = has_index
    address = f"{hub.address}/files/{source.removeprefix('hf://')}"

    if path.is_dir() and not has_index:
        address += f"/{published.SAMPLES[name]().tensor_files()[0]}"
    assert_same(sae_fast.load(address), sae_fast.load(path))
