"""`Permutation`: an order that is never written down."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_fast.activations import Permutation


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**32), epoch=st.integers(0, 5))
def test_every_number_comes_once(n: int, seed: int, epoch: int) -> None:
    """It is a bijection of range(n), whatever n."""
    assert sorted(Permutation(n, seed, epoch)[:].tolist()) == list(range(n))


@given(n=st.integers(2, 10**15), position=st.integers(0, 10**15))
def test_a_position_is_found_without_those_before_it(n: int, position: int) -> None:
    """Single positions agree with ranges, also of orders that would not fit in memory."""
    position %= n
    order = Permutation(n, seed=7)
    around = np.arange(max(0, position - 3), min(n, position + 3))

    assert order[around].tolist() == [int(order[np.array([place])][0]) for place in around]


def test_seed_and_epoch_give_other_orders() -> None:
    """Orders of different seeds or epochs agree in about as many places as chance has it."""
    n = 4096
    orders = [Permutation(n, seed, epoch)[:] for seed in range(4) for epoch in range(4)]
    agreements = [int((a == b).sum()) for i, a in enumerate(orders) for b in orders[:i]]

    # The number of agreements of two random orders is Poisson with mean 1: 12 or more has a chance of 1e-9 each.
    assert max(agreements) < 12
    assert 0.6 < np.mean(agreements) < 1.4


def test_neighbours_are_spread_over_the_whole_range() -> None:
    """The distances of successive things have the mean of random pairs, n / 3."""
    n = 100_000
    order = Permutation(n, seed=1)[:]

    assert np.abs(np.diff(order)).mean() == pytest.approx(n / 3, rel=0.02)
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.02


def test_places_outside_are_refused() -> None:
    """Positions below zero or from n on are errors, not other things."""
    with pytest.raises(IndexError, match="reach from 5 to 5"):
        Permutation(5)[np.array([5])]
    with pytest.raises(IndexError, match="reach from -1"):
        Permutation(5)[np.array([-1])]
