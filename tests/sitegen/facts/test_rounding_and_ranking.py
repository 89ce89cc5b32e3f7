"""Five significant digits, and the largest entries with ties to the lower index."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sitegen.facts.ranking import largest
from sitegen.facts.rounding import significant


@given(st.floats(-1e30, 1e30, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-30))
@settings(max_examples=300, deadline=None)
def test_rounding_keeps_five_significant_digits(value: float) -> None:
    """The result is within half a unit of the fifth digit."""
    rounded = float(significant(value))

    assert abs(rounded - value) <= 5.001e-5 * abs(value)


def test_rounded_numbers_are_written_shortly() -> None:
    """Ordinary magnitudes are the double nearest to a decimal of five digits."""
    values = np.random.default_rng(0).lognormal(0, 4, 2000)

    for value, rounded in zip(values, significant(values), strict=True):
        assert float(rounded) == float(f"{rounded:.5g}")
        assert abs(rounded - value) <= abs(float(f"{value:.5g}") - value) * 1.001


@given(arrays.arrays(np.float32, (3, 9), elements=st.integers(-3, 3).map(float)), st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_ties_go_to_the_lower_column(matrix: np.ndarray, k: int) -> None:
    """The order is by value, then by column, as a full stable sort gives it."""
    columns, values = largest(matrix, k)

    expected = np.argsort(-matrix, axis=1, kind="stable")[:, :k]
    assert (columns == expected).all()
    assert (values == np.take_along_axis(matrix, expected, axis=1)).all()
