"""Files of a cache or a store: written whole or not at all, and known by their content."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sae_fast.errors import DiskFullError

HASHED_BYTES = 200 * 10**6
"""Files up to this size are known by their content, larger ones by size and time of change."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name and rename it: under `path` there is nothing, or all of it."""
    new = path.with_name(path.name + ".new")
    with reported_full(path):
        try:
            with new.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)
            raise


@contextmanager
def reported_full(path: Path) -> Iterator[None]:
    """Turn "no space left on device" into DiskFullError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"No space left on the device that holds {path.parent} (could not write {path.name}). Finished parts are kept: "
                "free some space, or name another folder, and start again."
            ) from error
        raise


def fingerprint(inputs: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of `inputs` as canonical JSON; what JSON does not know counts by its repr."""
    canonical = json.dumps(inputs, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=repr)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def content_fingerprint(path: Path) -> str:
    """Return a fingerprint of a file, or of all files below a folder, hidden ones left out."""
    if path.is_file():
        return fingerprint(_file(path))
    found = {}
    for root, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__pycache__")))
        for name in sorted(names):
            if not name.startswith("."):
                file = Path(root) / name
                found[file.relative_to(path).as_posix()] = _file(file)
    return fingerprint(found)


def source_fingerprint(source: str) -> str:
    """Return the fingerprint of what a source names: the files on this disk, or the name on a hub."""
    path = Path(source).expanduser()
    return content_fingerprint(path) if path.exists() else f"hub:{source}"


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _file(path: Path) -> list[Any]:
    status = path.stat()
    if status.st_size > HASHED_BYTES:
        return [status.st_size, status.st_mtime_ns]
    return [status.st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
