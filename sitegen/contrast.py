"""Contrasts on a site: which result goes onto which page, and which of the site's SAEs its features belong to.

Results come from `sae-fast contrast`; reading them needs no torch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sae_fast.contrast.report import Contrast, SaeContrast
from sae_fast.errors import nearest
from sitegen.errors import MismatchError, ReleaseError
from sitegen.records import ContrastInfo, FeatureId

if TYPE_CHECKING:
    from sitegen.release import ContrastOptions


class KnownSae(Protocol):
    """What is known of an SAE of the site before anything is computed."""

    @property
    def slug(self) -> str:
        """Its name in addresses."""

    @property
    def hook_name(self) -> str:
        """Where it reads."""

    @property
    def architecture(self) -> str:
        """What makes activations sparse."""

    @property
    def d_sae(self) -> int:
        """Number of features."""


@dataclass(frozen=True)
class SiteContrast:
    """A contrast and its place on the site."""

    slug: str
    title: str
    contrast: Contrast
    slugs: dict[str, str]
    """By the name of each SAE of the contrast that is on the site: its slug there."""

    def info(self) -> ContrastInfo:
        """What the manifest says of it."""
        n_found = sum(sae.n_found(self.contrast.alpha) for sae in self.contrast.saes)
        return ContrastInfo(self.slug, self.title, f"data/contrast/{self.slug}.json.gz", sorted(self.slugs.values()), n_found)

    def link(self, sae: str, feature: FeatureId, features: dict[str, dict[FeatureId, str]]) -> str | None:
        """Address of a feature's page from the contrast's own; None where the site does not have it."""
        slug = self.slugs.get(sae)
        if slug is None or feature not in features.get(slug, {}):
            return None
        return f"../../sae/{slug}/feature.html?f={feature}"

    def label(self, sae: str, feature: FeatureId, features: dict[str, dict[FeatureId, str]]) -> str:
        """The feature's label on the site; empty where there is none."""
        return features.get(self.slugs.get(sae, ""), {}).get(feature, "")


def open_contrasts(options: Sequence["ContrastOptions"], saes: Sequence[KnownSae]) -> list[SiteContrast]:
    """Read the results that a release names and find their SAEs among those of the site.

    An SAE of a contrast is the one of the site that `sae` names, else the only one with its hook, architecture and size (of
    several, the one with its name as slug). One that is not on the site is shown without links.

    Raises:
        FormatError: a source is no contrast.
        ReleaseError: `sae` names no SAE of the site or too few, several could be meant, or two contrasts have one slug.
        MismatchError: `sae` names an SAE of another size.
    """
    found: list[SiteContrast] = []
    for table in options:
        contrast = Contrast.read(table.source)
        title = table.title or f"{contrast.a.name} against {contrast.b.name}"
        slug = table.slug or re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "contrast"
        if any(other.slug == slug for other in found):
            raise ReleaseError(f"Two contrasts have the slug {slug!r}: give one of the [[contrast]] tables another slug.")
        found.append(SiteContrast(slug, title, contrast, _matched(table, contrast, saes)))
    return found


def _matched(table: "ContrastOptions", contrast: Contrast, saes: Sequence[KnownSae]) -> dict[str, str]:
    if table.sae:
        return _named(table, contrast, saes)
    slugs: dict[str, str] = {}
    for sae in contrast.saes:
        alike = [known.slug for known in saes if _key(known) == (sae.hook_name, sae.architecture, sae.d_sae)]
        if len(alike) > 1 and sae.name in alike:
            alike = [sae.name]
        if len(alike) > 1:
            raise ReleaseError(
                f"[[contrast]] {table.source}: its SAE {sae.name!r} could be any of {', '.join(alike)}, which read at one hook "
                'and have one size. Name the slugs of its SAEs, in order, with sae = ["…"].'
            )
        if alike:
            slugs[sae.name] = alike[0]
    return slugs


def _named(table: "ContrastOptions", contrast: Contrast, saes: Sequence[KnownSae]) -> dict[str, str]:
    known = {sae.slug: sae for sae in saes}
    if len(table.sae) != len(contrast.saes):
        raise ReleaseError(
            f"[[contrast]] {table.source}: sae names {len(table.sae)} SAEs, and the contrast has {len(contrast.saes)} "
            f"({', '.join(sae.name for sae in contrast.saes)})."
        )
    for slug, sae in zip(table.sae, contrast.saes, strict=True):
        if slug not in known:
            there = f"{nearest(slug, known)} There are {', '.join(known)}."
            raise ReleaseError(f"[[contrast]] {table.source}: no SAE with the slug {slug!r}.{there}")
        _require_size(table, sae, known[slug])
    return {sae.name: slug for slug, sae in zip(table.sae, contrast.saes, strict=True)}


def _require_size(table: "ContrastOptions", sae: SaeContrast, known: KnownSae) -> None:
    if sae.d_sae != known.d_sae:
        raise MismatchError(
            f"[[contrast]] {table.source}: {sae.name} has {sae.d_sae:,} features, and {known.slug} has {known.d_sae:,}."
        )


def _key(sae: KnownSae) -> tuple[str, str, int]:
    return sae.hook_name, sae.architecture, sae.d_sae
