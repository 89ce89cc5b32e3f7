"""The running interpreter's standard library as a text corpus: real, and present on every machine.

Files are Python sources and the text that ships beside them, in a fixed order, without test folders and without
installed packages. The split is by file: `held_out` files are never seen by the demo language model or its SAEs.
"""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

Split = Literal["train", "held_out", "all"]

SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages", "ensurepip"})
SUFFIXES = frozenset({".py", ".txt", ".rst"})


def is_held_out(name: str) -> bool:
    """One file in ten, chosen by a hash of its name, so that the split is the same for every Python version."""
    return hashlib.sha256(name.encode()).digest()[0] % 10 == 0


def files(root: Path | None = None, split: Split = "all") -> list[tuple[str, Path]]:
    """Return `(name, path)` of every file of the split, sorted by name (POSIX path relative to `root`)."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, subfolders, file_names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS]
        for file_name in file_names:
            path = Path(folder, file_name)
            name = path.relative_to(root).as_posix()
            if path.suffix in SUFFIXES and (split == "all" or is_held_out(name) == (split == "held_out")):
                found.append((name, path))
    return sorted(found)


def documents(split: Split = "all", root: Path | None = None) -> Iterator[tuple[str, str]]:
    """Yield `(name, text)` of each readable, non-empty UTF-8 file of the split."""
    for name, path in files(root, split):
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if text.strip():
            yield name, text
