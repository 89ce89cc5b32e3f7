"""Finding SAEs in the catalogue."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from sae_fast.catalogue.entry import Entry
from sae_fast.errors import SourceError

DATA = "releases.json"
"""Where it all comes from, and the releases, one a line; how their columns are read, `entries_of` says."""

COLUMNS = ("hook_name", "layer", "d_sae", "l0", "norm_scaling_factor", "variance_explained", "neuronpedia_id")
"""What follows sae_id and path in a row; a path that is the sae_id is written as null, and nulls at the end are left out."""

SAME_MODEL = {"gpt2": "gpt2-small", "meta-llama-3-8b-instruct": "llama-3-8b-instruct"}
"""Names of one model, beside those that differ in the owner alone."""


def find(
    model: str | None = None,
    hook: str | None = None,
    layer: int | None = None,
    width: int | None = None,
    l0: tuple[float, float] | None = None,
    release: str | None = None,
) -> list[Entry]:
    """The published SAEs that fit all that is given, in the order of the releases.

    Args:
        model: name with or without its owner: `gemma-2-2b`, `google/gemma-2-2b`.
        hook: a hook name or a part of one: `blocks.8.hook_resid_pre`, `resid_post`.
        layer: counted from 0.
        width: number of features.
        l0: smallest and largest mean number of active features per token.
        release: a release's name or a part of it.
    """
    found = []
    for name, line in releases().items():
        if (release is not None and release not in name) or (model is not None and not _is_model(line["model"], model)):
            continue
        found += [
            entry
            for entry in entries_of(line)
            if (hook is None or (entry.hook_name is not None and _is_part(hook, entry.hook_name)))
            and layer in (None, entry.layer)
            and width in (None, entry.d_sae)
            and (l0 is None or (entry.l0 is not None and l0[0] <= entry.l0 <= l0[1]))
        ]
    return found


def get(name: str) -> Entry:
    """The SAE of that name, release/sae_id. Raises `SourceError` with the nearest names."""
    release, _, sae_id = name.partition("/")
    line = releases().get(release)
    if line is None:
        raise SourceError(f"{name}: no such release in the catalogue", advice=_nearest(release, list(releases())))
    entries = {entry.sae_id: entry for entry in entries_of(line)}
    if sae_id not in entries:
        what = f"the release {release} has no SAE {sae_id!r}" if sae_id else f"a release of {len(entries)} SAEs"
        near = (
            _nearest(sae_id, list(entries)) if sae_id else f"Name one of them: {_some([f'{release}/{key}' for key in entries])}"
        )
        raise SourceError(f"{name}: {what}", advice=near)
    return entries[sae_id]


def named(source: str | Path) -> Entry | None:
    """The SAE that `source` names in the catalogue; None for paths that exist, addresses, and releases that are not there."""
    text = str(source)
    if isinstance(source, Path) or "://" in text or Path(text).expanduser().exists():
        return None
    return get(text) if text.partition("/")[0] in releases() else None


def near_names(text: str) -> list[str]:
    """Releases whose names are near to what was written."""
    return difflib.get_close_matches(text.partition("/")[0], releases(), n=4, cutoff=0.6)


@cache
def releases() -> Mapping[str, Mapping[str, Any]]:
    """What the catalogue has of each release."""
    content = json.loads(files(__package__).joinpath(DATA).read_bytes())
    return {release["release"]: release for release in content["releases"]}


def entries_of(release: Mapping[str, Any]) -> Iterator[Entry]:
    """The SAEs of a release."""
    common = {key: release[key] for key in ("release", "repo", "format", "model")} | {"overrides": release.get("overrides", {})}
    for sae_id, path, *values in release["saes"]:
        known = dict(zip(COLUMNS, values, strict=False))
        yield Entry(sae_id=sae_id, path=sae_id if path is None else path, **common, **known)


def _is_model(there: str, asked: str) -> bool:
    names = [name.rpartition("/")[2].lower() for name in (there, asked)]
    there_name, asked_name = (SAME_MODEL.get(name, name) for name in names)
    return there_name == asked_name


def _is_part(asked: str, hook_name: str) -> bool:
    """Whether `asked` is a run of whole parts of a hook's name: `blocks.1` is no part of `blocks.11.hook_z`."""
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(asked)}(?![A-Za-z0-9])", hook_name) is not None


def _nearest(asked: str, names: list[str]) -> str:
    near = difflib.get_close_matches(asked, names, n=5, cutoff=0.4)
    return f"Near it: {', '.join(near)}" if near else f"There are: {_some(names)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f", … ({len(names):,} in all)" if len(names) > 5 else "")
