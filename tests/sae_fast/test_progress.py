"""Progress of long loops."""

import io

import pytest

from sae_fast import progress


class Clock:
    """Time that passes when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_short_steps_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the second second nothing is written, nor where it is not wanted."""
    clock, stream = Clock(monkeypatch), io.StringIO()
    with progress.step("work", 10, "things", stream=stream) as advance:
        clock.now += 1.9
        advance(5)
    with progress.step("work", 10, "things", enabled=False, stream=stream) as advance:
        clock.now += 100
        advance(5)

    assert stream.getvalue() == ""


def test_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log gets a line every ten seconds: done, of how many, rate, time left."""
    clock, stream = Clock(monkeypatch), io.StringIO()
    with progress.step("work", 1_000, "things", stream=stream) as advance:
        for _ in range(15):
            clock.now += 1
            advance(20)

    assert stream.getvalue() == "work: 40 of 1,000 things, 20/s, 48 s left\nwork: 240 of 1,000 things, 20/s, 38 s left\n"


def test_a_terminal_has_one_line_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the line is rewritten in place and cleared at the end."""
    clock, stream = Clock(monkeypatch), Terminal()
    with progress.step("work", 100, "things", stream=stream) as advance:
        for _ in range(3):
            clock.now += 2
            advance(10)
    text = stream.getvalue()

    assert "\n" not in text
    assert text.count("\rwork: ") == 3
    assert text.endswith(" \r")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (12.3, "12 s"), (185, "3 min 05 s"), (7800, "2 h 10 min"), (59.7, "60 s")]
)
def test_durations(seconds: float, text: str) -> None:
    """Seconds are told in the unit that people use."""
    assert progress.duration(seconds) == text
