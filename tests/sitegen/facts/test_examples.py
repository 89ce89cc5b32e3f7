"""Which examples are shown, and what is folded."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sitegen.facts import FactOptions

Make = Callable[..., Any]
OPTIONS = FactOptions(labels=False)


def test_repeated_text_is_folded_with_a_count(make_case: Make) -> None:
    """Contexts with one text give one example that says how many more there are."""

    def repeat(acts: np.ndarray, dataset: Any) -> None:
        dataset.kind[:, 1:] = 1
        dataset.tokens[3:9] = dataset.tokens[2]
        acts[:, 4] = 0
        acts.reshape(40, 48, -1)[2:9, 30, 4] = [5, 7, 6, 5, 5, 5, 5]
        acts.reshape(40, 48, -1)[20, 7, 4] = 1

    record = make_case(0, change=repeat).records(OPTIONS)[4]
    first, second = record.groups[0].examples

    assert (first.duplicates, second.duplicates) == (6, 0)
    assert first.acts == [(first.peak, 7.0)]


def test_the_same_sixteen_tokens_up_to_the_peak_are_a_near_duplicate(make_case: Make) -> None:
    """Sixteen equal tokens ending at the peak fold two examples, fifteen do not."""

    def near(acts: np.ndarray, dataset: Any) -> None:
        dataset.kind[:, 1:] = 1
        dataset.tokens[:, 1:] = np.arange(40 * 47).reshape(40, 47) % 61
        dataset.tokens[6, 10:26] = dataset.tokens[5, 10:26]
        dataset.tokens[8, 10:25] = dataset.tokens[7, 10:25]
        acts[:, 4] = 0
        acts.reshape(40, 48, -1)[5:7, 25, 4] = [9, 8]
        acts.reshape(40, 48, -1)[7:9, 24, 4] = [7, 6]
        dataset.tokens[7, 9], dataset.tokens[8, 9] = 1, 2

    record = make_case(0, change=near).records(OPTIONS)[4]

    assert [example.duplicates for example in record.groups[0].examples] == [1, 0, 0]


def test_a_window_never_shows_padding_and_the_bos_has_no_activation(make_case: Make) -> None:
    """Windows end at the last real token; a BOS is shown with the document offset before its context's first token."""
    case = make_case(7)
    n_real = (case.dense.dataset.kind != 0).sum(axis=1)
    for record in case.records(OPTIONS):
        for group in record.groups or []:
            for example in group.examples:
                assert len(example.tokens) <= n_real.max()
                assert example.tokens[example.peak] is not None
                assert 0 <= example.peak < len(example.tokens)
                assert all(example.tokens[offset] != 0 or example.start + offset >= 0 for offset, _ in example.acts)
                if example.start == -1:
                    assert example.tokens[0] == 0


def test_bands_prefer_contexts_that_are_not_shown_yet(make_case: Make) -> None:
    """No example is shown twice, unless a band would stay empty without it."""
    for record in make_case(8, n_contexts=90).records(FactOptions(labels=False, examples=4)):
        if record.groups is None:
            continue
        seen: set[tuple[int, ...]] = set()
        for group in record.groups:
            places = {(example.document, example.start + example.peak) for example in group.examples}
            assert places.isdisjoint(seen) or places <= seen
            seen |= places


def test_the_search_for_distinct_text_goes_on_behind_many_duplicates(make_case: Make) -> None:
    """Hundreds of copies at the top do not hide the distinct examples below them."""

    def copies(acts: np.ndarray, dataset: Any) -> None:
        dataset.kind[:, 1:] = 1
        dataset.tokens[:200] = dataset.tokens[0]
        acts[:, 4] = 0
        acts.reshape(230, 48, -1)[:200, 30, 4] = np.linspace(9, 8, 200)
        acts.reshape(230, 48, -1)[200:, 20, 4] = np.linspace(2, 1, 30)

    record = make_case(0, n_contexts=230, change=copies).records(FactOptions(labels=False, examples=5))[4]

    assert next(example.duplicates for example in record.groups[0].examples) == 199
    assert len(record.groups[0].examples) == 5
