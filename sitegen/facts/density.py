"""How often and how strongly a feature is active."""

from dataclasses import dataclass

import numpy as np

from sitegen.facts.activations import FeatureRange
from sitegen.facts.rounding import significant


@dataclass(frozen=True)
class Density:
    """Lists over the features of a range."""

    density: list[float]
    """counted tokens with value ≠ 0 / counted tokens"""
    n_active: list[int]
    max_act: list[float]
    """largest |value|, 0 where never active"""
    mean_act: list[float]
    """mean |value| over the active tokens, 0 where there are none"""


def densities(activations: FeatureRange, n_counted: int) -> Density:
    """Return density, count, largest and mean |value| of each feature; sums are float64."""
    n_active = activations.n_active
    mass = np.bincount(activations.rows, weights=activations.magnitudes, minlength=len(activations))
    mean = mass / np.maximum(n_active, 1)
    return Density(
        density=significant(n_active / max(n_counted, 1)).tolist(),
        n_active=n_active.tolist(),
        max_act=significant(activations.high).tolist(),
        mean_act=significant(mean).tolist(),
    )
