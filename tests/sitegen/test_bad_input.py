"""Bad input: one clear error each, no half-written site, and the old site whole."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from sitegen.cli import main
from sitegen.recipe import build

Write = Callable[..., Path]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def old_site(tmp_path: Path) -> Path:
    """A folder that passes for a site made before."""
    site = tmp_path / "site"
    (site / "data").mkdir(parents=True)
    (site / "data" / "manifest.json").write_text(json.dumps({"version": 1, "generator": "sitegen 0", "build_id": "old"}))
    (site / "index.html").write_text("old")
    return site


def poisoned(folder: Path, file: str, tensor: str | None = None) -> None:
    """Put one NaN into a tensor of a safetensors file."""
    tensors = load_file(folder / file)
    name = tensor or next(name for name in sorted(tensors) if "mlp" in name and name.endswith("weight"))
    tensors[name].reshape(-1)[5] = np.nan
    save_file(tensors, folder / file, metadata={"format": "pt"})


def missing_model(write: Write, folder: Path, gpt2: Path) -> Path:
    return write(model={"source": str(folder / "nowhere")})


def not_a_model(write: Write, folder: Path, gpt2: Path) -> Path:
    (folder / "empty").mkdir()
    return write(model={"source": "empty"})


def other_width(write: Write, folder: Path, gpt2: Path) -> Path:
    tiny.sae(folder / "sae", d_in=48)
    return write()


def unknown_hook(write: Write, folder: Path, gpt2: Path) -> Path:
    return write(sae=[{"source": "sae", "hook_name": "blocks.1.hook_resid_pots"}])


def empty_corpus(write: Write, folder: Path, gpt2: Path) -> Path:
    (folder / "empty.jsonl").write_text("")
    return write(corpus={"source": "empty.jsonl"})


def blank_documents(write: Write, folder: Path, gpt2: Path) -> Path:
    tiny.jsonl(folder / "blank.jsonl", ["", ""])
    return write(corpus={"source": "blank.jsonl"})


def lone_surrogates(write: Write, folder: Path, gpt2: Path) -> Path:
    (folder / "bad.jsonl").write_text('{"text": "fine"}\n{"text": "ab\\ud800"}\n')
    return write(corpus={"source": "bad.jsonl"})


def all_documents_skipped(write: Write, folder: Path, gpt2: Path) -> Path:
    (folder / "bad.jsonl").write_text('{"text": "ab\\ud800"}\n')
    return write(corpus={"source": "bad.jsonl", "on_bad_text": "skip"})


def nan_in_model(write: Write, folder: Path, gpt2: Path) -> Path:
    shutil.copytree(gpt2, folder / "nan")
    poisoned(folder / "nan", "model.safetensors")
    return write(model={"source": "nan"})


def nan_in_sae(write: Write, folder: Path, gpt2: Path) -> Path:
    tiny.sae(folder / "sae")
    poisoned(folder / "sae", "sae_weights.safetensors", "W_enc")
    return write()


def unknown_key(write: Write, folder: Path, gpt2: Path) -> Path:
    return write(corpus={"contex_length": 64})


def missing_sae(write: Write, folder: Path, gpt2: Path) -> Path:
    return write(sae=[{"source": "./no-such-sae"}])


def missing_corpus(write: Write, folder: Path, gpt2: Path) -> Path:
    return write(corpus={"source": "texts.jsonl"})


def long_contexts(write: Write, folder: Path, gpt2: Path) -> Path:
    return write(corpus={"context_length": 4096})


CASES: dict[Callable[[Write, Path, Path], Path], list[str]] = {
    missing_model: ["nowhere"],
    not_a_model: ["empty", "config.json"],
    other_width: ["48", "32", "blocks.1.hook_resid_post"],
    unknown_hook: ["hook_resid_pots", "blocks.1.hook_resid_post"],
    empty_corpus: ["empty.jsonl", "empty"],
    blank_documents: ["blank.jsonl", "empty"],
    lone_surrogates: ["bad.jsonl:2", "U+D800", "offset 2", "on_bad_text"],
    all_documents_skipped: ["bad.jsonl", "1 left out"],
    nan_in_model: ["NaN", "mlp"],
    nan_in_sae: ["NaN", "W_enc"],
    unknown_key: ["[corpus]", "contex_length", "'context_length'"],
    missing_sae: ["no-such-sae"],
    missing_corpus: ["texts.jsonl"],
    long_contexts: ["4096", "256"],
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_bad_input_is_one_error_and_no_half_written_site(
    case: Callable[[Write, Path, Path], Path],
    write_release: Write,
    gpt2_folder: Path,
    old_site: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command ends with status 2 and one message that names the trouble; the old site is untouched."""
    path = case(write_release, tmp_path, gpt2_folder)
    before = tree(old_site)
    status = main(["build", str(path), "--out", str(old_site), "--cache", str(tmp_path / "cache")])
    message = capsys.readouterr().err

    assert status == 2
    assert message.startswith("sitegen: ")
    assert "Traceback" not in message
    for part in CASES[case]:
        assert part in message
    assert before == tree(old_site)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("site.")]


def test_nul_and_emoji_are_no_bad_input(write_release: Write, tmp_path: Path) -> None:
    """A corpus with NUL and emoji becomes a site like any other."""
    tiny.jsonl(tmp_path / "odd.jsonl", ["a\0b " * 20 + "🙂👩‍👩‍👧" * 10])
    path = write_release(corpus={"source": "odd.jsonl"})

    assert build(path, tmp_path / "site", cache=tmp_path / "cache", progress=False).n_files > 5


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_output_that_is_not_ours_is_left_alone_before_any_work(
    write_release: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """A folder with other files, or a file, is refused at once."""
    out = tmp_path / "thesis"
    if kind == "folder":
        out.mkdir()
    (out / "chapter.txt" if kind == "folder" else out).write_text("precious")
    status = main(["build", str(write_release()), "--out", str(out), "--cache", str(tmp_path / "cache")])

    assert status == 2
    assert str(out) in capsys.readouterr().err
    assert (out / "chapter.txt" if kind == "folder" else out).read_text() == "precious"
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 kB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("full", ["out", "cache"])
def test_a_full_disk_leaves_nothing_half_written(
    write_release: Write, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], full: str
) -> None:
    """Where the site or the cache does not fit there is one error, no site, and the build goes through once there is room."""
    out = small_disk / "site" if full == "out" else tmp_path / "site"
    cache = small_disk / "cache" if full == "cache" else tmp_path / "cache"
    path = write_release()
    status = main(["build", str(path), "--out", str(out), "--cache", str(cache)])
    message = capsys.readouterr().err

    assert status == 2
    assert "No space left" in message
    assert not out.exists()
    assert not list(out.parent.glob("site.partial-*"))
    if full == "out":
        assert build(path, tmp_path / "elsewhere", cache=cache, progress=False).n_files > 5


def test_a_python_caller_gets_exceptions(write_release: Write, tmp_path: Path) -> None:
    """`sitegen.build` raises what the command prints."""
    from sae_fast.errors import CorpusError

    arguments: dict[str, Any] = {"out": tmp_path / "site", "cache": tmp_path / "cache", "progress": False}
    with pytest.raises(CorpusError, match="empty"):
        build(empty_corpus(write_release, tmp_path, tmp_path), **arguments)
