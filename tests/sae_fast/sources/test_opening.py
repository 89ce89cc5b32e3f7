"""What users write leads to the files that they mean, or to an error that says what to do."""

from pathlib import Path

import pytest
import torch
from file_server import FileServer
from torch import Tensor

from sae_fast.errors import FormatError, SourceError, UnreachableError
from sae_fast.sources import LocalFolder, open_source
from sae_fast.sources.folder import SMALL_FILE
from sae_fast.sources.hub import HubAddress, hub_address_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://o/r", HubAddress("o/r")),
        ("hf://o/r/a/b.pt", HubAddress("o/r", "a/b.pt")),
        ("hf://o/r/a/b@v1", HubAddress("o/r", "a/b", "v1")),
        ("hf://o/r@v1/a/b/", HubAddress("o/r", "a/b", "v1")),
        ("hf://o/r@refs%2Fpr%2F1/a", HubAddress("o/r", "a", "refs/pr/1")),
        ("hf://o/r/a@refs/pr/1", HubAddress("o/r", "a", "refs/pr/1")),
        ("hf://o/r/sae_group_blocks.0.hook_24576:v1", HubAddress("o/r", "sae_group_blocks.0.hook_24576:v1")),
        ("hf://datasets/o/r/a", HubAddress("o/r", "a", "main", "datasets")),
        ("https://huggingface.co/o/r", HubAddress("o/r")),
        ("https://huggingface.co/o/r/resolve/main/a/b.npz?download=true", HubAddress("o/r", "a/b.npz")),
        ("https://huggingface.co/o/r/tree/v1/a%20b", HubAddress("o/r", "a b", "v1")),
        ("https://hf.co/o/r/blob/main/a.pt", HubAddress("o/r", "a.pt")),
        ("https://example.org/o/r/resolve/main/a", None),
    ],
)
def test_addresses_of_the_hub(text: str, expected: HubAddress | None) -> None:
    """`hf://` with the revision at either place, and addresses of the hub's pages and files, name one place."""
    assert hub_address_of(text) == expected


@pytest.mark.parametrize(
    "address", [HubAddress("o/r"), HubAddress("o/r", "a/b", "refs/pr/1"), HubAddress("o/r", "a", "v1", "datasets")]
)
def test_addresses_survive_being_written(address: HubAddress) -> None:
    """What messages call a place can be given to `load`."""
    assert hub_address_of(str(address)) == address


@pytest.mark.parametrize("text", ["hf://", "hf://owner", "hf://owner/", "hf://o/r/a@", "hf://o//a"])
def test_incomplete_addresses_are_refused(text: str) -> None:
    """An address without owner, repository or revision says how one looks."""
    with pytest.raises(SourceError, match="expected hf://owner/repo/path"):
        open_source(text)


def test_a_folder_on_the_hub_reads_like_a_local_one(hub: FileServer, folder: Path, weights: dict[str, Tensor]) -> None:
    """Names, presence, content, tensors and the folder around it are those of the folder on the server."""
    here, there = LocalFolder(folder), open_source("hf://owner/repo/layer_3/sae").folder

    assert there.path == "hf://owner/repo/layer_3/sae"
    assert there.names() == here.names()
    assert [there.has(name) for name in ("cfg.json", "missing", "../notes.txt")] == [True, False, False]
    assert there.read_json("cfg.json") == {"k": 5}
    assert there.tensors("weights.safetensors").shapes == here.tensors("weights.safetensors").shapes
    above = there.parent()
    assert above is not None
    assert above.names() == ["notes.txt"]
    assert above.has("sae/cfg.json")
    root = above.parent()
    assert root is not None
    assert root.parent() is None


@pytest.mark.parametrize("name", ["weights.safetensors", "cfg.json"])
def test_one_file_may_be_named(hub: FileServer, folder: Path, name: str) -> None:
    """A file on the hub or on a server is a source of that one file, in its folder."""
    for source in (f"hf://owner/repo/layer_3/sae/{name}", f"{hub.address}/files/owner/repo/layer_3/sae/{name}"):
        opened = open_source(source)
        assert opened.file == name
        assert opened.names() == [name]
        assert opened.folder.has("cfg.json")


def test_a_folder_may_be_called_like_a_file(hub: FileServer, folder: Path) -> None:
    """`v5_32k_layer_0.pt` is a folder in one release, and found to be one."""
    folder.rename(folder.parent / "layer_0.pt")

    assert open_source("hf://owner/repo/layer_3/layer_0.pt").names() == ["cfg.json", "weights.safetensors"]
    assert open_source(f"{hub.address}/files/owner/repo/layer_3/layer_0.pt").folder.has("cfg.json")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://owner/repo/layer_4", "no such file or folder at commit 0123456789ab"),
        ("hf://owner/repo/layer_3/sae/cfg.jsn", "no such file or folder at commit"),
        ("hf://owner/other/layer_3", "no such repository or revision"),
        ("hf://owner/repo/layer_3@v9", "no such repository or revision"),
    ],
)
def test_what_is_not_on_the_hub(hub: FileServer, folder: Path, source: str, message: str) -> None:
    """Wrong paths, repositories and revisions are told apart."""
    with pytest.raises(SourceError, match=message) as caught:
        open_source(source)

    assert not isinstance(caught.value, UnreachableError)


def test_configurations_are_small(hub: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration of absurd size is not fetched."""
    (folder / "cfg.json").write_bytes(b" " * 2000)
    monkeypatch.setattr("sae_fast.sources.remote.SMALL_FILE", 1999)
    opened = open_source("hf://owner/repo/layer_3/sae")

    with pytest.raises(FormatError, match="a configuration of at most 1999 bytes, got 2000 bytes"):
        opened.folder.read("cfg.json")

    assert "cfg.json" not in hub.sent
    assert SMALL_FILE > 1 << 20


def test_a_mirror_comes_first(hub: FileServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a mirror folder has is read there; the rest comes from the hub; a revision has a folder of its own."""
    place = tmp_path / "mirror" / "owner" / "repo" / "layer_3" / "sae"
    place.mkdir(parents=True)
    (place / "cfg.json").write_text('{"k": 6}')
    pinned = tmp_path / "mirror" / "owner" / "repo@v1" / "layer_3" / "sae"
    pinned.mkdir(parents=True)
    (pinned / "cfg.json").write_text('{"k": 7}')
    monkeypatch.setenv("SAE_FAST_MIRROR", str(tmp_path / "mirror"))

    assert open_source("hf://owner/repo/layer_3/sae").folder.read_json("cfg.json") == {"k": 6}
    assert open_source("hf://owner/repo/layer_3/sae/cfg.json").file == "cfg.json"
    assert open_source("hf://owner/repo/layer_3/sae@v1").folder.read_json("cfg.json") == {"k": 7}
    assert hub.requests == []
    assert open_source("hf://owner/repo/layer_3/notes.txt").folder.path == "hf://owner/repo/layer_3"


def test_a_mirror_may_be_an_address(hub: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror on a file server is read like a folder."""
    monkeypatch.setenv("SAE_FAST_MIRROR", f"{hub.address}/files/")

    opened = open_source("hf://owner/repo/layer_3/sae")

    assert opened.folder.path == f"{hub.address}/files/owner/repo/layer_3/sae"
    assert opened.folder.read_json("cfg.json") == {"k": 5}


@pytest.mark.parametrize("how", ["no-network", "offline"])
def test_without_a_network_the_error_says_what_to_fetch(
    hub: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It names the place, the command that fetches it elsewhere, and where to put what that brings."""
    if how == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(UnreachableError) as caught:
        open_source("hf://owner/repo/layer_3/sae")

    message = str(caught.value)
    assert message.startswith("hf://owner/repo/layer_3/sae: ")
    assert ("HF_HUB_OFFLINE is set" in message) == (how == "offline")
    assert "sae-fast fetch 'hf://owner/repo/layer_3/sae' --mirror MIRROR" in message
    assert "as MIRROR/owner/repo/layer_3/sae, with SAE_FAST_MIRROR set to MIRROR" in message
    assert hub.requests == []


def test_what_the_cache_has_needs_no_network(hub: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision, its listings and files that were read before are read again offline; a file that was not says so."""
    open_source("hf://owner/repo/layer_3/sae").folder.local("weights.safetensors")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.forget()

    opened = open_source("hf://owner/repo/layer_3/sae")

    assert opened.folder.tensors("weights.safetensors").shapes["W_enc"] == (48, 64)
    assert hub.requests == []
    with pytest.raises(
        UnreachableError, match=r"sae/cfg.json: HF_HUB_OFFLINE .* sae-fast fetch 'hf://owner/repo/layer_3/sae/cfg"
    ):
        opened.folder.read("cfg.json")


def test_the_hubs_own_cache_serves_offline(
    hub: FileServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that the hub's tools have unpacked is read where it lies."""
    theirs = tmp_path / "hub-home" / "hub" / "models--owner--repo"
    (theirs / "refs").mkdir(parents=True)
    (theirs / "refs" / "main").write_text(COMMIT)
    (theirs / "snapshots" / COMMIT).mkdir(parents=True)
    (theirs / "snapshots" / COMMIT / "layer_3").symlink_to(folder.parent)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    assert open_source("hf://owner/repo/layer_3/sae").names() == ["cfg.json", "weights.safetensors"]
    assert open_source("hf://owner/repo/layer_3/sae/cfg.json").file == "cfg.json"


def test_servers_without_an_index_page_are_asked_for_names(hub: FileServer, folder: Path) -> None:
    """A folder of an ordinary server lists what its index page links to, and has what it is asked for."""
    opened = open_source(f"{hub.address}/files/owner/repo/layer_3/sae")
    assert opened.names() == ["cfg.json", "weights.safetensors"]
    assert opened.folder.path.endswith("/files/owner/repo/layer_3/sae")

    hub.has_index = False
    opened = open_source(f"{hub.address}/files/owner/repo/layer_3/sae")
    assert opened.names() == []
    assert [opened.folder.has(name) for name in ("cfg.json", "missing.json")] == [True, False]
    above = opened.folder.parent()
    assert above is not None
    assert above.has("notes.txt")
    assert torch.equal(opened.folder.tensors("weights.safetensors").read("k"), torch.tensor(5, dtype=torch.int32))
