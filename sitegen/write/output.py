"""The only writer of a site: everything goes into a folder beside the target, which takes its place when all is there."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO

import orjson

from sitegen.errors import DiskFullError, NotOurFolderError, OutputError

GENERATOR = "sitegen"
MANIFEST = "data/manifest.json"
_SCRATCH = ".scratch"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class OutputDir:
    """A folder that appears whole or not at all.

    Use as a context manager. Files are written to `<path>.partial-<pid>`; at the end of the block that folder takes the place
    of `path`, whose former content stays until then. After an exception the partial folder is removed and `path` is untouched.

    Args:
        path: the folder to make. It may not exist, be empty, or hold a site that sitegen made.

    Raises:
        NotOurFolderError: `path` holds something else (on entering; nothing has been written then).
        DiskFullError: no space left, at any write.
        OutputError: `path` is a file, its parent cannot be written, or a file is written twice.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).resolve()
        self.sizes: dict[str, int] = {}
        """Bytes of every file written so far, by its path below the site's root."""
        self._partial = self.path.with_name(f"{self.path.name}.partial-{os.getpid()}")

    def __enter__(self) -> "OutputDir":
        _restore_interrupted_swap(self.path)
        _check_is_ours(self.path)
        with self._reported("create"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(self.path)
            self._partial.mkdir()
        self.sizes = {}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        shutil.rmtree(self._partial / _SCRATCH, ignore_errors=True)
        if kind is None:
            try:
                _check_is_ours(self.path)
                with self._reported("move into place"):
                    _swap(self._partial, self.path)
            except BaseException:
                shutil.rmtree(self._partial, ignore_errors=True)
                raise
        else:
            shutil.rmtree(self._partial, ignore_errors=True)

    def write(self, name: str, data: bytes) -> None:
        """Write one file; `name` is its path below the root, with forward slashes. A second write of a name is an error."""
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            raise OutputError(f"A file of a site needs a path below its root; got {name!r}.")
        if name in self.sizes:
            raise OutputError(f"{name} would be written twice; two pages or SAEs of the site share a name.")
        target = self._partial / relative
        with self._reported(f"write {name}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        self.sizes[name] = len(data)

    @contextmanager
    def scratch(self, name: str) -> Iterator[IO[bytes]]:
        """Yield a binary file, open for writing and reading, that is removed at the end and is no part of the site."""
        target = self._partial / _SCRATCH / name
        with self._reported("write a temporary file", others=False):
            target.parent.mkdir(exist_ok=True)
            try:
                with target.open("w+b") as file:
                    yield file
            finally:
                target.unlink(missing_ok=True)

    @property
    def n_bytes(self) -> int:
        """Bytes of all files written so far."""
        return sum(self.sizes.values())

    @contextmanager
    def _reported(self, action: str, others: bool = True) -> Iterator[None]:
        """Turn a full disk into DiskFullError and, unless `others` is False, any other OSError into OutputError."""
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_SPACE and not others:
                raise
            if error.errno in _NO_SPACE:
                raise DiskFullError(
                    f"No space left on the device that holds {self.path.parent} (could not {action} after {self.n_bytes:,} "
                    "bytes). The unfinished site has been removed and an older one is untouched; free some space, or choose "
                    "another output folder."
                ) from error
            raise OutputError(f"Cannot {action} for {self.path}: {error.strerror or error}.") from error


def is_ours(path: Path) -> bool:
    """Return True if the folder holds a site that sitegen made."""
    try:
        manifest = orjson.loads((path / MANIFEST).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return False
    return isinstance(manifest, dict) and str(manifest.get("generator", "")).startswith(GENERATOR)


def _check_is_ours(path: Path) -> None:
    if path.is_dir():
        if any(path.iterdir()) and not is_ours(path):
            raise NotOurFolderError(
                f"{path} is not empty and holds no site made by sitegen ({MANIFEST} is missing or names another generator). "
                "It is left as it is; choose another output folder or empty it yourself."
            )
    elif path.exists():
        raise OutputError(f"{path} is a file; a site needs a folder. Choose another output folder.")


def _swap(new: Path, target: Path) -> None:
    """Rename `new` to `target`; a former `target` steps aside first and comes back if that fails."""
    if not target.exists():
        new.rename(target)
        return
    old = target.with_name(f"{target.name}.old-{os.getpid()}")
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _restore_interrupted_swap(path: Path) -> None:
    """Bring back the former site where a build was killed between the two renames of its swap."""
    if not path.exists():
        for old in sorted(path.parent.glob(f"{path.name}.old-*")):
            if is_ours(old):
                old.rename(path)
                return


def _remove_abandoned(path: Path) -> None:
    """Remove what builds that were killed have left beside `path`."""
    for kind in ("partial", "old"):
        for folder in path.parent.glob(f"{path.name}.{kind}-*"):
            pid = folder.name.rpartition("-")[2]
            if pid.isdigit() and (int(pid) == os.getpid() or not _is_running(int(pid))):
                shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
