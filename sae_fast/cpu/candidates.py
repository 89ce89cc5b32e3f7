"""Which entries can be among the chosen: found group by group, so that most scores are looked at once.

Features fall into groups of successive ones. The largest score of each group is one fast reduction over the scores while they
are in cache; only groups whose largest score reaches the level of their row are looked into.

* For a threshold, the level is that threshold.
* For top-k, k groups with lower bounds of at least t hold k distinct features of at least t, so the k-th largest lower bound of
  the groups seen so far is a level that no chosen feature can lie below. It only rises, and is remembered across blocks.

A row is given up (`Candidates.proved` is false for it, and it is computed whole by the caller) where the argument does not hold
or does not pay: unusable input, fewer than k groups surely positive, or too many candidates. Nothing is ever cut off.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sae_fast.cpu.decode import stable_order
from sae_fast.cpu.rows import BLOCK_WIDTH, block_rows, flat_entries
from sae_fast.cpu.screen import Scores, Weights
from sae_fast.cpu.threads import in_threads, row_blocks

GROUP = 64
"""Features of a group, where k allows it."""

Level = Callable[[slice, Tensor], Tensor]
"""(rows, lower bounds of their groups' maxima) → the score to reach, broadcastable to [rows, groups]."""


@dataclass
class Candidates:
    """Entries of a block of tokens that contain all chosen ones of the proved rows, and none of other rows."""

    block: slice
    """Which tokens."""
    rows: Tensor
    """int64 ascending, counted from the first token of the block."""
    features: Tensor
    """int64, ascending within a row."""
    values: Tensor
    """Exact pre-activations."""
    proved: Tensor
    """bool, a row of the block each."""


@dataclass
class _Found:
    """Entries of a block of tokens and features, ascending by row, then by feature."""

    rows: Tensor
    features: Tensor
    bounds: Tensor

    def kept(self, keep: Tensor) -> "_Found":
        return _Found(self.rows[keep], self.features[keep], self.bounds[keep])


def group_for(k: int, d_sae: int) -> int | None:
    """The size of groups that leaves enough of them to rank k, the larger the better; None where k is too large for any."""
    for group in (64, 32, 16, 8):
        if 4 * k * group <= min(d_sae, BLOCK_WIDTH):
            return group
    return 8 if 4 * k * 8 <= d_sae else None


def topk_candidates(source: Scores, n: int, d_sae: int, k: int, group: int) -> list[Candidates]:
    """Entries among which the k largest positive values of each proved row are, of all tokens block by block."""
    best = torch.full((n, k), -torch.inf)

    def level(rows: slice, lower: Tensor) -> Tensor:
        best[rows] = torch.cat([best[rows], lower], 1).topk(k, dim=1, sorted=False).values
        return best[rows].amin(1, keepdim=True).clamp_(min=0)

    scan = _Scan(source, n, d_sae, group, max(BLOCK_WIDTH, 4 * k * group), level, most=8 * k + GROUP)
    scan.run(best)
    return scan.evaluated()


def threshold_candidates(source: Scores, n: int, d_sae: int) -> list[Candidates]:
    """Entries whose score may exceed zero, of all tokens block by block."""
    most = min(BLOCK_WIDTH, d_sae) // 8
    scan = _Scan(source, n, d_sae, GROUP, BLOCK_WIDTH, lambda rows, lower: lower.new_zeros(1, 1), most)
    scan.run(None)
    return scan.evaluated()


def group_maxima(scores: Tensor, group: int) -> Tensor:
    """The largest of each `group` successive columns, float32 or wider [rows, columns / group]."""
    if scores.dtype != torch.bfloat16:
        return scores.view(len(scores), -1, group).amax(2)
    # Floating numbers of one sign are ordered as their bits are: integers are reduced five times as fast. Negative ones
    # ascend in magnitude, so that where all are negative, the largest has the smallest bits.
    bits = scores.view(torch.int16).view(len(scores), -1, group)
    largest = bits.amax(2)
    return torch.where(largest < 0, bits.amin(2), largest).view(torch.bfloat16).float()


class _Scan:
    """One pass over all features: what reaches the level, in blocks of tokens that run in threads."""

    def __init__(self, source: Scores, n: int, d_sae: int, group: int, width: int, level: Level, most: int) -> None:
        self._source, self._level, self._most = source, level, most
        whole = d_sae // group * group
        self._features = [(first, min(first + width, whole), group) for first in range(0, whole, width)]
        if whole < d_sae:
            # What is left of the last group is a block of groups of one.
            self._features.append((whole, d_sae, 1))
        self._blocks = row_blocks(n, block_rows(width))
        self._found: list[list[_Found]] = [[] for _ in self._blocks]
        self._proved = torch.ones(n, dtype=torch.bool) if source.usable is None else source.usable.clone()

    def run(self, best: Tensor | None) -> None:
        """Find the entries. `best` holds the k highest lower bounds of each row, where they set its level."""
        places = list(range(len(self._blocks)))
        for first, last, group in self._features:
            self._source.take(first, last, group)
            in_threads(partial(self._scan_block, first=first, last=last, group=group, best=best), places)
        in_threads(partial(self._finish_block, best=best), places)

    def _scan_block(self, place: int, first: int, last: int, group: int, best: Tensor | None) -> None:
        rows, found = self._blocks[place], self._found[place]
        at, bounds = _reaching(self._source, rows, group, self._level)
        row, feature = at // (last - first), at % (last - first)
        # A row with too many is given up at once, before its entries fill the memory.
        self._proved[rows] &= torch.bincount(row, minlength=rows.stop - rows.start) <= self._most
        found.append(_Found(row, feature + first, bounds).kept(self._proved[rows][row]))
        if best is not None and sum(len(part.rows) for part in found) > self._most * (rows.stop - rows.start):
            self._keep_reaching(place, best)

    def _finish_block(self, place: int, best: Tensor | None) -> None:
        rows = self._blocks[place]
        if best is not None:
            self._proved[rows] &= best[rows].amin(1) > 0
            self._keep_reaching(place, best)
        self._found[place] = [part.kept(self._proved[rows][part.rows]) for part in self._found[place]]

    def _keep_reaching(self, place: int, best: Tensor) -> None:
        """Drop what no longer reaches the level, and rows in which too much does."""
        rows = self._blocks[place]
        level = best[rows].amin(1)
        found = [part.kept(part.bounds >= level[part.rows]) for part in self._found[place]]
        counts = torch.bincount(torch.cat([part.rows for part in found]), minlength=rows.stop - rows.start)
        self._proved[rows] &= counts <= self._most
        self._found[place] = [part.kept(self._proved[rows][part.rows]) for part in found]

    def evaluated(self) -> list[Candidates]:
        """The entries with their values. Weights are widened once for all tokens."""
        places = list(range(len(self._blocks)))
        for number, (first, last, _) in enumerate(self._features):
            for weights in self._source.take_exact(first, last):
                in_threads(partial(self._evaluate, number=number, weights=weights), places)
        return in_threads(self._merged, places)

    def _evaluate(self, place: int, number: int, weights: Weights) -> None:
        part = self._found[place][number]
        self._source.evaluate(self._blocks[place], part.rows, part.features, part.bounds, weights)

    def _merged(self, place: int) -> Candidates:
        rows, found = self._blocks[place], self._found[place]
        row, feature = torch.cat([part.rows for part in found]), torch.cat([part.features for part in found])
        values = torch.cat([part.bounds for part in found])
        order = stable_order(row, rows.stop - rows.start) if len(found) > 1 else slice(None)
        return Candidates(rows, row[order], feature[order], values[order], self._proved[rows])


def _reaching(source: Scores, rows: slice, group: int, level: Level) -> tuple[Tensor, Tensor]:
    """(flat places in the block's scores, upper bounds) of the entries that can reach the level."""
    scores = source.scores(rows.start, rows.stop)
    maxima = group_maxima(scores, group)
    margin = source.margin(rows.start, rows.stop, maxima)
    if margin is None:
        margin = torch.zeros_like(maxima)
    floor = level(rows, maxima - margin) - margin
    groups = flat_entries(maxima >= floor)
    inside = scores.view(-1, group).index_select(0, groups).to(maxima.dtype)
    hits = flat_entries(inside >= floor.view(-1)[groups, None])
    at = groups[hits // group]
    return at * group + hits % group, inside.view(-1)[hits] + margin.view(-1)[at]
