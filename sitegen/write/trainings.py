"""Training reports as pages of a site, in its frame."""

from collections.abc import Sequence

from markupsafe import Markup

from sitegen.records import Manifest
from sitegen.training import SiteTraining
from sitegen.write.output import OutputDir
from sitegen.write.pages import Renderer, SaePage


def write_trainings(
    out: OutputDir, manifest: Manifest, pages: Sequence[SaePage], trainings: Sequence[SiteTraining], assets: str
) -> None:
    """Write `training/<slug>/index.html` and `training/<slug>/report.css` of each report."""
    render = Renderer(manifest, pages, assets)
    for training in trainings:
        folder = f"training/{training.slug}"
        out.write(f"{folder}/report.css", training.style.encode())
        page = render("training.html", root="../../", training=training.info(), training_html=Markup(training.content))
        out.write(f"{folder}/index.html", page)
