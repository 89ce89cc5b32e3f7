"""Line and bar charts as SVG text, for pages that hold no script."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 34
POINTS = 300
"""Of a line, at most: more cannot be seen."""


@dataclass(frozen=True)
class Line:
    """One curve. `colour` is the number of a colour of the page, from 0."""

    name: str
    colour: int
    x: Sequence[float]
    y: Sequence[float]


def line_chart(lines: Sequence[Line], low: float | None = None, high: float | None = None, log: bool = False) -> str:
    """An SVG of curves over tokens. `low` and `high` cut the vertical axis; `log` is used where all values are positive."""
    lines = [_thinned(line) for line in lines if line.x]
    values = [y for line in lines for y in line.y if math.isfinite(y)]
    if not values:
        return ""
    log = log and min(values) > 0 and max(values) > 10 * min(values)
    bottom, top = _range(values, low, high, log)
    right = max(x for line in lines for x in line.x)

    def place_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / right

    def place_y(y: float) -> float:
        share = (
            (math.log10(max(y, bottom)) - math.log10(bottom)) / (math.log10(top) - math.log10(bottom))
            if log
            else (y - bottom) / (top - bottom)
        )
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(share, 0.0), 1.0)

    parts = [_grid(y, place_y(y)) for y in _ticks(bottom, top, log)]
    parts += [_x_label(x, place_x(x)) for x in _ticks(0, right, False, 4)]
    for line in lines:
        points = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y))
        parts.append(
            f'<polyline class="line c{line.colour}" points="{points}"><title>{html.escape(line.name)}</title></polyline>'
        )
    return _svg(parts, "tokens")


def histogram(lines: Sequence[Line], label: str) -> str:
    """An SVG of stepped outlines: `x` are the edges of bins (one more than there are values in `y`), at powers of ten."""
    lines = [line for line in lines if line.y]
    if not lines:
        return ""
    left, right = lines[0].x[0], lines[0].x[-1]
    top = max(max(line.y) for line in lines) * 1.05 or 1
    parts = []

    def place_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - left) / (right - left)

    def place_y(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / top

    parts += [_grid(y, place_y(y)) for y in _ticks(0, top, False)]
    for power in range(math.ceil(left), math.floor(right) + 1):
        parts.append(_text(place_x(power), HEIGHT - BOTTOM + 15, "1" if power == 0 else f"10{_raised(power)}", "middle"))
    for line in lines:
        corners = [f"{place_x(line.x[0]):.1f},{place_y(0):.1f}"]
        for begin, end, y in zip(line.x, line.x[1:], line.y, strict=False):
            corners += [f"{place_x(begin):.1f},{place_y(y):.1f}", f"{place_x(end):.1f},{place_y(y):.1f}"]
        corners.append(f"{place_x(line.x[-1]):.1f},{place_y(0):.1f}")
        name = html.escape(line.name)
        parts.append(
            f'<polyline class="line filled c{line.colour}" points="{" ".join(corners)}"><title>{name}</title></polyline>'
        )
    return _svg(parts, label)


def short(value: float) -> str:
    """A number as a label: `0`, `0.05`, `12k`, `3.5M`."""
    if value and abs(value) < 2e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    return f"{value:.4g}"


def _svg(parts: Sequence[str], label: str) -> str:
    axis = _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, html.escape(label), "middle")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}{axis}</svg>'


def _grid(value: float, y: float) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + _text(LEFT - 6, y + 4, short(value), "end")


def _x_label(value: float, x: float) -> str:
    anchor = "end" if x > WIDTH - RIGHT - 14 else "middle"
    return _text(min(x, WIDTH - 2), HEIGHT - BOTTOM + 15, short(value), anchor)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _thinned(line: Line) -> Line:
    step = max(1, math.ceil(len(line.x) / POINTS))
    keep = sorted({*range(0, len(line.x), step), len(line.x) - 1})
    return Line(line.name, line.colour, [line.x[i] for i in keep], [line.y[i] for i in keep])


def _range(values: Sequence[float], low: float | None, high: float | None, log: bool) -> tuple[float, float]:
    bottom, top = min(values), max(values)
    bottom = bottom if low is None else max(bottom, low)
    top = top if high is None else min(top, high)
    if log:
        return bottom / 1.1, top * 1.1
    if top < bottom:
        return bottom, bottom + 1
    margin = 0.05 * (top - bottom) or abs(top) * 0.1 or 1
    return (max(0.0, bottom - margin) if bottom >= 0 else bottom - margin), top + margin


def _ticks(bottom: float, top: float, log: bool, n: int = 5) -> list[float]:
    if log:
        decades = range(math.floor(math.log10(bottom)), math.ceil(math.log10(top)) + 1)
        steps = (1, 2, 5) if len(decades) < 5 else (1,)
        return [m * 10.0**d for d in decades for m in steps if bottom <= m * 10.0**d <= top]
    rough = (top - bottom) / n
    unit = 10 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough)
    first = math.ceil(bottom / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(top / step + 1e-9) + 1)]


def _raised(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
