"""Files and folders on another machine, whatever the machine: fetched whole into the cache, or read in ranges."""

import re
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sae_fast.errors import FormatError, SourceError, UnreachableError
from sae_fast.sources import cache
from sae_fast.sources.folder import SMALL_FILE, Folder
from sae_fast.sources.http import RangesRefusedError, download, read_range
from sae_fast.sources.progress import Progress
from sae_fast.sources.ranged import open_ranged
from sae_fast.sources.tensor_files import ENDINGS, TensorFile, open_tensor_file

FETCHED_WHOLE = 1 << 20
"""Largest tensor file that is fetched whole even if only its header is asked for, in bytes."""


@dataclass(frozen=True)
class RemoteFile:
    """One file on another machine."""

    url: str
    place: str
    """As messages call it."""
    size: int | None
    """Bytes, if the server tells."""
    digest: str | None = None
    """sha256, or git's hash, of its content, if the server tells."""
    etag: str | None = None
    """How the server tells this content from another, where there is no digest."""
    advice: str | None = None
    """What to do where the server is out of reach."""

    def __post_init__(self) -> None:
        if self.digest is not None and not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", self.digest):
            raise SourceError(f"{self.place}: the server states a digest {self.digest[:80]!r}")

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start:stop`. Raises `SourceError`."""
        with self._advising():
            return read_range(self.url, start, stop, self.etag)

    def here(self) -> Path | None:
        """The whole file, if the cache has it."""
        digest = self.digest or (cache.recall("addresses", self.url, self.etag) if self.etag else None)
        return None if digest is None else cache.find(digest)

    def fetch(self) -> Path:
        """The whole file, from the cache or brought into it. Raises `SourceError`."""
        if found := self.here():
            return found
        with cache.alone(self.digest or cache.name_for(self.url)) as part:
            # Another process may have fetched it in the meantime.
            if found := self.here():
                return found
            for _ in range(2):
                self._download(part)
                digest = self.digest or cache.digest_of(part)
                if found := cache.admit(part, digest):
                    if self.digest is None and self.etag:
                        cache.note(digest, "addresses", self.url, self.etag)
                    return found
        raise SourceError(f"{self.place}: arrived damaged twice", expected=f"content of the hash {self.digest}")

    def _download(self, part: Path) -> None:
        cache.require_space(self.size)
        there = part.stat().st_size if part.exists() else 0
        if self.digest and there and there == self.size:
            return
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        same = {} if self.digest else ({"If-Range": strong} if strong else None)
        if same is None or (self.size is not None and there >= self.size):
            part.unlink(missing_ok=True)
        with Progress(f"fetching {self.place}", self.size) as progress, self._advising():
            download(self.url, part, self.size, same, progress.at)

    @contextmanager
    def _advising(self) -> Iterator[None]:
        try:
            yield
        except UnreachableError as error:
            raise UnreachableError(f"{self.place}: {error}", advice=self.advice) from error


class RemoteFolder(Folder):
    """A folder on another machine; what differs between machines is how a name becomes a `RemoteFile`."""

    @property
    @abstractmethod
    def used(self) -> dict[str, RemoteFile]:
        """The files that were read or measured here and in the folders around, by their places: what an SAE consists of."""

    @abstractmethod
    def entry(self, name: str) -> RemoteFile | None:
        """The file of that name, in the folder or below."""

    def has(self, name: str) -> bool:
        """See `Folder`."""
        return self.entry(name) is not None

    def local(self, name: str) -> Path:
        """See `Folder`."""
        return self._require(name).fetch()

    def read(self, name: str) -> bytes:
        """See `Folder`; a file beyond the limit is not fetched."""
        size = self._require(name).size
        if size is not None and size > SMALL_FILE:
            raise FormatError(self.place(name), expected=f"a configuration of at most {SMALL_FILE} bytes", got=f"{size} bytes")
        return super().read(name)

    def open_tensors(self, name: str) -> TensorFile:
        """See `Folder`; a file that is not here is read in ranges where its form allows it."""
        file = self._require(name)
        is_ranged = PurePosixPath(name).suffix in ENDINGS and file.size is not None and file.size > FETCHED_WHOLE
        if is_ranged and file.here() is None:
            try:
                if ranged := open_ranged(file):
                    return ranged
            except RangesRefusedError:
                pass
        return open_tensor_file(file.fetch(), self.place(name))

    def is_here(self, name: str) -> bool:
        """See `Folder`."""
        return self._require(name).here() is not None

    def size(self, name: str) -> int | None:
        """See `Folder`."""
        return self._require(name).size

    def _require(self, name: str) -> RemoteFile:
        found = self.entry(name)
        if found is None:
            raise FormatError(f"{self.place(name)}: no such file")
        self.used[found.place] = found
        return found
