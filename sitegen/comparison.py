"""Comparisons of SAEs on a site: results of `sae-fast eval`, and which of the site's SAEs they measure.

Reading them needs no torch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sae_fast.evaluation.report import EvaluationReport
from sitegen.contrast import KnownSae
from sitegen.errors import ReleaseError
from sitegen.records import ComparisonInfo
from sitegen.release import ComparisonOptions

TITLE = "Comparison of SAEs"


@dataclass(frozen=True)
class SiteComparison:
    """An evaluation and its place on the site."""

    slug: str
    title: str
    report: EvaluationReport
    slugs: dict[str, str]
    """By the name of each SAE of the evaluation that is on the site: its slug there."""

    def info(self) -> ComparisonInfo:
        """What the manifest says of it."""
        path = f"data/comparison/{self.slug}.json.gz"
        return ComparisonInfo(self.slug, self.title, path, sorted(self.slugs.values()), len(self.report.saes))

    def link(self, sae: str) -> str | None:
        """Address of an SAE's page from the comparison's own; None where the site does not have it."""
        return f"../../sae/{self.slugs[sae]}/index.html" if sae in self.slugs else None


def open_comparisons(options: Sequence[ComparisonOptions], saes: Sequence[KnownSae]) -> list[SiteComparison]:
    """Read the results that a release names and find their SAEs among those of the site.

    An SAE of a result is the only one of the site with its hook, architecture and size; of several, the one with its name as
    slug. One that is not on the site, or could be any of several, is shown without a link.

    Raises:
        FormatError: a source is no evaluation.
        ReleaseError: two comparisons have one slug.
    """
    found: list[SiteComparison] = []
    for table in options:
        report = EvaluationReport.read(table.source)
        title = table.title or TITLE
        slug = table.slug or re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "comparison"
        if any(other.slug == slug for other in found):
            raise ReleaseError(f"Two comparisons have the slug {slug!r}: give one of the [[comparison]] tables another slug.")
        found.append(SiteComparison(slug, title, report, _matched(report, saes)))
    return found


def _matched(report: EvaluationReport, saes: Sequence[KnownSae]) -> dict[str, str]:
    slugs = {}
    for sae in report.saes:
        key = (sae.hook_name, sae.architecture, sae.d_sae)
        alike = [known.slug for known in saes if (known.hook_name, known.architecture, known.d_sae) == key]
        if sae.prefix_of is None and (len(alike) == 1 or sae.name in alike):
            slugs[sae.name] = sae.name if sae.name in alike else alike[0]
    return slugs
