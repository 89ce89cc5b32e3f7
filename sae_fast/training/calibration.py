"""The threshold that gives a wanted L0 on held-out tokens."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError

BINS = 4096
CHUNK = 1024
"""Tokens whose pre-activations are in memory at once."""


def threshold_for_l0(inputs: Callable[[], Iterable[Tensor]], W_enc: Tensor, b_enc: Tensor, k: float) -> float:
    """The value that exactly `round(k n)` of all pre-activations of n tokens exceed (fewer where there are ties), at least 0.

    `inputs()` gives batches [n, d_in], anew at each call. They are read three times: for the range, for a histogram, and for
    the values of the bin in which the threshold lies. `W_enc` [d_sae, d_in]. Raises `ArgumentError` where there is no token.
    """
    n, largest = 0, 0.0
    for h in _pre_acts(inputs, W_enc, b_enc):
        n, largest = n + len(h), max(largest, float(h.max()))
    if not n:
        raise ArgumentError("held-out activations", expected="at least one token to set the threshold on", got="none")
    wanted = round(k * n)
    if not largest:
        return 0.0
    counts = torch.zeros(BINS, dtype=torch.int64)
    for h in _pre_acts(inputs, W_enc, b_enc):
        counts += torch.bincount(_bins(h[h > 0], largest), minlength=BINS).cpu()
    from_above = counts.flip(0).cumsum(0).flip(0)
    reaching = (from_above > wanted).nonzero()[:, 0]
    if not len(reaching):
        return 0.0
    chosen = int(reaching[-1])
    above = int(from_above[chosen + 1]) if chosen + 1 < BINS else 0
    inside = []
    for h in _pre_acts(inputs, W_enc, b_enc):
        positive = h[h > 0]
        inside.append(positive[_bins(positive, largest) == chosen])
    return float(torch.cat(inside).sort(descending=True).values[wanted - above])


def _bins(values: Tensor, largest: float) -> Tensor:
    return (values.double() * (BINS / largest)).long().clamp_(max=BINS - 1)


def _pre_acts(inputs: Callable[[], Iterable[Tensor]], W_enc: Tensor, b_enc: Tensor) -> Iterator[Tensor]:
    for batch in inputs():
        for rows in batch.split(CHUNK):
            yield torch.addmm(b_enc, rows, W_enc.T)
