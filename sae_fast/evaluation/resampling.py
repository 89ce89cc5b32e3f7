"""95 % percentile intervals by drawing blocks of documents again."""

import torch
from torch import Tensor

Interval = tuple[float, float] | None

LEVEL = 0.95
RESAMPLES = 1000


def draws(n_tokens: Tensor, resamples: int, seed: int) -> Tensor:
    """float64 `[resamples, n_blocks]`: how often each block is drawn, in as many draws with replacement as have tokens.

    `n_tokens [n_blocks]`; blocks without any are never drawn. The same seed gives the same draws.
    """
    used = (n_tokens > 0).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    chosen = used[torch.randint(len(used), (resamples, len(used)), generator=generator)]
    weights = torch.zeros(resamples, len(n_tokens), dtype=torch.float64)
    return weights.scatter_add_(1, chosen, torch.ones(chosen.shape, dtype=torch.float64))


def interval(values: Tensor) -> Interval:
    """The ends that hold `LEVEL` of the values `[resamples]` which are defined; None where none is."""
    tail = (1 - LEVEL) / 2
    low, high = torch.nanquantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return None if low != low or high != high else (low, high)
