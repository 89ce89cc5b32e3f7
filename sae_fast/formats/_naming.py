"""What a user names, opened, with what the catalogue knows of it."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_fast import catalogue
from sae_fast.config import SAEConfig
from sae_fast.errors import SourceError, UnreachableError
from sae_fast.formats._description import Given
from sae_fast.sources import Source, open_source

KNOWN_BETTER = ("hook_name", "model_name", "normalize_activations")
"""What the catalogue corrects, by the names of `SAEConfig`."""
KEPT = ("catalogue_name", "neuronpedia_id", "l0", "dataset_path")
"""What goes into the metadata."""


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


def with_known(cfg: SAEConfig, given: Given) -> SAEConfig:
    """A configuration with what the catalogue knows better than the files, and its names for the SAE in the metadata."""
    known = given.metadata
    corrected = [name for name in KNOWN_BETTER if name in known and not (name == "hook_name" and cfg.crosscoder)]
    changes: dict[str, Any] = {name: known[name] for name in corrected}
    model_arguments = known.get("model_from_pretrained_kwargs")
    if isinstance(model_arguments, Mapping) and model_arguments.get("center_writing_weights"):
        changes["centred"] = True
    return replace(cfg, **changes, metadata={**cfg.metadata, **{name: known[name] for name in KEPT if name in known}})


def _open_place(source: str | Path) -> Source:
    try:
        return open_source(source)
    except UnreachableError:
        raise
    except SourceError as error:
        text = str(source)
        if "://" in text or isinstance(source, Path):
            raise
        near = catalogue.near_names(text)
        advice = f"The catalogue has releases of like names: {', '.join(near)}" if near else None
        if advice is None and re.fullmatch(r"[\w.-]+(/[\w.:-]+)+", text):
            advice = f"If it is a repository on the hub, write hf://{text}"
        raise SourceError(str(error), advice=advice) from None
