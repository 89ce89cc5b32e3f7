"""Stages: fingerprints, what is done, what is held."""

import subprocess
import sys
from pathlib import Path

import pytest

from sae_fast import files
from sae_fast.files import content_fingerprint, fingerprint, folder_size, source_fingerprint, write_whole
from sitegen.errors import CacheError
from sitegen.record_files import FEATURES_PER_FILE, RecordFiles
from sitegen.records import Example, ExampleGroup, FeatureRecord, Histogram, Label
from sitegen.stages import Stage, Timings, locked

ROOT = Path(__file__).resolve().parents[2]


def test_a_stage_is_done_when_it_says_so(tmp_path: Path) -> None:
    """A folder with files is not enough; `finish` makes it done, for the same inputs only."""
    stage = Stage("tokens", tmp_path, {"a": 1, "b": [2, None]})
    write_whole(stage.begin() / "tokens", b"12345")
    assert not stage.is_done
    stage.finish()

    assert stage.is_done
    assert Stage("tokens", tmp_path, {"b": [2, None], "a": 1}).is_done
    assert not Stage("tokens", tmp_path, {"a": 1, "b": [2, 3]}).is_done
    assert stage.n_bytes == folder_size(stage.folder) >= 5


def test_fingerprints_follow_content_not_place_or_time(tmp_path: Path) -> None:
    """A copied folder has the fingerprint of the original; another byte, name or file changes it, a hidden file does not."""
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "x").write_bytes(b"one")
    original = content_fingerprint(tmp_path / "a")
    assert original == content_fingerprint(tmp_path / "b")

    (tmp_path / "b" / ".hidden").write_bytes(b"two")
    assert original == content_fingerprint(tmp_path / "b")
    (tmp_path / "b" / "deep" / "x").write_bytes(b"two")
    assert original != content_fingerprint(tmp_path / "b")
    (tmp_path / "a" / "deep" / "x").rename(tmp_path / "a" / "deep" / "y")
    assert original != content_fingerprint(tmp_path / "a")


def test_large_files_are_known_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit a file is not read."""
    path = tmp_path / "weights"
    path.write_bytes(b"1234")
    monkeypatch.setattr(files, "HASHED_BYTES", 3)
    before = content_fingerprint(path)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"{self} was read"))

    assert before == content_fingerprint(path)


def test_a_hub_name_is_its_own_fingerprint() -> None:
    """What is not on this disk is known by its name."""
    assert source_fingerprint("owner/model") != source_fingerprint("owner/other")
    assert fingerprint({"a": {1, 2}.__class__}) == fingerprint({"a": set})


def test_two_builds_do_not_share_a_cache(tmp_path: Path) -> None:
    """A second build is refused while the first holds the cache, and let in when the first process is gone."""
    with locked(tmp_path), pytest.raises(CacheError, match="--cache"), locked(tmp_path):
        pass

    code = (
        f"import os, pathlib\nfrom sitegen.stages import locked\nwith locked(pathlib.Path({str(tmp_path)!r})):\n    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 9
    with locked(tmp_path):
        pass


def test_stages_are_timed_in_order() -> None:
    """Reports come in the order in which the stages ran, and a stage that fails leaves none."""
    timings = Timings()
    with timings.time("one") as report:
        report.detail = "x"
    with pytest.raises(ValueError, match="no"), timings.time("two"):
        raise ValueError("no")

    assert [(stage.name, stage.detail) for stage in timings.stages] == [("one", "x")]
    assert timings.stages[0].seconds >= 0


def record(feature: int) -> FeatureRecord:
    """A record with something in most fields."""
    return FeatureRecord(
        id=feature,
        density=0.1 + feature / 7,
        label=Label("text — ünïcode", "rule", precision=1 / 3),
        histogram=Histogram(0.1, 2.5, [1, 0, 2]),
        groups=[ExampleGroup("top", [Example(0, -1, 2, [3, 255_999], [(1, 0.30000000000000004)], 2)], low=0.5)],
        neighbours=[(1, 0.5)],
        coactive=[(2, -0.25, 7)],
        top_tokens=[(3, 4, 0.5)],
    )


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    """Reading gives equal records by ascending id; files are the same bytes each time."""
    ids = [0, 3, FEATURES_PER_FILE - 1, FEATURES_PER_FILE, 5 * FEATURES_PER_FILE + 7]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        RecordFiles(tmp_path / name, ids).write(record(feature) for feature in ids)

    assert list(RecordFiles(tmp_path / "a", ids).read()) == [record(feature) for feature in ids]
    assert [path.read_bytes() for path in sorted((tmp_path / "a").iterdir())] == [
        path.read_bytes() for path in sorted((tmp_path / "b").iterdir())
    ]


def test_only_missing_records_are_asked_for(tmp_path: Path) -> None:
    """After an interruption, features of whole files are there and the others missing."""
    ids = range(3 * FEATURES_PER_FILE)
    records = RecordFiles(tmp_path, ids)

    def interrupted() -> object:
        for feature in ids:
            if feature == 2 * FEATURES_PER_FILE + 10:
                raise KeyboardInterrupt
            yield record(feature)

    with pytest.raises(KeyboardInterrupt):
        records.write(interrupted())  # type: ignore[arg-type]
    assert records.missing() == list(range(2 * FEATURES_PER_FILE, 3 * FEATURES_PER_FILE))
    records.write(record(feature) for feature in records.missing())
    assert [found.id for found in records.read()] == list(ids)
