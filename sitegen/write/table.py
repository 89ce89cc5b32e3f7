"""What is known of an SAE's features as a whole: the table by column, the density histogram, the features to begin with."""

import itertools
import math

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
        self.rule: list[str | None] = []
        """Which rule gave each label; no column of the table."""

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
        self.rule.append(label.rule if label else None)

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


def featured(columns: TableColumns, n: int) -> list[FeatureId]:
    """Choose up to `n` features whose labels describe them best, by turns from each rule that gave labels.

    Best is the largest harmonic mean of precision and recall; where nothing was measured, the largest activation of a feature
    that has a label. No two have the same label or the same strongest token.
    """
    low, high = FEATURED_DENSITY
    rows = [row for row, text in enumerate(columns.label) if text and low <= columns.density[row] <= high]
    rows.sort(
        key=lambda row: (-_harmonic(columns.precision[row], columns.recall[row]), -columns.max_act[row], columns.ids[row])
    )
    by_rule: dict[str | None, list[int]] = {}
    for row in rows:
        by_rule.setdefault(columns.rule[row], []).append(row)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_rule.values()))
    chosen: list[int] = []
    seen: set[object] = set()
    for row in turns:
        if row is None or len(chosen) == n:
            continue
        token = columns.top_token[row]
        marks = {columns.label[row]} | ({("token", token)} if token is not None else set())
        if not marks & seen:
            chosen.append(row)
            seen |= marks
    return sorted(columns.ids[row] for row in chosen)


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
