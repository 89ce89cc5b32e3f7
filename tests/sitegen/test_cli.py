"""The command line: arguments, messages, exit status."""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import sitegen
from sitegen import recipe
from sitegen.cli import feature_list, main
from sitegen.release import Release

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12", [12]), ("12,99,400-403", [12, 99, 400, 401, 402, 403]), ("5-5, 3", [3, 5]), ("7,7", [7])],
)
def test_feature_lists_are_ids_and_ranges(text: str, expected: list[int]) -> None:
    """Ranges include both ends; ids come ascending and once."""
    assert expected == feature_list(text)


@pytest.mark.parametrize("text", ["", "a", "3-", "-3", "9-3", "1,,2", "1.5"])
def test_other_feature_lists_are_refused(text: str) -> None:
    """What is not an id or a range is an error of the argument."""
    with pytest.raises(argparse.ArgumentTypeError):
        feature_list(text)


def test_help_costs_nothing() -> None:
    """`sitegen --help` imports neither torch nor transformers nor numpy."""
    code = (
        "import sys\nfrom sitegen.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "print('loaded', sorted({'torch', 'transformers', 'numpy', 'jinja2', 'datasets'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "sitegen build demo" in result.stdout
    assert result.stdout.strip().endswith("loaded []")


@pytest.mark.parametrize("command", [["build", "--help"], ["new", "--help"], ["serve", "--help"], ["check", "--help"]])
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every command has help."""
    with pytest.raises(SystemExit) as done:
        main(command)
    assert done.value.code == 0
    assert f"sitegen {command[0]}" in capsys.readouterr().out


def test_new_writes_a_release_file_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`sitegen new` writes a file that loads, and does not write over one."""
    path = tmp_path / "mine.toml"
    assert main(["new", str(path)]) == 0
    assert Release.load(path).path == path
    path.write_text("changed")

    assert main(["new", str(path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert path.read_text() == "changed"
    assert main(["new", str(tmp_path / "no" / "folder.toml")]) == 2


def test_build_prints_its_table_and_quiet_does_not(
    write_release: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The closing table names every stage and the command that serves the site; --quiet says nothing at all."""
    path = write_release()
    arguments = ["build", str(path), "--cache", str(tmp_path / "cache"), "--features", "3,5-7"]
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    assert main([*arguments, "--out", str(tmp_path / "b"), "--quiet"]) == 0
    quiet = capsys.readouterr()

    for name in ("model", "tokens", "activations", "facts", "site", "peak memory", f"sitegen serve {tmp_path / 'a'}"):
        assert name in shown
    assert (quiet.out, quiet.err) == ("", "")
    assert [feature.id for feature in sitegen.open(tmp_path / "b")["1-resid-post-topk"]] == [3, 5, 6, 7]


def test_preview_estimates_and_writes_nothing(
    write_release: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--preview says what the whole would cost, and leaves neither a site nor a cache behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    assert main(["build", str(write_release()), "--preview", "--quiet"]) == 0
    shown = capsys.readouterr().out

    for name in ("tokens", "time", "memory", "cache", "site"):
        assert name in shown
    assert not list((tmp_path / "temporary").iterdir())
    assert not (tmp_path / ".sitegen").exists()


def test_preview_of_a_long_corpus_reads_a_share_of_it(write_release: Any, tmp_path: Path) -> None:
    """The sample is about one document in a hundred, and the estimate of all tokens is near the truth."""
    import tiny

    from sitegen.preview import preview, sample_of

    tiny.jsonl(tmp_path / "long.jsonl", tiny.texts(8000))
    path = write_release(corpus={"source": "long.jsonl", "context_length": 128}, facts={"labels": False})
    release, every = sample_of(Release.load(path))
    assert every > 5
    limited = Release.load(write_release(corpus={"source": "long.jsonl", "max_tokens": 5_000_000}))
    assert sample_of(limited)[0].corpus.max_tokens == 50_000

    estimate = preview(release)
    assert estimate.sample_tokens < 100_000
    assert estimate.total_tokens == pytest.approx(estimate.sample_tokens * every, rel=0.1)
    assert estimate.seconds > 0
    assert estimate.cache_bytes > estimate.sample_tokens


def test_an_interruption_says_how_to_go_on(
    write_release: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends with status 130 and one sentence."""

    def interrupted(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "build", interrupted)
    assert main(["build", str(write_release()), "--out", str(tmp_path / "site")]) == 130
    assert "the same command continues" in capsys.readouterr().err


def test_a_missing_package_names_the_extra(
    write_release: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a package of the extra `site`, the message says what to install."""

    def without(*arguments: object, **keywords: object) -> None:
        raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")

    monkeypatch.setattr(recipe, "build", without)
    assert main(["build", str(write_release()), "--out", str(tmp_path / "site")]) == 2
    assert 'pip install "sae-fast[site]"' in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback(write_release: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception is not dressed up as bad input."""

    def broken(*arguments: object, **keywords: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(recipe, "build", broken)
    with pytest.raises(ZeroDivisionError):
        main(["build", str(write_release()), "--out", str(tmp_path / "site")])


def test_public_names_are_what_they_say() -> None:
    """`sitegen` exposes its sorted `__all__`, and `build` stays a function after its module is loaded."""
    assert sorted(sitegen.__all__) == sitegen.__all__ == dir(sitegen)
    assert callable(sitegen.build)
    with pytest.raises(AttributeError, match="bild"):
        sitegen.bild  # noqa: B018


def test_progress_is_a_line_in_a_log_and_silent_when_short() -> None:
    """A log gets lines with rate and time left at intervals; a short step and a disabled one write nothing."""
    import io

    from sitegen import progress
    from sitegen.progress import Progress

    log = io.StringIO()
    with Progress(stream=log).step("short", 10, "things") as advance:
        advance(10)
    assert log.getvalue() == ""
    with Progress(stream=log).step("long", 100, "things") as advance:
        advance.started = advance.last = time.monotonic() - progress.LOG_INTERVAL_S - 1  # type: ignore[attr-defined]
        advance(25)
    assert log.getvalue().startswith("long: 25 of 100 things, 2/s, 3")
    with Progress(False, log).step("off", 100, "things") as advance:
        advance(50)
    assert "off" not in log.getvalue()


@pytest.mark.parametrize(("seconds", "expected"), [(0.42, "0.4 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations_read_well(seconds: float, expected: str) -> None:
    """Seconds, minutes and hours."""
    from sae_fast.progress import duration

    assert expected == duration(seconds)
