"""Geometry of the charts that are drawn when the site is built; the templates turn it into SVG."""

from dataclasses import dataclass

from sitegen.records import LogHistogram


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar in the units of the chart's view box, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    title: str


def bars(histogram: LogHistogram, width: float, height: float, gap: float = 1.0) -> list[Bar]:
    """Return a bar for every bin that is not empty; the highest fills the height."""
    top = max(histogram.counts, default=0) or 1
    step = width / len(histogram.counts)
    found = []
    for index, n in enumerate(histogram.counts):
        if n:
            size = max(height / 100, height * n / top)
            low = _power(histogram.low_decade + index / histogram.per_decade)
            high = _power(histogram.low_decade + (index + 1) / histogram.per_decade)
            title = f"density {low} to {high}: {n:,} features"
            found.append(
                Bar(round(index * step + gap / 2, 2), round(height - size, 2), round(step - gap, 2), round(size, 2), title)
            )
    return found


def curve(histogram: LogHistogram, width: float, height: float) -> str:
    """Return the SVG path of the filled outline of a histogram, smoothed over three bins."""
    counts = histogram.counts
    padded = [0, *counts, 0]
    smooth = [(padded[i] + 2 * padded[i + 1] + padded[i + 2]) / 4 for i in range(len(counts))]
    top = max(smooth, default=0) or 1
    step = width / len(counts)
    points = [((i + 0.5) * step, height - height * value / top) for i, value in enumerate(smooth)]
    line = " ".join(f"L{x:.1f} {y:.1f}" for x, y in points)
    return f"M0 {height:.1f} {line} L{width:.1f} {height:.1f}Z"


def decades(histogram: LogHistogram) -> list[int]:
    """Return the exponents of the ticks, evenly spaced from the first bin's begin to the last one's end."""
    return [histogram.low_decade + i for i in range(len(histogram.counts) // histogram.per_decade + 1)]


def _power(exponent: float) -> str:
    return f"{10**exponent:.2g}"
