"""The sparsity-fidelity frontier as SVG without a library: each SAE by L0 and one metric, with its intervals.

Places are percentages of the picture and sizes are pixels, so that dots and words keep their size on a phone.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

from sae_fast.evaluation.report import EvaluationReport, SaeReport

LEFT, RIGHT, TOP, BOTTOM = 11.0, 95.0, 7.0, 88.0
"""Edges of what is drawn, in percent; the rest is for the words of the axes."""

N_COLOURS = 6
"""Architectures beyond so many share the last colour."""

SIDES = ((7, -6, "start"), (7, 15, "start"), (-7, -6, "end"), (-7, 15, "end"))
"""Where the number of a dot may stand: pixels from its centre, and which end of the words is there."""
WORD = (3.5, 5.0)
"""Percent of the picture that a number takes, more or less."""


def frontier(report: EvaluationReport, metric: str, words: str) -> str:
    """HTML of one picture, or nothing where fewer than one SAE has both numbers."""
    shown = [(n, sae) for n, sae in enumerate(report.saes, 1) if _has(sae, metric)]
    if not shown:
        return ""
    x_scale = _Log([end for _, sae in shown for end in _ends(sae, "l0")])
    y_scale = _Linear([end for _, sae in shown for end in _ends(sae, metric)])
    colours = colour_of(report)
    grid = "".join(_vertical(x_scale.place(tick), number) for tick, number in x_scale.ticks())
    grid += "".join(_horizontal(y_scale.place(tick), number) for tick, number in y_scale.ticks())
    joins = "".join(_join(sae, report, metric, x_scale, y_scale) for _, sae in shown)
    sides = _sides([_place(sae.metrics, metric, x_scale, y_scale) for _, sae in shown])
    dots = "\n".join(
        _dot(n, sae, metric, colours[sae.architecture], x_scale, y_scale, side)
        for (n, sae), side in zip(shown, sides, strict=True)
    )
    return f"""<figure class="frontier">
<figcaption>{words}</figcaption>
<svg role="img" aria-label="{len(shown)} SAEs by L0 and {escape(metric.replace("_", " "))}">
{grid}{joins}
{dots}
</svg>
<p class="xlabel">L0, active features per token</p>
</figure>"""


def colour_of(report: EvaluationReport) -> dict[str, int]:
    """The number of the colour of each architecture."""
    kinds = sorted({sae.architecture for sae in report.saes})
    return {kind: min(n, N_COLOURS - 1) for n, kind in enumerate(kinds)}


def legend(report: EvaluationReport) -> str:
    """HTML of what the colours mean; nothing where there is one."""
    colours = colour_of(report)
    if len(colours) < 2:
        return ""
    items = "".join(f'<li class="kind-{colour}">{escape(kind)}</li>' for kind, colour in colours.items())
    return f'<ul class="legend">{items}</ul>'


class _Log:
    """L0 on a logarithmic axis."""

    def __init__(self, values: Sequence[float]) -> None:
        logs = [math.log10(max(value, 1e-3)) for value in values]
        middle, half = (max(logs) + min(logs)) / 2, max((max(logs) - min(logs)) / 2, 0.15)
        self.low, self.high = middle - half, middle + half

    def place(self, value: float) -> float:
        share = (math.log10(max(value, 1e-3)) - self.low) / (self.high - self.low)
        return round(LEFT + (RIGHT - LEFT) * share, 2)

    def ticks(self) -> list[tuple[float, str]]:
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        for steps in ((1,), (1, 2, 5)):
            values = [step * 10.0**decade for decade in decades for step in steps]
            found = [(v, f"{v:,.10g}") for v in values if self.low <= math.log10(v) <= self.high]
            if len(found) > 2:
                return found
        return _round_numbers(10**self.low, 10**self.high)


class _Linear:
    """The metric; four to eight round ticks."""

    def __init__(self, values: Sequence[float]) -> None:
        middle, half = (max(values) + min(values)) / 2, (max(values) - min(values)) / 2
        half = half or abs(middle) / 10 or 0.1
        self.low, self.high = middle - half, middle + half

    def place(self, value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (value - self.low) / (self.high - self.low), 2)

    def ticks(self) -> list[tuple[float, str]]:
        return _round_numbers(self.low, self.high)


def _round_numbers(low: float, high: float) -> list[tuple[float, str]]:
    """Four to eight of them between two numbers."""
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    found = []
    while first * step <= high * (1 + 1e-12) + 1e-12 * abs(step):
        found.append((first * step, f"{first * step:,.{digits}f}".replace("-", "\N{MINUS SIGN}")))
        first += 1
    return found


def _has(sae: SaeReport, metric: str) -> bool:
    return bool(sae.metrics.get("l0")) and sae.metrics.get(metric) is not None


def _ends(sae: SaeReport, metric: str) -> list[float]:
    """The value and the ends of its interval."""
    value = sae.metrics[metric]
    assert value is not None
    return [value, *(sae.intervals.get(metric) or ())]


def _vertical(x: float, words: str) -> str:
    line = f'<line class="grid" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>'
    return f'{line}<text class="tick" x="{x}%" y="100%" dx="4" dy="-5">{words}</text>'


def _horizontal(y: float, words: str) -> str:
    line = f'<line class="grid" x1="0" x2="100%" y1="{y}%" y2="{y}%"/>'
    return f'{line}<text class="tick" x="4" y="{y}%" dy="-4">{words}</text>'


def _join(sae: SaeReport, report: EvaluationReport, metric: str, x_scale: _Log, y_scale: _Linear) -> str:
    """A line from a prefix of a matryoshka SAE to the next larger one, or to the whole."""
    if sae.prefix_of is None:
        return ""
    family = [one for one in report.saes if sae.prefix_of in (one.prefix_of, one.name) and one.d_sae > sae.d_sae]
    following = min((one for one in family if _has(one, metric)), key=lambda one: one.d_sae, default=None)
    if following is None:
        return ""
    ends = [_place(one.metrics, metric, x_scale, y_scale) for one in (sae, following)]
    (x1, y1), (x2, y2) = ends
    return f'<line class="join" x1="{x1}%" y1="{y1}%" x2="{x2}%" y2="{y2}%"/>'


def _dot(n: int, sae: SaeReport, metric: str, colour: int, x_scale: _Log, y_scale: _Linear, side: tuple[int, int, str]) -> str:
    x, y = _place(sae.metrics, metric, x_scale, y_scale)
    bars = ""
    if sae.intervals.get("l0"):
        low, high = (x_scale.place(end) for end in sae.intervals["l0"] or ())
        bars += f'<line class="bar" x1="{low}%" x2="{high}%" y1="{y}%" y2="{y}%"/>'
    if sae.intervals.get(metric):
        low, high = (y_scale.place(end) for end in sae.intervals[metric] or ())
        bars += f'<line class="bar" x1="{x}%" x2="{x}%" y1="{low}%" y2="{high}%"/>'
    title = f"{sae.name}: L0 {sae.metrics['l0']:.4g}, {metric.replace('_', ' ')} {sae.metrics[metric]:.4g}"
    hollow = " prefix" if sae.prefix_of else ""
    dx, dy, anchor = side
    return (
        f'<a href="#sae-{n}" class="kind-{colour}{hollow}" tabindex="-1">{bars}<circle cx="{x}%" cy="{y}%" r="5">'
        f"<title>{escape(title)}</title></circle>"
        f'<text x="{x}%" y="{y}%" dx="{dx}" dy="{dy}" text-anchor="{anchor}">{n}</text></a>'
    )


def _sides(dots: Sequence[tuple[float, float]]) -> list[tuple[int, int, str]]:
    """For the number of each dot the side with the fewest numbers and other dots in its way."""
    taken: list[tuple[float, float]] = []
    chosen = []
    for dot in dots:
        spots = [(dot[0] + (WORD[0] if dx > 0 else -WORD[0]) / 1.5, dot[1] + (-3.5 if dy < 0 else 3.5)) for dx, dy, _ in SIDES]
        crowds = [2 * _near(spot, taken, WORD) + _near(spot, dots, (2.0, 3.0)) for spot in spots]
        best = crowds.index(min(crowds))
        taken.append(spots[best])
        chosen.append(SIDES[best])
    return chosen


def _near(spot: tuple[float, float], others: Sequence[tuple[float, float]], within: tuple[float, float]) -> int:
    return sum(abs(x - spot[0]) < within[0] and abs(y - spot[1]) < within[1] for x, y in others)


def _place(metrics: Mapping[str, float | None], metric: str, x_scale: _Log, y_scale: _Linear) -> tuple[float, float]:
    return x_scale.place(metrics["l0"] or 0.0), y_scale.place(metrics[metric] or 0.0)
