"""Style sheets and scripts, in a folder named by their content so that no browser mixes two versions."""

import hashlib
from importlib import resources
from importlib.resources.abc import Traversable

from sitegen.write.output import OutputDir

FOLDER = "assets"
_SUFFIXES = (".css", ".js", ".svg")


def write_assets(out: OutputDir) -> str:
    """Write every asset of `site_templates`; return their folder below the site's root (`assets/<hash>`)."""
    files = dict(sorted(_files(resources.files("site_templates") / FOLDER, "")))
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
