"""Dense products by block of features, the same blocks whatever features are asked for."""

from collections.abc import Callable
from typing import TypeVar

Fact = TypeVar("Fact")

MAX_FEATURES = 64
"""Features of a block."""
MAX_ELEMENTS = 2**22
"""Elements of a block's product."""


def by_block(compute: Callable[[int, int], list[Fact]], first: int, last: int, n_features: int, width: int) -> list[Fact]:
    """Return `compute(begin, end)` for the features `first … last - 1`, computed in blocks that start at fixed features.

    The last bits of a product depend on its shape; with fixed blocks, a feature's numbers do not depend on which other
    features are built with it. `width` is the number of columns of the product.
    """
    step = max(1, min(MAX_FEATURES, MAX_ELEMENTS // width))
    found: list[Fact] = []
    for begin in range(first - first % step, last, step):
        block = compute(begin, min(begin + step, n_features))
        found += block[max(first - begin, 0) : last - begin]
    return found
