"""Progress of long steps: rate and time left on a terminal, a line every ten seconds in a log, nothing when not wanted."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

from sae_fast.progress import LOG_INTERVAL_S, Advance, duration

DELAY_S = 2.0
"""A step that is over sooner shows no bar."""


class Progress:
    """Where steps report to. `Progress(enabled=False)` is silent."""

    def __init__(self, enabled: bool = True, stream: TextIO | None = None) -> None:
        self.enabled = enabled
        self.stream = stream or sys.stderr

    def say(self, text: str) -> None:
        """Print one line."""
        if self.enabled:
            print(text, file=self.stream, flush=True)

    @contextmanager
    def step(self, name: str, total: int | None, unit: str) -> Iterator[Advance]:
        """Yield the function that advances a bar of `total` units (None where the total is not known)."""
        if not self.enabled:
            yield _ignore
        elif self.stream.isatty():
            with tqdm(total=total, desc=name, unit=f" {unit}", unit_scale=True, delay=DELAY_S, file=self.stream) as bar:
                yield lambda n, /: _update(bar, n)
        else:
            yield _LogLines(name, total, unit, self.stream)


class _LogLines:
    def __init__(self, name: str, total: int | None, unit: str, stream: TextIO) -> None:
        self.name, self.total, self.unit, self.stream = name, total, unit, stream
        self.n = 0
        self.started = self.last = time.monotonic()

    def __call__(self, n: int, /) -> None:
        self.n += n
        now = time.monotonic()
        if now - self.last < LOG_INTERVAL_S:
            return
        self.last = now
        rate = self.n / (now - self.started)
        line = f"{self.name}: {self.n:,} {self.unit}, {rate:,.0f}/s"
        if self.total and rate:
            line = f"{self.name}: {self.n:,} of {self.total:,} {self.unit}, {rate:,.0f}/s, "
            line += f"{duration(max(self.total - self.n, 0) / rate)} left"
        print(line, file=self.stream, flush=True)


def _update(bar: Any, n: int) -> None:
    bar.update(n)


def _ignore(n: int, /) -> None:
    pass
