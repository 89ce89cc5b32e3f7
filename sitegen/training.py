"""Training reports on a site: the `report.html` of a run, and which of the site's SAEs came out of it.

Reading them needs no torch.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sitegen.errors import ReleaseError
from sitegen.records import TrainingInfo
from sitegen.release import AUTO, NONE, SaeOptions

REPORT = "report.html"
_IS_REPORT = '<meta name="generator" content="sae_fast.training'
_PARTS = re.compile(r"<style>(?P<style>.*?)</style>.*?<main>(?P<content>.*<h1>(?P<title>[^<]*)</h1>.*)</main>", re.DOTALL)


class TrainedSae(Protocol):
    """An SAE of a site, as its plan describes it."""

    @property
    def slug(self) -> str: ...
    @property
    def options(self) -> SaeOptions: ...


@dataclass(frozen=True)
class SiteTraining:
    """A training report and its place on the site."""

    slug: str
    title: str
    style: str
    """Its style sheet."""
    content: str
    """HTML of everything below its header."""
    saes: tuple[str, ...]
    """Slugs of the SAEs of this site that the run made."""

    def info(self) -> TrainingInfo:
        """What the manifest says of it."""
        return TrainingInfo(self.slug, self.title, list(self.saes))


def training_report(options: SaeOptions) -> Path | None:
    """The report that belongs to an SAE: the one that is named, else the one beside the folder `saes` that it lies in.

    Raises ReleaseError where one is named that does not exist.
    """
    if options.training_report == NONE:
        return None
    if options.training_report != AUTO:
        path = Path(options.training_report)
        path = path / REPORT if path.is_dir() else path
        if not path.is_file():
            raise ReleaseError(f"[[sae]] training_report: there is no {path}. Paths are relative to the release file.")
        return path
    # A layer of a cross-layer transcoder lies one folder deeper.
    for folder in list(Path(options.source).parents)[:2]:
        found = folder.parent / REPORT
        if folder.name == "saes" and found.is_file() and _IS_REPORT in found.read_text(encoding="utf-8", errors="replace"):
            return found
    return None


def open_trainings(saes: Sequence[TrainedSae]) -> list[SiteTraining]:
    """Read the reports of a site's SAEs, each once.

    Raises:
        ReleaseError: a report that is named does not exist, or is not the page that `sae-fast train` writes.
    """
    made: dict[Path, list[str]] = {}
    for sae in saes:
        path = training_report(sae.options)
        if path is not None:
            made.setdefault(path.resolve(), []).append(sae.slug)
    found: list[SiteTraining] = []
    for path, slugs in made.items():
        base = slug = re.sub(r"[^a-z0-9]+", "-", path.parent.name.lower()).strip("-") or "run"
        taken = {other.slug for other in found}
        number = 1
        while slug in taken:
            number += 1
            slug = f"{base}-{number}"
        found.append(_read(path, slug, tuple(slugs)))
    return found


def _read(path: Path, slug: str, saes: tuple[str, ...]) -> SiteTraining:
    text = path.read_text(encoding="utf-8", errors="replace")
    parts = _PARTS.search(text) if _IS_REPORT in text else None
    if parts is None:
        raise ReleaseError(f"[[sae]] training_report: {path} is not the {REPORT} that `sae-fast train` writes.")
    return SiteTraining(slug, html.unescape(parts["title"]), parts["style"], parts["content"], saes)
