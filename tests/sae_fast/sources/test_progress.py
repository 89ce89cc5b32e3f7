"""Long transfers say how long; short ones are silent."""

from collections.abc import Iterator

import pytest

from sae_fast.sources import progress
from sae_fast.sources.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time that a transfer sees, to be set."""
    now = [100.0]
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_size_stands_before_the_first_byte(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """A large transfer is announced with its size on standard error."""
    Progress("fetching a.npz", 302_400_000)

    out, err = capsys.readouterr()
    assert (out, err) == ("", "sae-fast: fetching a.npz, 302.4 MB\n")


def test_rate_and_time_left_come_after_two_seconds(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """A transfer that lasts says share, rate and time left; one that goes on from a part counts only what it brought."""
    with Progress("fetching", 100_000_000) as transfer:
        transfer.at(20_000_000)
        clock[0] += 1.9
        transfer.at(30_000_000)
        clock[0] += 8.1
        transfer.at(40_000_000)

    lines = capsys.readouterr().err.splitlines()
    assert lines[1:] == ["sae-fast: 40%, 40.0 MB of 100.0 MB, 2.0 MB/s, 30 s left"]


@pytest.mark.parametrize("is_small", [True, False])
def test_small_and_silenced_transfers_say_nothing(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_small: bool
) -> None:
    """Below a megabyte, or with the hub's variable for it, nothing is written."""
    if not is_small:
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with Progress("fetching", 1000 if is_small else 1 << 30) as transfer:
        clock[0] += 60
        transfer.add(500)

    assert capsys.readouterr().err == ""
