"""Stages that read and write files: each knows its inputs, is skipped when it is done, and continues where it stopped.

A stage is a folder of the cache named after the stage and the fingerprint of its inputs:

    .sitegen/release/tokens-2f0c…/            inputs.json, the stage's files, done.json

`done.json` is written last. Whatever changes the result belongs into the inputs: options, the content of files, and the
version of the code (a constant of the stage, raised by whoever changes what it writes). Other settings give another folder;
going back to old settings finds the old one.
"""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sae_fast.files import fingerprint, folder_size, reported_full, write_whole
from sitegen.errors import CacheError


@dataclass(frozen=True)
class Stage:
    """One step of a build, in a folder of its own."""

    name: str
    cache: Path
    inputs: dict[str, Any]
    """everything the result depends on, as JSON"""

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any of the inputs."""
        return fingerprint(self.inputs)

    @property
    def folder(self) -> Path:
        return self.cache / f"{self.name}-{self.fingerprint}"

    @property
    def is_done(self) -> bool:
        return (self.folder / "done.json").is_file()

    @property
    def n_bytes(self) -> int:
        return folder_size(self.folder)

    def begin(self) -> Path:
        """Make the folder if it is not there and return it; what an interrupted run finished stays in it."""
        with reported_full(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "inputs.json", _json(self.inputs))
        return self.folder

    def finish(self) -> None:
        """Mark the stage as done."""
        write_whole(self.folder / "done.json", _json({"fingerprint": self.fingerprint}))


@dataclass
class StageReport:
    """What one stage of a build cost."""

    name: str
    seconds: float = 0.0
    skipped: bool = False
    """True where an earlier run had done it"""
    n_bytes: int = 0
    detail: str = ""
    """what it made, in a few words"""


@dataclass
class Timings:
    """The stages of a build in the order in which they ran."""

    stages: list[StageReport] = field(default_factory=list)

    @contextmanager
    def time(self, name: str) -> Iterator[StageReport]:
        """Yield the report of a stage, to be filled in, and time the block."""
        report = StageReport(name)
        started = time.perf_counter()
        yield report
        report.seconds = time.perf_counter() - started
        self.stages.append(report)


@contextmanager
def locked(cache: Path) -> Iterator[Path]:
    """Hold the cache for one build. The lock ends with the process, however it ends; CacheError where another holds it."""
    try:
        with reported_full(cache):
            cache.mkdir(parents=True, exist_ok=True)
            file = (cache / "lock").open("a+")
    except OSError as error:
        raise CacheError(f"Cannot write the cache {cache} ({error.strerror}): name another folder with --cache.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CacheError(
                f"Another build is using the cache {cache}: wait until it is done, or give this one another with --cache."
            ) from None
        yield cache


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=repr) + "\n").encode()
