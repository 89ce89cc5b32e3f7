"""What a user names, opened, with what the catalogue knows of it."""

from pathlib import Path

from sae_fast import catalogue
from sae_fast.errors import SourceError, UnreachableError
from sae_fast.formats._description import Given
from sae_fast.sources import Source, open_source


def open_named(source: str | Path, norm_scaling_factor: float | None = None) -> tuple[Source, Given]:
    """The files that a path, an address or a name of the catalogue leads to, and what is known beside them.

    Raises `SourceError` with the nearest names, and `UnreachableError` with what to fetch.
    """
    entry = catalogue.named(source)
    if entry is None:
        return _open_place(source), Given(norm_scaling_factor=norm_scaling_factor)
    factor = entry.norm_scaling_factor if norm_scaling_factor is None else norm_scaling_factor
    try:
        return open_source(entry.source), Given(norm_scaling_factor=factor, metadata=entry.metadata)
    except UnreachableError as error:
        files = ", ".join(entry.files)
        raise UnreachableError(f"{entry.name}: needed are {files} of {entry.repo} at its revision main. {error}") from error


def _open_place(source: str | Path) -> Source:
    try:
        return open_source(source)
    except UnreachableError:
        raise
    except SourceError as error:
        near = catalogue.near_names(str(source))
        if not near or "://" in str(source) or isinstance(source, Path):
            raise
        raise SourceError(str(error), advice=f"The catalogue has releases of like names: {', '.join(near)}") from None
