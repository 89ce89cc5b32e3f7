"""The picture of a contrast: every tested feature by density and effect, as SVG without a library.

The SVG stretches with its box; dots are zero-length strokes that do not, and all words stand in HTML around it, so that they
keep their size on a phone.
"""

import math
from collections.abc import Callable, Sequence
from html import escape

from sae_fast.contrast.report import SaeContrast

SIDE = 1000
"""Units of the view box, in both directions."""
LARGEST_EFFECT = 4.0
"""Larger |d| are drawn at the edge, so that one feature does not flatten all others."""
MAX_FOUND = 1500
"""Features that get a dot of their own, with a title and a link; the rest of those found are drawn with the others."""
CELL = 6
"""Dots of features that were not found and would lie in the same cell of so many units are drawn once."""

Link = Callable[[int], str | None]


def picture(sae: SaeContrast, alpha: float, link: Link) -> str:
    """HTML of the picture; empty where no feature was tested. `link` gives the address of a feature's page, or None."""
    if not len(sae):
        return ""
    density, d, q = (sae.columns[name] for name in ("density", "d", "q"))
    lowest = math.floor(math.log10(min(value for value in density if value) or 1.0))
    decades = max(-lowest, 1)
    largest = _largest([value for value in d if value is not None])

    def place(i: int) -> tuple[float, float]:
        x = SIDE * (1 + math.log10(density[i] or 10.0**-decades) / decades)
        effect = math.copysign(largest, _sign(sae, i)) if d[i] is None else max(-largest, min(largest, d[i] or 0.0))
        return round(x, 1), round(SIDE / 2 * (1 - effect / largest), 1)

    found = [i for i in range(len(sae)) if (q[i] or 0.0) <= alpha]
    rest = [i for i in range(len(sae)) if (q[i] or 0.0) > alpha] + found[MAX_FOUND:]
    dots = "\n".join(_dot(sae, i, place(i), link) for i in reversed(found[:MAX_FOUND]))
    words = f"{len(sae):,} features by density and effect size; {len(found):,} found"
    return f"""<figure class="effects">
<div class="ylabel">{_ylabel(sae)}</div>
<div class="yticks" aria-hidden="true">{_spans(_effect_ticks(largest))}</div>
<svg class="dots" viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none" role="img" aria-label="{words}">
<line class="axis" x1="0" x2="{SIDE}" y1="{SIDE // 2}" y2="{SIDE // 2}"/>
<path class="rest" d="{_cloud([place(i) for i in rest])}"/>
{dots}
</svg>
<div class="xticks" aria-hidden="true">{"".join(f"<span>{_power(lowest + i)}</span>" for i in range(decades + 1))}</div>
<figcaption>density: share of chosen tokens on which the feature is active</figcaption>
</figure>"""


def _dot(sae: SaeContrast, i: int, place: tuple[float, float], link: Link) -> str:
    row = sae.row(i)
    side = "a" if _sign(sae, i) > 0 else "b"
    effect = "no spread" if row["d"] is None else f"d {row['d']:.3g}"
    title = escape(f"feature {row['feature']}: {effect}, q {row['q']:.2g}, density {row['density']:.2g}")
    dot = f'<path class="dot {side}" d="M{place[0]} {place[1]}h0"><title>{title}</title></path>'
    address = link(row["feature"])
    return f'<a href="{escape(address)}" tabindex="-1">{dot}</a>' if address else dot


def _cloud(places: Sequence[tuple[float, float]]) -> str:
    cells = {(int(x // CELL), int(y // CELL)): (x, y) for x, y in places}
    return "".join(f"M{x:g} {y:g}h0" for x, y in cells.values())


def _largest(effects: Sequence[float]) -> float:
    """A round number that holds the effects, at most `LARGEST_EFFECT`."""
    reach = max((abs(value) for value in effects), default=1.0)
    return next((size for size in (0.5, 1.0, 2.0, 3.0, LARGEST_EFFECT) if reach <= size), LARGEST_EFFECT)


def _sign(sae: SaeContrast, i: int) -> float:
    return sae.columns["difference"][i] or 0.0


def _effect_ticks(largest: float) -> list[str]:
    return [
        f"{value:+g}".replace("-", "\u2212") if value else "0" for value in (largest, largest / 2, 0, -largest / 2, -largest)
    ]


def _ylabel(sae: SaeContrast) -> str:
    clipped = any(value is None or abs(value) > LARGEST_EFFECT for value in sae.columns["d"])
    return "effect size d" + (f" (beyond ±{LARGEST_EFFECT:g}: drawn at the edge)" if clipped else "")


def _spans(texts: Sequence[str]) -> str:
    return "".join(f"<span>{text}</span>" for text in texts)


def _power(exponent: int) -> str:
    return "1" if exponent == 0 else f"10<sup>\u2212{-exponent}</sup>"
