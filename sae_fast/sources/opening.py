"""From what a user writes to a `Source`."""

from pathlib import Path

from sae_fast.errors import SourceError
from sae_fast.sources.folder import LocalFolder, Source
from sae_fast.sources.mirror import mirror


def open_source(source: str | Path) -> Source:
    """The file or folder that `source` names: a path, `hf://owner/repo/path@revision`, or an address of a file server.

    What the mirror has is not asked of the hub. Raises `SourceError` where there is nothing, and `UnreachableError` where
    the server does not answer.
    """
    path = Path(source).expanduser()
    if found := _local(path):
        return found
    text = str(source)
    if text.startswith(("hf:", "http:", "https:")):
        return _remote(text)
    raise SourceError(f"{text}: no such file or folder")


def _local(path: Path) -> Source | None:
    if path.is_dir():
        return Source(LocalFolder(path))
    return Source(LocalFolder(path.parent), path.name) if path.is_file() else None


def _remote(text: str) -> Source:
    # Local sources need none of this, and neither sockets nor the modules that bring them.
    from sae_fast.sources.hub import hub_address_of, open_hub

    address = hub_address_of(text)
    if address is None:
        return _served(text)
    if found := _mirrored(address.in_mirror):
        return found
    return Source(*open_hub(address))


def _served(url: str) -> Source:
    from sae_fast.sources.server import ServerFolder, file_at

    url = url.split("?", maxsplit=1)[0].split("#", maxsplit=1)[0]
    above, _, name = url.rstrip("/").rpartition("/")
    if "." in name and not url.endswith("/"):
        folder = ServerFolder(above)
        file = file_at(url)
        if file is not None and folder.has(name):
            return Source(folder, name)
    return Source(ServerFolder(url))


def _mirrored(place: str) -> Source | None:
    where = mirror()
    if where is None:
        return None
    if not where.startswith(("http:", "https:")):
        return _local(Path(where).expanduser() / place)
    return _served(f"{where}/{place}")
