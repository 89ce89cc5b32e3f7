"""OutputDir: whole or not at all."""

import errno
import os
from pathlib import Path

import orjson
import pytest

from sitegen.errors import DiskFullError, NotOurFolderError, OutputError
from sitegen.write import OutputDir

MANIFEST = orjson.dumps({"generator": "sitegen 0.1.0"})


def write_site(path: Path, text: bytes) -> None:
    """Write the least that counts as a site."""
    with OutputDir(path) as out:
        out.write("data/manifest.json", MANIFEST)
        out.write("page.html", text)


def names_beside(path: Path) -> list[str]:
    """Return the names in the folder that holds the site."""
    return sorted(entry.name for entry in path.parent.iterdir())


def test_a_site_appears_when_the_block_ends(tmp_path: Path) -> None:
    """Nothing is there while files are written; everything is there afterwards, and nothing else."""
    site = tmp_path / "deep" / "site"
    with OutputDir(site) as out:
        out.write("data/manifest.json", MANIFEST)
        assert not site.exists()

    assert MANIFEST == (site / "data/manifest.json").read_bytes()
    assert names_beside(site) == ["site"]


def test_a_new_site_replaces_the_old_one_whole(tmp_path: Path) -> None:
    """Files of the old site that the new one lacks are gone; until the end the old site was there."""
    site = tmp_path / "site"
    with OutputDir(site) as out:
        out.write("data/manifest.json", MANIFEST)
        out.write("old.html", b"old")
    with OutputDir(site) as out:
        out.write("data/manifest.json", MANIFEST)
        assert (site / "old.html").read_bytes() == b"old"

    assert not (site / "old.html").exists()
    assert names_beside(site) == ["site"]


def test_an_exception_leaves_the_old_site_and_no_rest(tmp_path: Path) -> None:
    """After a failure the old site is as it was and the partial folder is gone."""
    site = tmp_path / "site"
    write_site(site, b"old")

    def fail() -> None:
        with OutputDir(site) as out:
            out.write("page.html", b"new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()

    assert (site / "page.html").read_bytes() == b"old"
    assert names_beside(site) == ["site"]


@pytest.mark.parametrize("manifest", [None, b"{}", b"not json", b'{"generator": "another"}', b"[]"])
def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path, manifest: bytes | None) -> None:
    """A folder with other content is refused before anything is written, and left alone."""
    site = tmp_path / "site"
    (site / "data").mkdir(parents=True)
    (site / "thesis.tex").write_text("precious")
    if manifest is not None:
        (site / "data/manifest.json").write_bytes(manifest)
    with pytest.raises(NotOurFolderError, match="is not empty"), OutputDir(site):
        pass

    assert (site / "thesis.tex").read_text() == "precious"
    assert names_beside(site) == ["site"]


def test_an_empty_folder_is_taken_and_a_file_is_not(tmp_path: Path) -> None:
    """An empty folder becomes the site; a file in its place is an error that names it."""
    (tmp_path / "empty").mkdir()
    write_site(tmp_path / "empty", b"page")
    assert (tmp_path / "empty/page.html").exists()

    (tmp_path / "file").write_text("text")
    with pytest.raises(OutputError, match="is a file"), OutputDir(tmp_path / "file"):
        pass


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "a/../../outside", ""])
def test_a_path_outside_of_the_site_is_refused(tmp_path: Path, name: str) -> None:
    """No file can be written beside the site."""
    with pytest.raises(OutputError, match="below its root"), OutputDir(tmp_path / "site") as out:
        out.write(name, b"")


def test_a_second_write_of_a_name_is_refused(tmp_path: Path) -> None:
    """Two pages of one name are an error, not a silent loss."""
    with OutputDir(tmp_path / "site") as out:
        out.write("page.html", b"1")
        with pytest.raises(OutputError, match="twice"):
            out.write("page.html", b"2")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No space gives DiskFullError, for pages and for temporary files; the old site stays."""
    site = tmp_path / "site"
    write_site(site, b"old")

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(DiskFullError, match="No space left"), OutputDir(site) as out:
            out.write("page.html", b"new")
    with pytest.raises(DiskFullError), OutputDir(site) as out, out.scratch("records"):
        full()

    assert (site / "page.html").read_bytes() == b"old"
    assert names_beside(site) == ["site"]


def test_scratch_files_are_no_part_of_the_site(tmp_path: Path) -> None:
    """A temporary file can be written and read, and is gone at the end; an error of its user keeps its own type."""
    with OutputDir(tmp_path / "site") as out:
        out.write("data/manifest.json", MANIFEST)
        with out.scratch("records") as file:
            file.write(b"abc")
            file.seek(0)
            assert file.read() == b"abc"
        with pytest.raises(FileNotFoundError), out.scratch("records"):
            (tmp_path / "missing").read_bytes()

    assert [path.name for path in (tmp_path / "site").iterdir()] == ["data"]


def test_rests_of_killed_builds_are_removed_and_an_interrupted_swap_is_undone(tmp_path: Path) -> None:
    """Partial folders of processes that are gone are removed; an old site that had stepped aside comes back."""
    site = tmp_path / "site"
    write_site(site, b"old")
    gone = 2**22 + 1
    site.rename(tmp_path / f"site.old-{gone}")
    (tmp_path / f"site.partial-{gone}").mkdir()
    with pytest.raises(RuntimeError), OutputDir(site):
        raise RuntimeError

    assert (site / "page.html").read_bytes() == b"old"
    assert names_beside(site) == ["site"]


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    """The sizes reported are the bytes written."""
    with OutputDir(tmp_path / "site") as out:
        out.write("data/manifest.json", MANIFEST)
        out.write("a.txt", b"12345")

    assert out.sizes["a.txt"] == 5
    assert out.n_bytes == 5 + len(MANIFEST)
