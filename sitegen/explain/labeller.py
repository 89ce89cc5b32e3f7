"""Labels by rule: chosen on half of the documents, measured on the other half, and left out where no rule holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_fast.corpus.tokens import TokenDataset
from sitegen.explain.attributes import Attribute, attributes
from sitegen.explain.halves import LabelCorpus
from sitegen.explain.rules import Evidence, best_rules
from sitegen.explain.wording import listed, quoted
from sitegen.facts.activations import FeatureRange
from sitegen.facts.rounding import significant_one
from sitegen.records import Label, Logits
from sitegen.vocabulary import Vocabulary

MIN_ACTIVE = 10
"""Active tokens that each half must have."""
MIN_SCORE = 0.5
"""F1 of precision and recall, on either half, below which a rule says too little."""
MIN_SHARE = 0.3
"""Precision, and recall, below which a rule says too little."""
DENSE = 0.1
"""Share of tokens from which a feature without a rule is called dense."""
MAX_PROMOTED = 4
PEAKED = 5.0
"""Standard deviations above the vocabulary's mean logit effect from which a token is named as promoted."""


@dataclass(frozen=True)
class _Measured:
    attribute: Attribute
    fit_totals: NDArray[np.int64]
    held_totals: NDArray[np.int64]


class Labeller:
    """The corpus's attributes, computed once; then labels for one range of features after the other."""

    def __init__(self, dataset: TokenDataset, vocabulary: Vocabulary, max_tokens: int = 2_000_000) -> None:
        """Read at most `max_tokens` positions of the corpus, in whole documents."""
        self.corpus = LabelCorpus.choose(dataset, max_tokens)
        self.vocabulary = vocabulary
        fit = (self.corpus.counted & self.corpus.fit[:, None]).reshape(-1)
        held = (self.corpus.counted & ~self.corpus.fit[:, None]).reshape(-1)
        self.n_held = int(np.count_nonzero(held))
        self.measured = [
            _Measured(attribute, _totals(attribute, fit), _totals(attribute, held))
            for attribute in attributes(self.corpus, vocabulary)
        ]

    def labels(self, activations: FeatureRange, effects: Sequence[Logits | None]) -> list[Label | None]:
        """Return the label of each feature of the range, None where no simple pattern was found."""
        fit, held = self._halves(activations)
        mass = fit.mass()
        n_features = len(mass)
        score = np.full(n_features, -1.0)
        choice: list[tuple[_Measured, list[int]] | None] = [None] * n_features
        for measured in self.measured:
            rules = best_rules(measured.attribute, measured.fit_totals, fit, mass)
            for row in np.flatnonzero(rules.score > score).tolist():
                score[row], choice[row] = rules.score[row], (measured, rules.codes[row])
        enough = (np.diff(fit.feature_ptr) >= MIN_ACTIVE) & (np.diff(held.feature_ptr) >= MIN_ACTIVE)
        return [
            self._label(held, row, choice[row], float(score[row]), effects[row]) if enough[row] else None
            for row in range(n_features)
        ]

    def _halves(self, activations: FeatureRange) -> tuple[Evidence, Evidence]:
        """Return the activations on the documents that rules are chosen on, and on those that they are measured on."""
        contexts, offsets = np.divmod(activations.positions, self.corpus.context_length)
        rows = self.corpus.row_of_context[contexts]
        positions = rows * self.corpus.context_length + offsets
        is_fit = self.corpus.fit[rows] & (rows >= 0)
        is_held = ~self.corpus.fit[rows] & (rows >= 0)
        return _evidence(activations, positions, is_fit), _evidence(activations, positions, is_held)

    def _label(
        self,
        held: Evidence,
        row: int,
        choice: tuple[_Measured, list[int]] | None,
        score: float,
        effects: Logits | None,
    ) -> Label | None:
        entries = slice(int(held.feature_ptr[row]), int(held.feature_ptr[row + 1]))
        positions, magnitudes = held.positions[entries], held.magnitudes[entries]
        if choice is not None and score >= MIN_SCORE:
            measured, codes = choice
            precision, recall = _measure(measured, codes, positions, magnitudes)
            if min(precision, recall) >= MIN_SHARE and 2 * precision * recall >= MIN_SCORE * (precision + recall):
                rule = measured.attribute.rule
                return _rule_label(measured.attribute.describe(codes), rule, precision, recall, len(positions))
        share = len(positions) / max(self.n_held, 1)
        if share >= DENSE:
            return _rule_label(f"active on {share:.0%} of tokens", "dense", share, 1.0, len(positions))
        return self._promotes(effects, positions, magnitudes)

    def _promotes(self, effects: Logits | None, positions: NDArray[np.int64], magnitudes: NDArray[np.float32]) -> Label | None:
        """Name the tokens that the decoder promotes far above all others; measured as a prediction of the next token."""
        promoted = _peaked(effects) if effects is not None else []
        if not promoted:
            return None
        following = next(measured for measured in self.measured if measured.attribute.rule == "next")
        precision, recall = _measure(following, promoted, positions, magnitudes)
        texts = [quoted(self.vocabulary.bytes_of(token_id).decode(errors="backslashreplace")) for token_id in promoted]
        return _rule_label(listed(texts, before="promotes "), "promotes", precision, recall, len(positions))


def _totals(attribute: Attribute, half: NDArray[np.bool_]) -> NDArray[np.int64]:
    codes = attribute.codes[half]
    return np.bincount(codes[codes >= 0], minlength=attribute.n_codes)


def _evidence(activations: FeatureRange, positions: NDArray[np.int64], chosen: NDArray[np.bool_]) -> Evidence:
    before = np.concatenate([[0], np.cumsum(chosen)])
    return Evidence(before[activations.feature_ptr], positions[chosen], activations.magnitudes[chosen])


def _measure(
    measured: _Measured, codes: list[int], positions: NDArray[np.int64], magnitudes: NDArray[np.float32]
) -> tuple[float, float]:
    """Return precision and recall of a rule for one feature on the held-out half."""
    found = measured.attribute.codes[positions]
    named = np.zeros(len(found), dtype=bool)
    for code in codes:
        named |= found == code
    total = int(measured.held_totals[codes].sum())
    mass = float(magnitudes.sum(dtype=np.float64))
    precision = np.count_nonzero(named) / total if total else 0.0
    return precision, float(magnitudes[named].sum(dtype=np.float64)) / mass


def _peaked(effects: Logits) -> list[int]:
    """Return the promoted tokens whose effect stands out of the vocabulary's, by mean and deviation of the histogram's bins."""
    histogram = effects.histogram
    if histogram is None or histogram.high <= histogram.low:
        return []
    counts = np.array(histogram.counts, dtype=np.float64)
    width = (histogram.high - histogram.low) / len(counts)
    centres = histogram.low + (np.arange(len(counts)) + 0.5) * width
    mean = np.average(centres, weights=counts)
    deviation = np.sqrt(np.average((centres - mean) ** 2, weights=counts))
    return [token_id for token_id, value in effects.top[:MAX_PROMOTED] if value - mean >= PEAKED * deviation]


def _rule_label(text: str, rule: str, precision: float, recall: float, n: int) -> Label:
    return Label(text, "rule", rule, significant_one(precision), significant_one(recall), n)
