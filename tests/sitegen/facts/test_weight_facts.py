"""Facts that come from the weights alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sitegen.errors import MismatchError
from sitegen.facts import blocks
from sitegen.facts.logits import LogitEffects
from sitegen.facts.neighbours import Neighbours


def test_normed_logits_fold_the_norm_weight_and_remove_the_mean() -> None:
    """The normed variant equals `(W_dec · w) @ W_U` less its mean over the vocabulary, and says so."""
    W_dec, W_U = torch.randn(4, 8), torch.randn(8, 30)
    weight = torch.rand(8) + 0.5
    unembed = SimpleNamespace(W_U=W_U, norm_weight=weight)

    record = LogitEffects(W_dec, unembed, k=30, bins=50, normed=True).of(2, 3)[0]

    effects = (W_dec[2] * weight).double() @ W_U.double()
    effects = effects - effects.mean()
    assert record.normed
    for token, value in record.top:
        assert value == pytest.approx(float(effects[token]), rel=5.1e-5, abs=1e-5)


def test_normed_logits_need_a_known_final_norm() -> None:
    """Without the final norm's weight the normed variant is refused, the raw one is not."""
    unembed = SimpleNamespace(W_U=torch.randn(8, 30), norm_weight=None)

    assert not LogitEffects(torch.randn(4, 8), unembed, k=3, bins=50).of(0, 1)[0].normed
    with pytest.raises(MismatchError, match="normed_logits"):
        LogitEffects(torch.randn(4, 8), unembed, k=3, bins=50, normed=True)


def test_a_vocabulary_of_equal_effects_has_a_histogram_without_width() -> None:
    """A decoder row of zeros gives zeros, tokens by ascending id, and one full bin."""
    record = LogitEffects(torch.zeros(1, 8), SimpleNamespace(W_U=torch.randn(8, 30)), k=3, bins=50).of(0, 1)[0]

    assert [token for token, _ in record.top] == [0, 1, 2]
    assert record.histogram is not None
    assert record.histogram.counts[-1] == 30


def test_blocks_of_logits_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two features give the same tokens as one block."""
    effects = LogitEffects(torch.randn(9, 8), SimpleNamespace(W_U=torch.randn(8, 30)), k=5, bins=50)
    whole = effects.of(0, 9)
    monkeypatch.setattr(blocks, "MAX_ELEMENTS", 60)

    for record, expected in zip(effects.of(0, 9), whole, strict=True):
        assert [token for token, _ in record.top] == [token for token, _ in expected.top]
        assert [value for _, value in record.top] == pytest.approx([value for _, value in expected.top], rel=2e-5)


def test_the_numbers_of_a_feature_do_not_depend_on_the_others_asked_for() -> None:
    """A feature alone, or within any range, has the same bits."""
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(200, 33, generator=generator)
    unembed = SimpleNamespace(W_U=torch.randn(33, 301, generator=generator))
    effects, neighbours = LogitEffects(W_dec, unembed, k=5, bins=50), Neighbours(W_dec, k=5)
    logits, nearest = effects.of(0, 200), neighbours.of(0, 200)

    for first, last in ((0, 1), (63, 64), (63, 130), (150, 200), (199, 200), (7, 7)):
        assert effects.of(first, last) == logits[first:last]
        assert neighbours.of(first, last) == nearest[first:last]


def test_a_decoder_row_without_direction_is_nobodys_neighbour() -> None:
    """A row of norm 0 has no neighbours and is in no other list."""
    W_dec = torch.randn(6, 4)
    W_dec[2] = 0

    nearest = Neighbours(W_dec, k=10).of(0, 6)

    assert nearest[2] == []
    assert all(2 not in [other for other, _ in row] for row in nearest)
    assert [len(row) for row in nearest] == [4, 4, 0, 4, 4, 4]


def test_neighbours_of_equal_cosine_are_listed_by_id() -> None:
    """Ties go to the lower feature, whatever the length of its decoder row."""
    W_dec = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0], [4.0, 0.0]])

    assert Neighbours(W_dec, k=2).of(0, 1)[0] == [(2, 1.0), (3, 1.0)]
    assert np.isclose(Neighbours(W_dec, k=3).of(1, 2)[0][0][1], 0.0)
