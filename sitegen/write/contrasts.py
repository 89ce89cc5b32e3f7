"""Pages and data of contrasts, in the site's frame, with links to the features that the site holds."""

import io
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from sae_fast.contrast import page
from sitegen.contrast import SiteContrast
from sitegen.records import Manifest
from sitegen.write.encode import gzip
from sitegen.write.output import OutputDir
from sitegen.write.pages import Renderer, SaePage


def contrast_assets() -> Mapping[str, bytes]:
    """The style sheet and script of contrast pages, by path among the assets."""
    return {
        "css/contrast.css": page.asset("contrast.css").encode(),
        "js/contrast-table.js": page.asset("contrast-table.js").encode(),
    }


def write_contrasts(
    out: OutputDir, manifest: Manifest, pages: Sequence[SaePage], contrasts: Sequence[SiteContrast], assets: str
) -> None:
    """Write `contrast/<slug>/index.html`, `data/contrast/<slug>.json.gz` and `.csv` of each contrast."""
    render = Renderer(manifest, pages, assets)
    features = {each.info.slug: each.labels for each in pages}
    for contrast in contrasts:
        info = contrast.info()
        out.write(info.path, gzip(contrast.contrast.to_json().encode()))
        table = io.StringIO(newline="")
        contrast.contrast.write_csv(table)
        out.write(f"data/contrast/{contrast.slug}.csv", table.getvalue().encode())
        html = page.content(
            contrast.contrast,
            link=lambda sae, feature, its=contrast: its.link(sae, feature, features),  # type: ignore[misc]
            label=lambda sae, feature, its=contrast: its.label(sae, feature, features),  # type: ignore[misc]
            title=contrast.title,
        )
        rendered = render("contrast.html", root="../../", contrast=info, contrast_html=Markup(html))
        out.write(f"contrast/{contrast.slug}/index.html", rendered)
