"""A folder of files, on this machine or elsewhere, and the part of it that a user named."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sae_fast.errors import FormatError
from sae_fast.sources.tensor_files import TensorFile, open_tensor_file

SMALL_FILE = 64 << 20
"""Largest configuration file that is read, in bytes."""


class Folder(ABC):
    """Files by name, relative and with `/`: `cfg.json`, `checkpoints/final.safetensors`."""

    @property
    @abstractmethod
    def path(self) -> str:
        """Where it lies, as text with `/`: what messages call it, and where formats look for a layer or a site."""

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Names of the files directly in it, sorted."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether there is a file of that name, directly in it or below."""

    @abstractmethod
    def local(self, name: str) -> Path:
        """The whole file on this machine, fetched if need be. Raises `FormatError` where there is none."""

    @abstractmethod
    def parent(self) -> "Folder | None":
        """The folder around it, or None where nothing around it may be read."""

    def tensors(self, name: str) -> TensorFile:
        """The tensors of a file, by its ending: safetensors, npz, or a pickle of torch (read without running code)."""
        if name not in self._opened:
            self._opened[name] = self.open_tensors(name)
        return self._opened[name]

    def open_tensors(self, name: str) -> TensorFile:
        """Open a file for `tensors`, which keeps it."""
        return open_tensor_file(self.local(name), self.place(name))

    def bring(self, names: Iterable[str]) -> None:
        """Have these files whole on this machine, because all of them will be read."""
        for name in names:
            self.local(name)
            self._opened.pop(name, None)

    @cached_property
    def _opened(self) -> dict[str, TensorFile]:
        return {}

    def is_here(self, name: str) -> bool:
        """Whether reading the file whole needs no network."""
        return self.has(name)

    def size(self, name: str) -> int | None:
        """Length of a file in bytes; None where that is not known before it is fetched."""
        return self.local(name).stat().st_size

    def place(self, name: str) -> str:
        """A file as messages call it."""
        return f"{self.path}/{name}"

    def read(self, name: str) -> bytes:
        """The content of a small file. Raises `FormatError` beyond `SMALL_FILE`."""
        file = self.local(name)
        size = file.stat().st_size
        if size > SMALL_FILE:
            raise FormatError(self.place(name), expected=f"a configuration of at most {SMALL_FILE} bytes", got=f"{size} bytes")
        return file.read_bytes()

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object in a file. Raises `FormatError` for anything else."""
        try:
            content = json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{self.place(name)}: not valid JSON ({error})") from error
        if not isinstance(content, dict):
            raise FormatError(self.place(name), expected="a JSON object", got=type(content).__name__)
        return content


class LocalFolder(Folder):
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def path(self) -> str:
        """See `Folder`; absolute, so that a relative name still tells its layer."""
        return self.folder.absolute().as_posix()

    def names(self) -> Sequence[str]:
        """See `Folder`."""
        return sorted(entry.name for entry in self.folder.iterdir() if entry.is_file())

    def has(self, name: str) -> bool:
        """See `Folder`."""
        return (self.folder / name).is_file()

    def local(self, name: str) -> Path:
        """See `Folder`."""
        file = self.folder / name
        if not file.is_file():
            raise FormatError(f"{file}: no such file")
        return file

    def parent(self) -> "LocalFolder | None":
        """See `Folder`."""
        above = self.folder.absolute().parent
        return LocalFolder(above) if above != self.folder.absolute() else None


@dataclass(frozen=True)
class Source:
    """What a user named: a folder, or one file in it."""

    folder: Folder
    file: str | None = None
    """The file that was named, if one was."""

    @property
    def path(self) -> str:
        """What was named, as text with `/`."""
        return self.folder.path if self.file is None else self.folder.place(self.file)

    def names(self) -> Sequence[str]:
        """The file that was named, or else all files of the folder."""
        return self.folder.names() if self.file is None else [self.file]

    def holds(self, *names: str) -> bool:
        """Whether the folder has all these files, and the file that was named, if any, is one of them."""
        return (self.file is None or self.file in names) and all(self.folder.has(name) for name in names)
