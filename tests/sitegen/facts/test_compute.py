"""Records against a dense recomputation, and what holds for all of them."""

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from brute_force import assert_record

from sitegen.errors import MismatchError, NonFiniteError, ReleaseError
from sitegen.facts import FactOptions, activations, coactivation, compute

Make = Callable[..., Any]
SMALL = FactOptions(
    labels=False, examples=6, window=20, before=8, per_interval=3, logits=4, neighbours=4, coactive=4, top_tokens=5
)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("signed", [False, True], ids=["positive", "signed"])
@pytest.mark.parametrize("options", [SMALL, FactOptions(labels=False)], ids=["small", "default"])
def test_every_field_equals_the_dense_recomputation(make_case: Make, seed: int, signed: bool, options: FactOptions) -> None:
    """Every number of every feature is what plain loops over the dense activations give."""
    case = make_case(seed, signed=signed, n_prefix=seed % 2, contexts_per_part=(1, 7, 40)[seed % 3])

    records = case.records(options)

    assert [record.id for record in records] == list(range(13))
    for record in records:
        assert_record(record, case.dense, options)


def test_ranges_and_blocks_do_not_show(make_case: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading one feature at a time, with tiny blocks everywhere, gives the same records."""
    case = make_case(3)
    whole = case.records(SMALL)
    monkeypatch.setattr(activations.read_ranges, "__defaults__", (50, 2))
    monkeypatch.setattr(coactivation, "MAX_ENTRIES", 100)
    monkeypatch.setattr(coactivation, "BLOCK_ELEMENTS", 30)

    assert case.records(dataclasses.replace(SMALL, pair_bytes=4 * 13 * 5)) == whole


def test_chosen_features_have_the_records_of_the_whole(make_case: Make) -> None:
    """A build of a few features gives the same records for them, ascending and once each."""
    case = make_case(4)
    whole = case.records(SMALL)

    assert case.records(SMALL, features=[9, 2, 3, 9]) == [whole[2], whole[3], whole[9]]
    assert case.records(SMALL, features=[]) == []


def test_progress_counts_every_feature(make_case: Make) -> None:
    """Progress is told of as many features as there are."""
    case = make_case(0)
    advanced: list[int] = []

    list(case.stream(SMALL, progress=advanced.append))

    assert sum(advanced) == 13


def test_a_feature_that_never_fires_is_dead_and_keeps_its_weight_facts(make_case: Make) -> None:
    """A dead feature says on how many tokens it was not seen, and has logits and neighbours but no examples."""

    def silence(acts: np.ndarray, dataset: Any) -> None:
        acts[:, 5] = 0

    case = make_case(1, change=silence)
    record = case.records(SMALL)[5]

    assert_record(record, case.dense, SMALL)
    assert record.dead is not None
    assert record.coactive is None


def test_a_feature_active_once_has_one_example_everywhere(make_case: Make) -> None:
    """One activation makes one top example, one band of equal ends, and full last bins."""

    def once(acts: np.ndarray, dataset: Any) -> None:
        acts[:, 5] = 0
        acts[np.flatnonzero(dataset.kind.reshape(-1) == 1)[100], 5] = 2.5

    case = make_case(1, change=once)
    record = case.records(SMALL)[5]

    assert_record(record, case.dense, SMALL)
    top, band = record.groups
    assert (band.low, band.high, band.share, band.n) == (2.5, 2.5, 1.0, 1)
    assert band.examples == top.examples
    assert len(top.examples) == 1
    assert record.histogram.counts[-1] == 1


def test_equal_values_share_the_last_bin_and_one_band(make_case: Make) -> None:
    """Where all activations are equal the histogram has no width, and ties go to the lower document and position."""

    def level(acts: np.ndarray, dataset: Any) -> None:
        acts[:, 5] = np.where(acts[:, 0] > 0, 1.25, 0)

    case = make_case(2, change=level)
    record = case.records(SMALL)[5]

    assert_record(record, case.dense, SMALL)
    order = [(example.document, example.start + example.peak) for example in record.groups[0].examples]
    assert order == sorted(order)


def test_memory_of_counts_is_bounded_by_the_option(make_case: Make) -> None:
    """Co-activation in passes of a few features equals one pass."""
    case = make_case(5)
    features = np.arange(13)

    few = coactivation.most_coactive(case.index, features, 4, 5, pair_bytes=1)

    assert few == coactivation.most_coactive(case.index, features, 4, 5, pair_bytes=10**9)


def test_options_of_zero_leave_their_fact_out(make_case: Make) -> None:
    """A size of 0 leaves out the fact, and nothing else."""
    case = make_case(0)
    options = FactOptions(examples=0, intervals=0, logits=0, neighbours=0, coactive=0, top_tokens=0, labels=False)
    record = next(case.stream(options))

    assert (record.groups, record.logits, record.neighbours, record.coactive, record.top_tokens) == (None,) * 5
    assert record.histogram is not None


def test_logits_are_left_out_where_the_sae_writes_elsewhere(make_case: Make) -> None:
    """Without an unembedding of the decoder's width there are no logit effects."""
    case = make_case(0)
    narrow = SimpleNamespace(W_U=torch.zeros(7, 61), norm_weight=torch.ones(7))

    for unembed in (None, narrow):
        stream = compute(case.index, case.dense.dataset, case.sae, unembed, case.vocabulary, SMALL)
        assert next(stream).logits is None


def test_a_memory_mapped_dataset_gives_the_same_records(make_case: Make, tmp_path: Any) -> None:
    """Arrays read through a memory map are used as they are."""
    case = make_case(6)
    expected = case.records(SMALL)
    np.save(tmp_path / "tokens.npy", case.dense.dataset.tokens)
    mapped = dataclasses.replace(case.dense.dataset, tokens=np.load(tmp_path / "tokens.npy", mmap_mode="r"))

    assert list(compute(case.index, mapped, case.sae, case.unembed, case.vocabulary, SMALL)) == expected


def test_inputs_that_do_not_belong_together_are_refused(make_case: Make) -> None:
    """A foreign SAE, a foreign dataset and an unknown feature are errors before the first record."""
    case, other = make_case(0), make_case(1, n_contexts=9)
    wide = SimpleNamespace(W_dec=torch.zeros(14, 16))

    with pytest.raises(MismatchError, match="14 features"):
        compute(case.index, case.dense.dataset, wide, None, case.vocabulary, SMALL)
    with pytest.raises(MismatchError, match="positions"):
        compute(case.index, other.dense.dataset, case.sae, None, case.vocabulary, SMALL)
    with pytest.raises(MismatchError, match="Feature 13 "):
        compute(case.index, case.dense.dataset, case.sae, None, case.vocabulary, SMALL, features=[1, 13])


def test_a_decoder_with_nan_is_refused(make_case: Make) -> None:
    """NaN in the decoder is an error before the first record."""
    case = make_case(0)
    broken = SimpleNamespace(W_dec=torch.full((13, 16), float("nan")))

    with pytest.raises(NonFiniteError, match="W_dec"):
        compute(case.index, case.dense.dataset, broken, None, case.vocabulary, SMALL)


@pytest.mark.parametrize("wrong", [{"examples": -1}, {"bins": 0}, {"window": 8, "before": 8}])
def test_options_are_checked(wrong: dict[str, int]) -> None:
    """Sizes that make no sense are refused."""
    with pytest.raises(ReleaseError):
        FactOptions(**wrong)
