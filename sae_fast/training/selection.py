"""The largest activations among those of several processes, from messages that do not grow with the dictionary.

Of a token (TopK): every part of the dictionary tells the k values that it proposes, n · k numbers from each process. Of a
batch (BatchTopK): the level that the k · n largest reach is found digit by digit from histograms, at most 16 kB in each of
three rounds, however large batch, k and dictionary are.
"""

import torch
from torch import Tensor

from sae_fast.training.distributed import Ranks

DIGITS = (11, 10, 10)
"""Bits of a positive float32 below its sign, most significant first; as integers they have the order of the numbers."""


def among_largest_of_row(magnitudes: Tensor, k: int, ranks: Ranks) -> Tensor:
    """Bool [n, m]: which of this process's `magnitudes` [n, m] are among the k largest of a row in all; all have m columns."""
    proposed = torch.cat(ranks.gathered(magnitudes), dim=1)
    indices = proposed.topk(min(k, proposed.shape[1]), dim=1, sorted=False).indices
    chosen = torch.zeros_like(proposed, dtype=torch.bool).scatter_(1, indices, True)
    return chosen.chunk(ranks.size, dim=1)[ranks.rank]


def among_largest(values: Tensor, wanted: int, ranks: Ranks) -> tuple[Tensor, float]:
    """(bool [m], the smallest that is chosen): which of this process's positive `values` [m] are among the `wanted` largest.

    Exactly `wanted` are chosen over all processes, or all where there are fewer; ties go to the lower rank, then to the earlier
    entry. The level is compared, and returned, in float32; 0 where nothing is chosen.
    """
    bits = values.float().view(torch.int32)
    total = int(ranks.total(torch.tensor(bits.numel(), device=bits.device)))
    left, level = min(wanted, total), 0
    if not left:
        return torch.zeros_like(bits, dtype=torch.bool), 0.0
    shift = sum(DIGITS)
    for width in DIGITS:
        inside, shift = bits[bits >> shift == level], shift - width
        counts = ranks.total(torch.bincount((inside >> shift) & (2**width - 1), minlength=2**width))
        from_above = counts.flip(0).cumsum(0).flip(0)
        digit = int((from_above >= left).nonzero()[-1])
        left -= int(from_above[digit]) - int(counts[digit])
        level = (level << width) | digit
    ties = bits == level
    before = sum(int(count) for count in ranks.gathered(ties.sum())[: ranks.rank])
    chosen = (bits > level) | (ties & (ties.cumsum(0) <= left - before))
    return chosen, float(torch.tensor(level, dtype=torch.int32).view(torch.float32))
