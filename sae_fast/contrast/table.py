"""The table of a contrast, and numbers as its page shows them."""

import math
import re
from collections.abc import Callable
from html import escape
from typing import Any

from sae_fast.contrast.picture import LARGEST_EFFECT
from sae_fast.contrast.report import SaeContrast

ROWS_AT_LEAST = 50
ROWS_AT_MOST = 500
MINUS = "\N{MINUS SIGN}"

HEADINGS = (
    ("feature", "feature", ""),
    ("label", "label", "label"),
    ("d", "d", "effect"),
    ("interval", "95 % interval of d", "interval"),
    ("auc", "AUC", "auc"),
    ("mean_a", "mean", "mean-a"),
    ("mean_b", "mean", "mean-b"),
    ("n_a", "texts", "n-a"),
    ("n_b", "texts", "n-b"),
    ("density", "density", "density"),
    ("p", "p", "p"),
    ("q", "q", "q"),
)
"""Column, words, and the id of its definition."""


def table(
    sae: SaeContrast,
    names: tuple[str, str],
    alpha: float,
    link: Callable[[int], str | None],
    label: Callable[[int], str] | None,
) -> str:
    """HTML of the table: every feature that was found, up to `ROWS_AT_MOST`, and at least the first `ROWS_AT_LEAST`.

    `names` are those of the two sets; `link` gives the address of a feature's page, `label` its label (both may be empty).
    """
    n_rows = min(len(sae), max(ROWS_AT_LEAST, min(sae.n_found(alpha), ROWS_AT_MOST)))
    rows = [sae.row(i) for i in range(n_rows)]
    shown = [heading for heading in HEADINGS if heading[0] != "label" or label is not None]
    reach = _reach(rows)
    head = "".join(_heading(*heading, names) for heading in shown)
    body = "\n".join(
        ("<tr>" if row["q"] <= alpha else '<tr class="not-found">')
        + "".join(_cell(name, row, reach, link, label) for name, _, _ in shown)
        + "</tr>"
        for row in rows
    )
    note = (
        "" if n_rows == len(sae) else f'<p class="note">{n_rows:,} of {len(sae):,} tested features; all are in the files.</p>'
    )
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="Table of features, {escape(sae.name)}">
<table class="contrast" data-sortable>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>
{note}"""


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, an exponent below 1e-4, ∞ for None."""
    if value is None:
        return "∞"
    if value == 0:
        return "0"
    if abs(value) >= 10**digits - 0.5:
        text = f"{value:,.0f}"
    elif abs(value) < 1e-4:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        text = f"{value:#.{digits}g}".rstrip(".")
    return text.replace("-", MINUS)


def _heading(name: str, words: str, term: str, names: tuple[str, str]) -> str:
    side = ""
    if name.endswith(("_a", "_b")):
        which = name[-1]
        side = f' <span class="side {which}">{escape(names[which == "b"])}</span>'
    about = f' <a class="term about" href="#{term}" aria-label="Definition of {words}">?</a>' if term else ""
    kind = "" if name in ("label", "interval") else ' class="number"'
    if name == "interval":
        return f'<th scope="col" data-column="{name}">{words}{about}</th>'
    order = ' aria-sort="ascending"' if name == "p" else ""
    return f'<th scope="col" data-column="{name}"{kind}{order}><button type="button">{words}{side}</button>{about}</th>'


def _cell(
    name: str, row: dict[str, Any], reach: float, link: Callable[[int], str | None], label: Callable[[int], str] | None
) -> str:
    feature = row["feature"]
    if name == "feature":
        address = link(feature)
        text = f'<a href="{escape(address)}">{feature}</a>' if address else f"{feature}"
        return f'<td class="number" data-column="feature" data-value="{feature}">{text}</td>'
    if name == "label":
        text = "" if label is None else _quoted(label(feature))
        return f'<td class="label" data-column="label">{text or "–"}</td>'
    if name == "interval":
        return f'<td class="interval" data-column="interval">{_interval(row, reach)}</td>'
    value = row[name]
    sort = math.copysign(math.inf, row["difference"]) if value is None else value
    text = f"{value:,}" if name in ("n_a", "n_b") else number(value)
    return f'<td class="number" data-column="{name}" data-value="{sort:g}" title="{value}">{text}</td>'


def _quoted(label: str) -> str:
    """A label whose words in backticks are code."""
    parts = re.split(r"`([^`]+)`", label)
    return "".join(f"<code>{escape(part)}</code>" if i % 2 else escape(part) for i, part in enumerate(parts))


def _interval(row: dict[str, Any], reach: float) -> str:
    """A line from the lower to the upper end of the interval of d, a dot at d, over a scale that all rows share."""

    def at(value: float | None, otherwise: float) -> float:
        return round(100 * max(-1.0, min(1.0, (otherwise if value is None else value) / reach)), 1)

    far = math.copysign(reach, row["difference"])
    low, high, d = at(row["d_low"], min(far, 0.0)), at(row["d_high"], max(far, 0.0)), at(row["d"], far)
    side = "a" if row["difference"] > 0 else "b"
    words = f"{number(row['d_low'])} to {number(row['d_high'])}"
    return (
        f'<svg class="{side}" viewBox="-100 0 200 10" preserveAspectRatio="none" role="img" aria-label="{words}">'
        f'<title>{words}</title><path class="zero" d="M0 0V10"/><path class="line" d="M{low} 5H{high}"/>'
        f'<path class="dot" d="M{d} 5h0"/></svg>'
    )


def _reach(rows: list[dict[str, Any]]) -> float:
    """The |d| at the ends of the scale that all rows share: a little beyond the largest, at most `LARGEST_EFFECT`."""
    largest = max((abs(row["d"]) for row in rows if row["d"] is not None), default=LARGEST_EFFECT)
    return min(max(1.25 * largest, 0.1), LARGEST_EFFECT)
