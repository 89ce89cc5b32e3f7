"""The tables of an evaluation's page."""

from collections.abc import Callable
from html import escape

from sae_fast.evaluation.frontier import colour_of
from sae_fast.evaluation.report import EvaluationReport, Row, SaeReport

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"

COLUMNS = (
    ("l0", "L0", "ascending"),
    ("explained_variance", "explained variance", "descending"),
    ("delta_ce", "ΔCE, nats", "ascending"),
    ("ce_recovered", "CE recovered", "descending"),
    ("kl_sae", "KL, nats", "ascending"),
    ("kl_recovered", "KL recovered", "descending"),
    ("mse", "MSE", "ascending"),
    ("cosine", "cosine", "descending"),
    ("norm_ratio", "norm ratio", "descending"),
    ("relative_reconstruction_bias", "bias γ", "descending"),
    ("l1", "L1", "ascending"),
    ("ce_recovered_zero", "CE recovered, zero", "descending"),
)
"""Metric, heading, and which way its first click sorts: the better first."""

Link = Callable[[str], str | None]


def overview(report: EvaluationReport, link: Link) -> str:
    """HTML of the table of all SAEs; `link` gives the address of an SAE's page by its name, or None."""
    places = len({tuple(sae.hooks_out) for sae in report.saes}) > 1
    head = _heading("n", "#", "ascending") + _heading("label", "SAE", "ascending")
    head += _heading("d_sae", "features", "descending")
    head += "".join(_heading(name, words, first, "has-term") for name, words, first in COLUMNS)
    head += _heading("n_dead", "not seen", "ascending", "has-term") + _heading("n_dense", "dense", "ascending", "has-term")
    body = "\n".join(_row(n, sae, report, link, places) for n, sae in enumerate(report.saes, 1))
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="Table of SAEs">
<table class="evaluation" data-sortable>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>"""


def breakdown(report: EvaluationReport, which: str, metric: str) -> str:
    """HTML of a metric of every SAE, by position (`by_position`) or class (`by_class`); nothing where there is no such row."""
    rows = [(n, sae, {row["name"]: row for row in getattr(sae, which)}) for n, sae in enumerate(report.saes, 1)]
    names = list(dict.fromkeys(name for _, _, found in rows for name in found))
    if not names:
        return ""
    counts = rows[0][2]
    head = "".join(
        f'<th scope="col" class="number" title="{counts.get(name, {}).get("n_tokens", 0):,} tokens">{escape(name)}</th>'
        for name in names
    )
    body = "\n".join(
        f'<tr><th scope="row">{n} {escape(sae.name)}</th>'
        + "".join(f'<td class="number">{_with_interval(found.get(name, {}), metric)}</td>' for name in names)
        + "</tr>"
        for n, sae, found in rows
    )
    words = f"{metric} {which}".replace("_", " ")
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="{words}">
<table class="evaluation breakdown">
<thead><tr><th scope="col">SAE</th>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>"""


BY_HOOK = (("explained_variance", "explained variance"), ("mse", "MSE"), ("cosine", "cosine"), ("norm_ratio", "norm ratio"))
BY_LAYER = (("d_sae", "features"), ("l0", "L0"), ("l1", "L1"), ("n_not_seen", "not seen"), ("n_dense", "dense"))


def parts(rows: list[Row], columns: tuple[tuple[str, str], ...], first: str) -> str:
    """HTML of the rows of one SAE, its hooks or layers, with these metrics and headings; `first` heads the names."""
    head = "".join(f'<th scope="col" class="number">{words}</th>' for _, words in columns)
    body = "\n".join(
        f'<tr><th scope="row">{escape(row["name"])}</th>'
        + "".join(f'<td class="number">{_with_interval(row, metric)}</td>' for metric, _ in columns)
        + "</tr>"
        for row in rows
    )
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="by {first}">
<table class="evaluation breakdown">
<thead><tr><th scope="col">{first}</th>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>"""


def number(value: float | None, digits: int = 4) -> str:
    """Four significant digits, an exponent below 1e-3; a dash for None."""
    if value is None:
        return NOTHING
    if abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        text = f"{value:#.{digits}g}".rstrip(".") if value else "0"
    return text.replace("-", MINUS)


def _heading(name: str, words: str, first: str, kind: str = "") -> str:
    about = f' <a class="term about" href="#{name}" aria-label="Definition of {words}">?</a>' if kind == "has-term" else ""
    css = "" if name == "label" else ' class="number"'
    return f'<th scope="col" data-column="{name}" data-first="{first}"{css}><button type="button">{words}</button>{about}</th>'


def _row(n: int, sae: SaeReport, report: EvaluationReport, link: Link, places: bool) -> str:
    address = link(sae.name)
    name = f'<a href="{escape(address)}">{escape(sae.name)}</a>' if address else escape(sae.name)
    colour = colour_of(report)[sae.architecture]
    what = escape(sae.architecture) + (f", k = {sae.k}" if sae.k else "")
    what += kind_of(sae)
    cells = f'<td class="number" data-column="n" data-value="{n}">{n}</td>'
    hook = f"<code>{escape(hooks_in_words(sae.hooks_out))}</code>" if places else ""
    what = f'<span class="kind-{colour} arch">{what}</span>'
    cells += f'<td data-column="label"><span class="name">{name}</span> {what} {hook}</td>'
    cells += f'<td class="number" data-column="d_sae" data-value="{sae.d_sae}">{sae.d_sae:,}</td>'
    cells += "".join(_cell(sae, name, first) for name, _, first in COLUMNS)
    seen = f"{sae.n_dead:,} dead" if sae.n_dead is not None else f"{sae.n_not_seen:,}"
    cells += f'<td class="number" data-column="n_dead" data-value="{sae.n_not_seen}">{seen}</td>'
    cells += f'<td class="number" data-column="n_dense" data-value="{sae.n_dense}">{sae.n_dense:,}</td>'
    return f'<tr id="sae-{n}">{cells}</tr>'


def kind_of(sae: SaeReport) -> str:
    """What follows the architecture of what reads at several hooks; nothing for others."""
    if sae.by_layer:
        return f", {len(sae.by_layer):,} layers"
    return ", crosscoder" if len(sae.hooks_in) > 1 else ""


def hooks_in_words(hooks: list[str]) -> str:
    """One or two hooks by name, more by the first and the last."""
    return ", ".join(hooks) if len(hooks) < 3 else f"{hooks[0]} to {hooks[-1]}, {len(hooks):,} hooks"


def _cell(sae: SaeReport, name: str, first: str) -> str:
    value = sae.metrics.get(name)
    # What is undefined comes last.
    undefined = "inf" if first == "ascending" else "-inf"
    sort = undefined if value is None else f"{value:.9g}"
    words = _with_interval({**sae.metrics, "intervals": sae.intervals}, name)
    return f'<td class="number" data-column="{name}" data-value="{sort}" title="{value}">{words}</td>'


def _with_interval(row: Row, metric: str) -> str:
    """A number with the ends of its interval below."""
    value, ends = row.get(metric), row.get("intervals", {}).get(metric)
    if isinstance(value, int):
        return f"{value:,}"
    words = f'<span class="interval">{number(ends[0])} to {number(ends[1])}</span>' if ends else ""
    return number(value) + words
