"""What is known of an SAE's features as a whole: the table by column, the density histogram, the features to begin with."""

import math
from collections import Counter

from sitegen.records import FeatureId, FeatureRecord, FeatureTable, LogHistogram, TokenId
from sitegen.write.token_text import Entry

BINS_PER_DECADE = 5
LOWEST_DECADE = -9
FEATURED_DENSITY = (1e-5, 0.05)
"""Features outside this range are too rare to judge or too common to be interesting at first sight."""


class TableColumns:
    """Collects the feature table while records pass by."""

    def __init__(self) -> None:
        self.ids: list[FeatureId] = []
        self.density: list[float] = []
        self.max_act: list[float] = []
        self.label: list[str] = []
        self.precision: list[float | None] = []
        self.recall: list[float | None] = []
        self.top_token: list[TokenId | None] = []

    def add(self, record: FeatureRecord) -> None:
        """Append a record's row."""
        label = record.label
        self.ids.append(record.id)
        self.density.append(record.density)
        self.max_act.append(record.max_act or 0.0)
        self.label.append(label.text if label else "")
        self.precision.append(label.precision if label else None)
        self.recall.append(label.recall if label else None)
        self.top_token.append(_top_token(record))

    def table(self, strings: dict[str, Entry] | None = None) -> FeatureTable:
        """Return the columns as they are written; `strings` where the vocabulary travels with them."""
        return FeatureTable(
            id=self.ids,
            density=self.density,
            max_act=self.max_act,
            label=self.label,
            precision=self.precision,
            recall=self.recall,
            top_token=self.top_token,
            strings=strings,
        )


def density_histogram(densities: list[float]) -> LogHistogram | None:
    """Count features by log10 density, dead ones left out; None where all are dead."""
    logs = [math.log10(density) for density in densities if density > 0]
    if not logs:
        return None
    low_decade = max(LOWEST_DECADE, math.floor(min(logs)))
    counts = [0] * (-low_decade * BINS_PER_DECADE or BINS_PER_DECADE)
    for value in logs:
        counts[min(len(counts) - 1, max(0, math.floor((value - low_decade) * BINS_PER_DECADE)))] += 1
    return LogHistogram(low_decade, BINS_PER_DECADE, counts)


def featured(table: FeatureTable, n: int) -> list[FeatureId]:
    """Choose up to `n` features whose labels describe them best, no two of them with the same first word or top token.

    Best is the largest harmonic mean of precision and recall; where nothing was measured, the largest activation of a feature
    that has a label.
    """
    rows = [
        row for row, text in enumerate(table.label) if text and FEATURED_DENSITY[0] <= table.density[row] <= FEATURED_DENSITY[1]
    ]
    rows.sort(key=lambda row: (-_harmonic(table.precision[row], table.recall[row]), -table.max_act[row], table.id[row]))
    chosen: list[int] = []
    seen: Counter[object] = Counter()
    for row in rows:
        marks = {table.label[row], ("token", table.top_token[row])}
        if table.top_token[row] is None:
            marks.discard(("token", None))
        if len(chosen) < n and not any(seen[mark] for mark in marks):
            chosen.append(row)
            seen.update(marks)
    return sorted(table.id[row] for row in chosen)


def _harmonic(precision: float | None, recall: float | None) -> float:
    if not precision or not recall:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def _top_token(record: FeatureRecord) -> TokenId | None:
    if record.top_tokens:
        return record.top_tokens[0][0]
    for group in record.groups or ():
        for example in group.examples:
            return example.tokens[example.peak]
    return None
