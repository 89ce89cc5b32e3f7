"""Which entries can be among the chosen: found group by group, so that most scores are looked at once.

Features fall into groups of successive ones. The largest score of each group is one fast reduction over the scores while they
are in cache; only groups whose largest score reaches the level of their row are looked into.

* For a threshold, the level is that threshold.
* For top-k, k groups with lower bounds of at least t hold k distinct features of at least t, so the k-th largest lower bound of
  the groups seen so far is a level that no chosen feature can lie below. It only rises, and is remembered across blocks.

A row is given up (`Candidates.proved` is false for it, and it is computed whole by the caller) where the argument does not hold
or does not pay: unusable input, fewer than k groups surely positive, or too many candidates. Nothing is ever cut off.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_fast.cpu.decode import stable_order
from sae_fast.cpu.rows import BLOCK_WIDTH, block_rows, flat_entries
from sae_fast.cpu.screen import Scores
from sae_fast.cpu.threads import in_threads, row_blocks

GROUP = 64
"""Features of a group, where k allows it."""

Level = Callable[[slice, Tensor], Tensor]
"""(rows, lower bounds of their groups' maxima) → the score to reach, broadcastable to [rows, groups]."""


@dataclass
class Candidates:
    """Entries in row-major order that contain all chosen ones of the proved rows, and none of other rows."""

    rows: Tensor
    """int64."""
    features: Tensor
    """int64, ascending within a row."""
    values: Tensor
    """Exact pre-activations."""
    proved: Tensor
    """bool [n]."""


@dataclass
class _Found:
    """Entries of one block of features, ascending by row, then by feature."""

    first: int
    last: int
    rows: Tensor
    features: Tensor
    bounds: Tensor

    def kept(self, keep: Tensor) -> "_Found":
        return _Found(self.first, self.last, self.rows[keep], self.features[keep], self.bounds[keep])


def group_for(k: int, d_sae: int) -> int | None:
    """The size of groups that leaves enough of them to rank k, the larger the better; None where k is too large for any."""
    for group in (64, 32, 16, 8):
        if 4 * k * group <= min(d_sae, BLOCK_WIDTH):
            return group
    return 8 if 4 * k * 8 <= d_sae else None


def topk_candidates(source: Scores, n: int, d_sae: int, k: int, group: int) -> Candidates:
    """Entries among which the k largest positive values of each proved row are."""
    best = torch.full((n, k), -torch.inf)

    def level(rows: slice, lower: Tensor) -> Tensor:
        best[rows] = torch.cat([best[rows], lower], 1).topk(k, dim=1, sorted=False).values
        return best[rows].amin(1, keepdim=True).clamp_(min=0)

    proved = torch.ones(n, dtype=torch.bool) if source.usable is None else source.usable.clone()
    most = 8 * k + GROUP
    found: list[_Found] = []
    for block in _scan(source, n, d_sae, group, max(BLOCK_WIDTH, 4 * k * group), level, most, proved):
        found.append(block)
        if sum(len(part.rows) for part in found) > n * most:
            found = _reaching_level(found, best, proved, most)
    proved &= best.amin(1) > 0
    return _evaluated(source, _reaching_level(found, best, proved, most), proved)


def threshold_candidates(source: Scores, n: int, d_sae: int) -> Candidates:
    """Entries whose score may exceed zero."""
    proved = torch.ones(n, dtype=torch.bool) if source.usable is None else source.usable.clone()
    most = min(BLOCK_WIDTH, d_sae) // 8
    found = list(_scan(source, n, d_sae, GROUP, BLOCK_WIDTH, lambda rows, lower: lower.new_zeros(1, 1), most, proved))
    return _evaluated(source, [part.kept(proved[part.rows]) for part in found], proved)


def group_maxima(scores: Tensor, group: int) -> Tensor:
    """The largest of each `group` successive columns, float32 or wider [rows, columns / group]."""
    if scores.dtype != torch.bfloat16:
        return scores.view(len(scores), -1, group).amax(2)
    # Floating numbers of one sign are ordered as their bits are: integers are reduced five times as fast. Negative ones
    # ascend in magnitude, so that where all are negative, the largest has the smallest bits.
    bits = scores.view(torch.int16).view(len(scores), -1, group)
    largest = bits.amax(2)
    return torch.where(largest < 0, bits.amin(2), largest).view(torch.bfloat16).float()


def _scan(
    source: Scores, n: int, d_sae: int, group: int, width: int, level: Level, most: int, proved: Tensor
) -> Iterator[_Found]:
    """The entries of each block of features that reach the level; rows with more than `most` in a block are given up."""
    whole, step = d_sae // group * group, block_rows(width)
    blocks = [(first, min(first + width, whole), group) for first in range(0, whole, width)]
    # What is left of the last group is a block of groups of one.
    for first, last, size in blocks + ([(whole, d_sae, 1)] if whole < d_sae else []):
        source.take(first, last, size)

        def reaching(rows: slice, width: int = last - first, size: int = size) -> tuple[Tensor, Tensor, Tensor]:
            place, bounds = _reaching(source, rows, size, level)
            row, feature = place // width + rows.start, place % width
            proved[rows] &= torch.bincount(row - rows.start, minlength=rows.stop - rows.start) <= most
            keep = proved[row]
            return row[keep], feature[keep], bounds[keep]

        parts = in_threads(reaching, row_blocks(n, step))
        yield _Found(first, last, *(torch.cat(column) for column in zip(*parts, strict=True)))


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


def _reaching_level(found: list[_Found], best: Tensor, proved: Tensor, most: int) -> list[_Found]:
    """What still reaches the level; rows in which that is more than `most` are given up: `proved` becomes false."""
    level = best.amin(1)
    found = [part.kept((part.bounds >= level[part.rows]) & proved[part.rows]) for part in found]
    counts = torch.zeros(len(proved), dtype=torch.int64)
    for part in found:
        counts += torch.bincount(part.rows, minlength=len(proved))
    proved &= counts <= most
    return [part.kept(proved[part.rows]) for part in found]


def _evaluated(source: Scores, found: list[_Found], proved: Tensor) -> Candidates:
    """The entries of all blocks with their values, in row-major order."""
    values = [source.values(part.first, part.last, part.rows, part.features, part.bounds) for part in found]
    rows = torch.cat([part.rows for part in found])
    features = torch.cat([part.features + part.first for part in found])
    order = stable_order(rows, len(proved)) if len(found) > 1 else slice(None)
    return Candidates(rows[order], features[order], torch.cat(values)[order], proved)
