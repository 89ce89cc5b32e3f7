"""Pages and data of comparisons, in the site's frame, with links to the SAEs that the site holds."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from sae_fast.contrast.page import asset
from sae_fast.evaluation import page
from sitegen.comparison import SiteComparison
from sitegen.records import Manifest
from sitegen.write.encode import gzip
from sitegen.write.output import OutputDir
from sitegen.write.pages import Renderer, SaePage


def comparison_assets() -> Mapping[str, bytes]:
    """The style sheet and script of comparison pages, by path among the assets."""
    return {"css/evaluation.css": page.stylesheet().encode(), "js/contrast-table.js": asset("contrast-table.js").encode()}


def write_comparisons(
    out: OutputDir, manifest: Manifest, pages: Sequence[SaePage], comparisons: Sequence[SiteComparison], assets: str
) -> None:
    """Write `comparison/<slug>/index.html` and `data/comparison/<slug>.json.gz` of each comparison."""
    render = Renderer(manifest, pages, assets)
    for comparison in comparisons:
        info = comparison.info()
        out.write(info.path, gzip(comparison.report.to_json().encode()))
        html = page.content(comparison.report, link=comparison.link, title=comparison.title)
        rendered = render("comparison.html", root="../../", comparison=info, comparison_html=Markup(html))
        out.write(f"comparison/{comparison.slug}/index.html", rendered)
