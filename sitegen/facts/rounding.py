"""Rounding of every stored value: five significant digits."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

DIGITS = 5

_POWERS = np.array([float(f"1e{exponent}") for exponent in range(309)])


def significant(values: ArrayLike) -> NDArray[np.float64]:
    """Round to five significant digits, to the double nearest to that decimal, so that it is written in as few characters."""
    exact = np.asarray(values, dtype=np.float64)
    magnitudes = np.abs(exact)
    nonzero = magnitudes > 0
    exponents = np.floor(np.log10(magnitudes, out=np.zeros_like(magnitudes), where=nonzero)).astype(np.int64)
    shift = DIGITS - 1 - exponents
    # Two tables of exact powers: dividing by an exact power of ten rounds once, multiplying by its inverse would round twice.
    up, down = _POWERS[np.maximum(shift, 0)], _POWERS[np.maximum(-shift, 0)]
    return np.rint(exact * up / down) / up * down


def significant_one(value: float) -> float:
    """Round one number."""
    return float(significant(value))
