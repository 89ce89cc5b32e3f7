"""Files that came from elsewhere, kept by the hash of their content, so that each is fetched once and is what it should be.

    SAE_FAST_CACHE or ~/.cache/sae-fast
    ├── blobs/<digest>          a whole file; <digest>.ok beside it says in which state it was checked
    ├── blobs/<digest>.part     a download that was broken off, which the next one goes on with; .lock says who is at it
    └── notes/…                 what addresses lead to: revisions to commits, folders to listings, addresses to digests

A digest is the sha256 of a file, or, with 40 digits, the hash by which git knows it.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sae_fast.errors import SourceError
from sae_fast.progress import size as size_text
from sae_fast.sources.token import hub_home

GIT_DIGITS = 40


def cache_folder() -> Path:
    """Where fetched files are kept: `SAE_FAST_CACHE`, or `sae-fast` in the user's folder for caches."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "sae-fast"
    return Path(os.environ.get("SAE_FAST_CACHE") or default).expanduser()


def find(digest: str) -> Path | None:
    """The file of that content, if it is here and whole; one that is damaged is removed."""
    blob = _blob(digest)
    if blob.is_file() and (_is_checked(blob) or _check(blob, digest)):
        return blob
    blob.unlink(missing_ok=True)
    return _from_hub_cache(digest)


@contextmanager
def alone(digest: str) -> Iterator[Path]:
    """Where to put a download of that content; other processes that want the same wait."""
    part = _blob(digest).with_suffix(".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield part


def admit(part: Path, digest: str) -> Path | None:
    """Take a finished download in under its digest; None, and the download is gone, if it is something else."""
    if digest_of(part, digest) != digest:
        part.unlink()
        return None
    blob = _blob(digest)
    part.replace(blob)
    _mark(blob)
    return blob


def require_space(size: int | None) -> None:
    """Raise `SourceError` where a file of that size does not fit."""
    free = shutil.disk_usage(cache_folder()).free
    if size is not None and size > free:
        raise SourceError(
            f"{cache_folder()}: the disk has {size_text(free)} left and {size_text(size)} are to be fetched",
            advice="Make room, or name another folder in SAE_FAST_CACHE",
        )


def name_for(address: str) -> str:
    """What a download is called whose digest is not known before it is here."""
    return f"address-{hashlib.sha256(address.encode()).hexdigest()}"


def recall(*name: str) -> Any:
    """What was noted under a name, or None."""
    try:
        return json.loads(_note(name).read_bytes())
    except (OSError, ValueError):
        return None


def note(value: Any, *name: str) -> None:
    """Keep what an address leads to; in a cache that cannot be written to, it is asked for again."""
    file = _note(name)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, json.dumps(value))


def digest_of(file: Path, like: str | None = None) -> str:
    """The sha256 of a file, or git's hash of it where `like` is one."""
    with file.open("rb") as opened:
        if like is None or len(like) != GIT_DIGITS:
            return hashlib.file_digest(opened, "sha256").hexdigest()
        state = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
        while piece := opened.read(1 << 20):
            state.update(piece)
        return state.hexdigest()


def _blob(digest: str) -> Path:
    return cache_folder() / "blobs" / digest


def _note(name: tuple[str, ...]) -> Path:
    return cache_folder() / "notes" / name[0] / f"{hashlib.sha256(json.dumps(name).encode()).hexdigest()[:32]}.json"


def _from_hub_cache(digest: str) -> Path | None:
    """What the hub's own tools fetched, linked into ours; they name files by the same digests."""
    home = Path(os.environ.get("HF_HUB_CACHE", hub_home() / "hub")).expanduser()
    found = next(home.glob(f"*--*/blobs/{digest}"), None)
    if found is None or digest_of(found, digest) != digest:
        return None
    blob = _blob(digest)
    blob.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        blob.symlink_to(found.resolve())
    _mark(blob)
    return blob


def _check(blob: Path, digest: str) -> bool:
    if digest_of(blob, digest) != digest:
        return False
    _mark(blob)
    return True


def _state(blob: Path) -> str:
    status = blob.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _mark(blob: Path) -> None:
    _write(blob.with_suffix(".ok"), _state(blob))


def _is_checked(blob: Path) -> bool:
    """Whether nothing touched it since its content was last found to be right."""
    mark = blob.with_suffix(".ok")
    return mark.is_file() and mark.read_text(encoding="utf-8") == _state(blob)


def _write(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
