"""Style sheets and scripts, in a folder named by their content so that no browser mixes two versions."""

import hashlib
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable

from sitegen.write.output import OutputDir

FOLDER = "assets"
_SUFFIXES = (".css", ".js", ".svg")


def write_assets(out: OutputDir, more: Mapping[str, bytes] | None = None) -> str:
    """Write every asset of `site_templates`, and `more` by path; return their folder below the site (`assets/<hash>`)."""
    files = dict(sorted([*_files(resources.files("site_templates") / FOLDER, ""), *(more or {}).items()]))
    digest = hashlib.sha256()
    for name, data in files.items():
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    folder = f"{FOLDER}/{digest.hexdigest()[:12]}"
    for name, data in files.items():
        out.write(f"{folder}/{name}", data)
    return folder


def _files(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _files(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(_SUFFIXES):
            found.append((prefix + entry.name, entry.read_bytes()))
    return found
