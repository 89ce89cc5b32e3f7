"""What is drawn and rounded when a site is built."""

import math
import re

import pytest

from sitegen.records import FeatureRecord, Label, LogHistogram
from sitegen.write import charts, numbers
from sitegen.write.table import BINS_PER_DECADE, TableColumns, density_histogram, featured


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (None, "–"),
        (1, "1.00"),
        (123.4, "123"),
        (999.6, "1,000"),
        (1234.5, "1,234"),
        (0.00123, "0.00123"),
        (1.234e-5, "1.23e−5"),
    ],
)
def test_three_significant_digits(value: float | None, shown: str) -> None:
    """Numbers keep three digits, large ones all before the point, tiny ones an exponent."""
    assert numbers.significant(value) == shown
    if value:
        assert numbers.significant(-value) == "−" + shown


def test_percent_and_count() -> None:
    """Shares are shown in percent, counts with separators."""
    assert numbers.percent(0.0123) == "1.23\u202f%"
    assert numbers.count(1_234_567) == "1,234,567"


def test_density_histogram_counts_every_active_feature_in_its_bin() -> None:
    """Each density above zero is in the bin whose edges enclose it; a density of one is in the last."""
    densities = [0.0, 1.0, 0.5, 0.1, 0.0999, 3e-4, 1e-4]
    histogram = density_histogram(densities)
    assert histogram is not None
    assert sum(histogram.counts) == 6
    edges = [10 ** (histogram.low_decade + i / BINS_PER_DECADE) for i in range(len(histogram.counts) + 1)]
    for i, n in enumerate(histogram.counts[:-1]):
        assert n == sum(edges[i] * (1 - 1e-9) <= density < edges[i + 1] * (1 - 1e-9) for density in densities)
    assert histogram.counts[-1] == 1
    assert density_histogram([0.0, 0.0]) is None


def test_bars_and_curve_stay_inside_the_chart() -> None:
    """Every bar and every point of the curve lies within the view box, the highest at its top."""
    histogram = LogHistogram(-3, 2, [0, 5, 10, 1, 0, 2])
    bars = charts.bars(histogram, 100, 50)
    assert len(bars) == 4
    assert min(bar.y for bar in bars) == 0
    assert all(0 <= bar.x and bar.x + bar.width <= 100 and bar.y + bar.height == pytest.approx(50) for bar in bars)
    points = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", charts.curve(histogram, 100, 50))]
    assert all(0 <= x <= 100 and 0 <= y <= 50 for x, y in points)
    assert charts.decades(histogram) == [-3, -2, -1, 0]


def test_featured_features_are_the_best_described_and_different() -> None:
    """The best F1 of precision and recall come first; no two share a label or a token; the dead are left out."""
    columns = TableColumns()
    scores = [
        (0.9, 0.9, "a", 1),
        (0.99, 0.99, "b", 2),
        (0.98, 0.98, "b", 3),
        (0.97, 0.97, "c", 2),
        (0.5, 0.5, "d", 4),
        (0.0, 0.9, "e", 5),
    ]
    for feature, (precision, recall, text, token) in enumerate(scores):
        columns.add(
            FeatureRecord(feature, 0.01, label=Label(text, "rule", None, precision, recall), top_tokens=[(token, 1, 1.0)])
        )
    columns.add(FeatureRecord(6, 0.0))
    columns.add(FeatureRecord(7, 0.9, label=Label("dense", "rule", None, 1.0, 1.0)))
    assert featured(columns, 3) == [0, 1, 4]
    assert featured(columns, 0) == []


def test_featured_features_come_from_every_rule() -> None:
    """A rule whose best label is worse than another's second still has its turn."""
    columns = TableColumns()
    for feature, (rule, score) in enumerate([("token", 0.9), ("token", 0.8), ("line", 0.6), ("token", 0.7)]):
        columns.add(FeatureRecord(feature, 0.01, label=Label(f"label {feature}", "rule", rule, score, score)))
    assert featured(columns, 2) == [0, 2]
    assert featured(columns, 3) == [0, 1, 2]


def test_the_table_has_a_row_for_every_record() -> None:
    """Columns have equal lengths; what a record lacks is empty or None."""
    columns = TableColumns()
    columns.add(FeatureRecord(3, 0.25))
    table = columns.table()
    assert (table.id, table.density, table.max_act, table.label) == ([3], [0.25], [0.0], [""])
    assert (table.precision, table.recall, table.top_token) == ([None], [None], [None])
    assert not math.isnan(table.max_act[0])
