"""Progress of long loops on standard error: units done, rate and time left, from the second second on."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

DELAY_S = 2.0
"""A step that is over sooner shows nothing."""
TERMINAL_INTERVAL_S = 0.2
LOG_INTERVAL_S = 10.0
"""Between two lines where the output is not a terminal."""


class Advance(Protocol):
    """What a step calls with the number of units finished since its last call."""

    def __call__(self, n: int, /) -> None: ...


@contextmanager
def step(name: str, total: int, unit: str, enabled: bool = True, stream: TextIO | None = None) -> Iterator[Advance]:
    """Yield the function that advances a step of `total` units."""
    if not enabled:
        yield _ignore
        return
    line = _Line(name, total, unit, stream or sys.stderr)
    try:
        yield line
    finally:
        line.close()


class _Line:
    def __init__(self, name: str, total: int, unit: str, stream: TextIO) -> None:
        self.name, self.total, self.unit, self.stream = name, total, unit, stream
        self.on_terminal = stream.isatty()
        self.n = self.width = 0
        self.started = time.monotonic()
        self.due = self.started + DELAY_S

    def __call__(self, n: int, /) -> None:
        self.n += n
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + (TERMINAL_INTERVAL_S if self.on_terminal else LOG_INTERVAL_S)
        rate = self.n / (now - self.started)
        text = f"{self.name}: {self.n:,} of {self.total:,} {self.unit}, {rate:,.3g}/s"
        if rate:
            text += f", {duration(max(self.total - self.n, 0) / rate)} left"
        self._show(text)

    def _show(self, text: str) -> None:
        if self.on_terminal:
            self.stream.write(f"\r{text:<{self.width}}")
            self.width = len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Take the line away again."""
        if self.width:
            self.stream.write(f"\r{'':<{self.width}}\r")
            self.stream.flush()


def _ignore(n: int, /) -> None:
    pass


def duration(seconds: float) -> str:
    """Seconds as text: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(n_bytes: float) -> str:
    """A number of bytes as text, in powers of ten: `820 B`, `12.3 kB`, `4.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"
