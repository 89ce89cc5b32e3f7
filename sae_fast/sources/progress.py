"""What a long transfer says on standard error: its size before it begins, then how far it is."""

import os
import sys
import time
from types import TracebackType
from typing import Self

from sae_fast.progress import duration
from sae_fast.progress import size as size_of

ANNOUNCED = 1 << 20
"""Smallest transfer that is announced, in bytes."""
FIRST_AFTER_S = 2.0
"""A transfer that takes no longer says nothing more."""
EVERY_S = {True: 0.5, False: 10.0}
"""How often progress is written, on a terminal and into a file."""


class Progress:
    """A transfer of `size` bytes, or of unknown size. Silent where `HF_HUB_DISABLE_PROGRESS_BARS` is set."""

    def __init__(self, what: str, size: int | None) -> None:
        self.size, self.done = size, 0
        self._begun = self._shown = time.monotonic()
        self._first: int | None = None
        self._on_terminal = sys.stderr.isatty()
        self._is_silent = bool(os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS")) or (size is not None and size < ANNOUNCED)
        self._has_line = False
        if not self._is_silent:
            how_much = "of unknown size" if size is None else size_of(size)
            sys.stderr.write(f"sae-fast: {what}, {how_much}\n")
            sys.stderr.flush()

    def at(self, done: int) -> None:
        """`done` bytes are there."""
        self._first = done if self._first is None else self._first
        self.done = done
        now = time.monotonic()
        if self._is_silent or now - self._begun < FIRST_AFTER_S or now - self._shown < EVERY_S[self._on_terminal]:
            return
        self._shown, self._has_line = now, True
        sys.stderr.write(f"\r{self.text(now):<78}" if self._on_terminal else f"sae-fast: {self.text(now)}\n")
        sys.stderr.flush()

    def add(self, n_bytes: int) -> None:
        """So many bytes more."""
        self.at(self.done + n_bytes)

    def text(self, now: float) -> str:
        """How far it is, as `45 %, 136.1 MB of 302.4 MB, 21.3 MB/s, 8 s left`."""
        rate = (self.done - (self._first or 0)) / max(now - self._begun, 1e-3)
        parts = [size_of(self.done), f"{size_of(int(rate))}/s"]
        if self.size:
            parts[0] = f"{self.done / self.size:.0%}, {parts[0]} of {size_of(self.size)}"
            parts += [f"{duration((self.size - self.done) / rate)} left"] if rate > 0 else []
        return ", ".join(parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._has_line and self._on_terminal:
            sys.stderr.write("\n")
