"""Each file is fetched once, is what the hub says it is, and stays so."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from file_server import FileServer, digest

from sae_fast.errors import SourceError, UnreachableError
from sae_fast.sources import cache, open_source

SOURCE = "hf://owner/repo/layer_3/sae"
NAME = "weights.safetensors"


def fetched(hub: FileServer, source: str = SOURCE) -> Path:
    """The file on this machine, through a source opened anew."""
    return open_source(source).folder.local(NAME)


def test_a_file_is_fetched_once(hub: FileServer, folder: Path) -> None:
    """The second time it comes from the cache, where it is named by its sha256."""
    first = fetched(hub)
    hub.forget()

    assert fetched(hub) == first
    assert NAME not in hub.sent
    assert first.name == digest(folder / NAME)
    assert first.read_bytes() == (folder / NAME).read_bytes()


def test_small_files_are_checked_by_gits_hash(hub: FileServer, folder: Path) -> None:
    """Files that the hub does not keep as LFS are named by the hash that git has for them."""
    found = open_source(SOURCE).folder.local("cfg.json")

    assert found.name == digest(folder / "cfg.json")
    assert len(found.name) == cache.GIT_DIGITS


def test_the_listing_of_a_commit_is_asked_for_once(hub: FileServer, folder: Path) -> None:
    """A source opened again asks only which commit its revision is; one that names the commit asks nothing."""
    fetched(hub)
    hub.forget()

    fetched(hub)
    assert [path for path, _ in hub.requests] == ["/api/models/owner/repo/revision/main"]

    hub.forget()
    fetched(hub, "hf://owner/repo/layer_3/sae@0123456789abcdef0123456789abcdef01234567")
    assert hub.requests == []


@pytest.mark.parametrize("damage", ["byte", "length"])
def test_a_damaged_file_is_fetched_again(hub: FileServer, folder: Path, damage: str) -> None:
    """A file in the cache that something touched is hashed before it is used again."""
    first = fetched(hub)
    content = bytearray(first.read_bytes())
    content[100] ^= 1
    first.write_bytes(content if damage == "byte" else content[:-1])
    hub.forget()

    assert fetched(hub).read_bytes() == (folder / NAME).read_bytes()
    assert hub.sent[NAME] == (folder / NAME).stat().st_size


def test_a_touched_but_whole_file_is_kept(hub: FileServer, folder: Path) -> None:
    """A new time of change alone fetches nothing."""
    os.utime(fetched(hub), (1, 1))
    hub.forget()

    fetched(hub)

    assert NAME not in hub.sent


def test_a_broken_download_is_gone_on_with(hub: FileServer, folder: Path) -> None:
    """What came before a download was given up is not fetched again."""
    size = (folder / NAME).stat().st_size
    hub.faults[NAME] = ["cut"] + [503] * 20
    with pytest.raises(UnreachableError, match="503"):
        fetched(hub)
    hub.faults.clear()
    hub.forget()

    assert fetched(hub).read_bytes() == (folder / NAME).read_bytes()
    assert hub.sent[NAME] == size - size // 2


def test_what_a_broken_download_left_must_belong_to_the_file(hub: FileServer, folder: Path) -> None:
    """A part that turns out wrong when all is there is thrown away, and the file fetched from its beginning."""
    size = (folder / NAME).stat().st_size
    with cache.alone(digest(folder / NAME)) as part:
        part.write_bytes(b"x" * 1000)

    assert fetched(hub).read_bytes() == (folder / NAME).read_bytes()
    assert hub.sent[NAME] == 2 * size - 1000


def test_content_other_than_the_hub_says_is_refused(hub: FileServer, folder: Path) -> None:
    """A file that arrives with a wrong hash twice is refused, and nothing of it stays."""
    source = open_source(SOURCE)
    source.folder.names()
    (folder / NAME).write_bytes((folder / NAME).read_bytes()[::-1])

    with pytest.raises(SourceError, match="arrived damaged twice: expected content of the hash"):
        source.folder.local(NAME)

    assert [path for path in (cache.cache_folder() / "blobs").iterdir() if path.suffix != ".lock"] == []


def test_a_file_that_several_want_is_fetched_once(hub: FileServer, folder: Path) -> None:
    """Of several that want a file at once, one fetches it and the others wait for it; their locks are on the disk."""
    sources = [open_source(SOURCE) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda source: source.folder.local(NAME), sources))

    assert len(set(found)) == 1
    assert hub.sent[NAME] == (folder / NAME).stat().st_size


def test_what_the_hubs_own_tools_fetched_is_used(hub: FileServer, folder: Path, tmp_path: Path) -> None:
    """Their cache names files by the same hashes; a damaged one there is not used."""
    theirs = tmp_path / "hub-home" / "hub" / "models--owner--repo" / "blobs" / digest(folder / NAME)
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes((folder / NAME).read_bytes())

    assert fetched(hub).read_bytes() == theirs.read_bytes()
    assert NAME not in hub.sent

    theirs.write_bytes(b"damaged")
    assert fetched(hub).read_bytes() == (folder / NAME).read_bytes()
    assert theirs.read_bytes() == b"damaged"


def test_a_cache_that_cannot_be_written_to_still_serves(hub: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in a shared, read-only cache is used: no lock is taken and no note has to be made."""
    expected = fetched(hub)

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(cache, "_write", refuse)
    monkeypatch.setattr(cache, "alone", refuse)

    assert fetched(hub) == expected


def test_a_full_disk_is_told_before_the_download(hub: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that does not fit is not begun."""
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10_000})())

    with pytest.raises(SourceError, match=r"10.0 kB left and 19.\d kB are to be fetched. Make room"):
        fetched(hub)


def test_servers_without_hashes_are_cached_by_etag(hub: FileServer, folder: Path) -> None:
    """A file of an ordinary server is fetched again when its ETag changes, and only then."""
    address = f"{hub.address}/files/owner/repo/layer_3/sae"
    first = fetched(hub, address).read_bytes()
    hub.forget()
    fetched(hub, address)
    assert hub.sent.get(NAME, 0) <= 1

    (folder / NAME).write_bytes(first[::-1])
    assert fetched(hub, address).read_bytes() == first[::-1]
