"""Learning rates over a run, as shares of the peak."""

import math
from typing import Literal, get_args

from sae_fast.errors import ConfigError

Schedule = Literal["constant", "linear", "cosine"]
"""What follows the rise: nothing; a constant rate and then a straight line to zero; or half a cosine down to zero."""


def check_schedule(name: str) -> None:
    """Raise `ConfigError` unless it is one of `Schedule`."""
    if name not in get_args(Schedule):
        raise ConfigError(f"[train] schedule: expected {' or '.join(get_args(Schedule))}, got {name!r}")


def lr_factor(step: int, n_steps: int, warmup: float, decay: float, schedule: Schedule) -> float:
    """Learning rate of `step` (from 0) as a share of its peak.

    It rises linearly over the first `warmup` of the steps. Then `linear` holds it and lets it fall to zero over the last
    `decay`, `cosine` lets it fall all the way, `constant` keeps it.
    """
    rise = (step + 1) / max(1, round(warmup * n_steps))
    if schedule == "constant":
        return min(1.0, rise)
    if schedule == "linear":
        return min(1.0, rise, (n_steps - step) / max(1, round(decay * n_steps)))
    begin = round(warmup * n_steps)
    done = min(1.0, max(0, step - begin) / max(1, n_steps - begin))
    return min(rise, 0.5 * (1 + math.cos(math.pi * done)))
