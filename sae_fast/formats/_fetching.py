"""Bringing the files of an SAE here, or into a mirror, without reading them."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from sae_fast.errors import ArgumentError, SourceError
from sae_fast.sources import Source


def bring(source: Source, names: Iterable[str], mirror: Path | None) -> list[Path]:
    """The files of a source on this machine: those of `names`, and the configuration that was read to find them."""
    # What is on this machine already brings no sockets along.
    from sae_fast.sources.hub import HubFolder, hub_address_of
    from sae_fast.sources.remote import RemoteFolder

    if not isinstance(source.folder, RemoteFolder):
        return [source.folder.local(name) for name in names]
    if mirror is not None and not isinstance(source.folder, HubFolder):
        raise ArgumentError("mirror", expected="a place on the hub", got=source.path)
    source.folder.bring(names)
    found = []
    for place, file in sorted(source.folder.used.items()):
        address = hub_address_of(place)
        found.append(file.fetch() if mirror is None or address is None else _copy(file.fetch(), mirror, address.in_mirror))
    return found


def _copy(file: Path, mirror: Path, place: str) -> Path:
    """A copy of `file` at `place` of the mirror, whole or not at all."""
    if any(part in {"", ".", ".."} for part in place.split("/")):
        raise SourceError(f"{place}: not a path within a repository")
    target = mirror / place
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(file, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
