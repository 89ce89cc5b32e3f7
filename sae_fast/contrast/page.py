"""The page of a contrast: `content` for a site that has its own frame, `standalone` for one HTML file on its own."""

from collections.abc import Callable
from html import escape
from importlib import resources

from sae_fast import __version__
from sae_fast.contrast.definitions import POOLED, definitions
from sae_fast.contrast.picture import picture
from sae_fast.contrast.report import Contrast, SaeContrast
from sae_fast.contrast.table import table

Link = Callable[[str, int], str | None]
Label = Callable[[str, int], str]


def content(contrast: Contrast, link: Link | None = None, label: Label | None = None, title: str | None = None) -> str:
    """HTML of everything below a page's header: no script, no style, nothing from elsewhere.

    `link(sae, feature)` gives the address of a feature's page or None, `label(sae, feature)` its label or nothing; both are
    asked by the SAE's name.
    """
    saes = "\n".join(_sae(contrast, sae, link, label) for sae in contrast.saes)
    return f"""<section class="intro">
<h1>{_title(contrast, title)}</h1>
<p class="lead">{_lead(contrast)}</p>
{_sides(contrast)}
</section>
{saes}
{definitions(contrast, labels=label is not None)}"""


def standalone(contrast: Contrast) -> str:
    """One HTML file with its styles and its script inside; it asks nobody for anything."""
    name = f"{contrast.a.name} against {contrast.b.name}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="sae_fast {__version__}">
<title>{escape(name)}</title>
<style>
{asset("standalone.css")}{asset("contrast.css")}</style>
</head>
<body>
<main>
{content(contrast)}
</main>
<footer class="foot">sae_fast {__version__} · all numbers are in contrast.json and contrast.csv beside this page</footer>
<script type="module">
{asset("contrast-table.js")}</script>
</body>
</html>
"""


def asset(name: str) -> str:
    """Text of a style sheet or script of this package."""
    return resources.files("sae_fast.contrast").joinpath("assets", name).read_text("utf-8")


def _title(contrast: Contrast, title: str | None) -> str:
    if title:
        return escape(title)
    return (
        f'<span class="side a">{escape(contrast.a.name)}</span> against <span class="side b">{escape(contrast.b.name)}</span>'
    )


def _lead(contrast: Contrast) -> str:
    n_found = sum(sae.n_found(contrast.alpha) for sae in contrast.saes)
    n_tested = sum(len(sae) for sae in contrast.saes)
    model = f" of {escape(contrast.model)}" if contrast.model else ""
    design = "within pairs of texts" if contrast.paired else "between the texts"
    return (
        f"{n_found:,} of {n_tested:,} features{model} differ {design}, at a "
        f'<a class="term" href="#q">false-discovery rate</a> of {contrast.alpha:g}.'
    )


def _sides(contrast: Contrast) -> str:
    sides = (contrast.a, contrast.b)
    columns = {"texts": [side.n_texts for side in sides], "chosen tokens": [side.n_tokens for side in sides]}
    unusual = {"texts without a chosen token": [side.n_empty for side in sides], "texts cut": [side.n_cut for side in sides]}
    columns |= {words: numbers for words, numbers in unusual.items() if any(numbers)}
    head = "".join(f'<th scope="col" class="number">{words}</th>' for words in columns)
    rows = "".join(
        f'<tr><th scope="row"><span class="side {which}">{escape(side.name)}</span></th>'
        + "".join(f'<td class="number">{numbers[n]:,}</td>' for numbers in columns.values())
        + "</tr>"
        for n, (which, side) in enumerate(zip("ab", sides, strict=True))
    )
    design = f"{contrast.a.n_texts:,} pairs" if contrast.paired else "two samples"
    value = f'<a class="term" href="#pooled">{POOLED.get(contrast.pool, escape(contrast.pool))}</a>'
    return f"""<table class="sides">
<thead><tr><th scope="col">set</th>{head}</tr></thead>
<tbody>{rows}</tbody>
</table>
<p class="note">Tokens: <code>{escape(contrast.tokens)}</code> · a text counts by the {value} · {design} · \
seed {contrast.seed}</p>"""


def _sae(contrast: Contrast, sae: SaeContrast, link: Link | None, label: Label | None) -> str:
    def address(feature: int) -> str | None:
        return None if link is None else link(sae.name, feature)

    def words(feature: int) -> str:
        return "" if label is None else label(sae.name, feature)

    rare = f", {sae.n_rare:,} in too few texts" if sae.n_rare else ""
    names = (contrast.a.name, contrast.b.name)
    heading = f"{escape(sae.name)}"
    what = (
        f"<code>{escape(sae.hook_name)}</code> · {escape(sae.architecture)} · {sae.d_sae:,} features: {len(sae):,} tested, "
        f'<a class="term" href="#never">{sae.n_never:,} active in no text</a>{rare} · '
        f"{sae.n_found(contrast.alpha):,} found · up to {sae.permutations:,} permutations"
    )
    if not len(sae):
        none = '<p class="note">No feature is active in any text.</p>'
        return f'<section><h2>{heading}</h2><p class="what">{what}</p>{none}</section>'
    return f"""<section>
<h2>{heading}</h2>
<p class="what">{what}</p>
{picture(sae, contrast.alpha, address)}
{table(sae, names, contrast.alpha, address, None if label is None else words)}
</section>"""
