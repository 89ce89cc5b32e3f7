"""From what a user writes to a `Source`."""

from pathlib import Path

from sae_fast.errors import FormatError
from sae_fast.sources.folder import LocalFolder, Source


def open_source(source: str | Path) -> Source:
    """The file or folder that `source` names.

    Raises `FormatError` where there is none.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return Source(LocalFolder(path))
    if path.is_file():
        return Source(LocalFolder(path.parent), path.name)
    text = str(source)
    if text.startswith(("hf:", "http:", "https:")) or (":" in text and "/" in text.split(":")[0]):
        raise FormatError(
            f"{text}: names a place on a hub, and this version reads local files only",
            advice="Download the folder and load it by its path",
        )
    raise FormatError(f"{text}: no such file or folder")
