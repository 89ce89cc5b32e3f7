"""The page of an evaluation: `content` for a site that has its own frame, `standalone` for one HTML file on its own."""

from html import escape
from importlib import resources

from sae_fast import __version__
from sae_fast.contrast.page import asset as contrast_asset
from sae_fast.evaluation.definitions import definitions
from sae_fast.evaluation.frontier import frontier, legend
from sae_fast.evaluation.report import EvaluationReport
from sae_fast.evaluation.table import BY_HOOK, BY_LAYER, Link, breakdown, overview, parts

TITLE = "Comparison of SAEs"


def content(report: EvaluationReport, link: Link | None = None, title: str | None = None) -> str:
    """HTML of everything below a page's header: no script, no style, nothing from elsewhere.

    `link(name)` gives the address of an SAE's page, or None.
    """
    pictures = [
        frontier(report, "explained_variance", "Explained variance: higher is better"),
        frontier(report, "delta_ce", "ΔCE, nats: lower is better"),
    ]
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in report.notes)
    return f"""<section class="intro">
<h1>{escape(title or TITLE)}</h1>
<p class="lead">{_lead(report)}</p>
{notes}
</section>
<section>
<h2>Sparsity and fidelity</h2>
{legend(report)}
<div class="frontiers">
{"".join(pictures)}
</div>
<p class="note">Numbers are those of the table{_prefix_note(report)}. Lines are 95 % intervals.</p>
</section>
<section>
<h2>All numbers</h2>
{overview(report, link or (lambda name: None))}
</section>
{_parts(report)}
{_breakdowns(report)}
{definitions(report)}"""


def standalone(report: EvaluationReport) -> str:
    """One HTML file with its styles and its script inside; it asks nobody for anything."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="sae_fast {__version__}">
<title>{TITLE}{f" · {escape(report.model)}" if report.model else ""}</title>
<style>
{contrast_asset("standalone.css")}{stylesheet()}</style>
</head>
<body>
<main>
{content(report)}
</main>
<footer class="foot">sae_fast {__version__} · all numbers are in evaluation.json beside this page</footer>
<script type="module">
{contrast_asset("contrast-table.js")}</script>
</body>
</html>
"""


def stylesheet() -> str:
    """The style sheet of these pages."""
    return resources.files("sae_fast.evaluation").joinpath("assets", "evaluation.css").read_text("utf-8")


def _lead(report: EvaluationReport) -> str:
    model = f" of {escape(report.model)}" if report.model else ""
    n, documents = len(report.saes), f"{report.n_documents:,} document{'s' * (report.n_documents != 1)}"
    return (
        f"{n:,} SAE{'s' * (n != 1)}{model} on {report.n_tokens:,} tokens of {documents} of {escape(report.corpus)}, "
        f"in contexts of {report.context_length:,} tokens."
    )


def _prefix_note(report: EvaluationReport) -> str:
    has_prefixes = any(sae.prefix_of for sae in report.saes)
    return "; hollow dots are prefixes of a matryoshka SAE, joined to the whole" if has_prefixes else ""


def _parts(report: EvaluationReport) -> str:
    """Hooks and layers of what has several."""
    found = []
    for n, sae in enumerate(report.saes, 1):
        tables = parts(sae.by_hook, BY_HOOK, "hook") if sae.by_hook else ""
        tables += parts(sae.by_layer, BY_LAYER, "layer") if sae.by_layer else ""
        found += [f"<h3>{n} {escape(sae.name)}</h3>\n{tables}"] * bool(tables)
    return f'<section>\n<h2 id="parts">By hook and layer</h2>\n{"".join(found)}\n</section>' if found else ""


def _breakdowns(report: EvaluationReport) -> str:
    words = {"by_position": "By position in the context", "by_class": "By class of token"}
    parts = []
    for which, heading in words.items():
        tables = [
            f"<h3>{label}</h3>\n{table}"
            for metric, label in (("explained_variance", "explained variance"), ("delta_ce", "ΔCE, nats"))
            if (table := breakdown(report, which, metric))
        ]
        if tables:
            parts.append(f'<section>\n<h2 id="{which}">{heading}</h2>\n{"".join(tables)}\n</section>')
    return "\n".join(parts)
