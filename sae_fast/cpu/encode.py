"""The encoders: candidates where that is faster, whole rows for the rest."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from sae_fast.cpu.candidates import Candidates, group_for, threshold_candidates, topk_candidates
from sae_fast.cpu.decode import stable_order
from sae_fast.cpu.rows import (
    by_blocks,
    flat_entries,
    largest,
    pre_act_chunks,
    topk_indices,
)
from sae_fast.cpu.screen import Exact, Scores, Screened, screening_pays
from sae_fast.cpu.threads import in_threads
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs, row_pointer

TOKENS = 4096
"""Tokens that share one pass over the weights."""


def encode_topk(x: Tensor, W_enc: Prepared, b_enc: Tensor, k: int) -> SparseActs:
    """See `sae_fast.reference.encode_topk`."""
    n, d_sae = x.shape[0], W_enc.d_sae
    indices = torch.empty(n, k, dtype=torch.int32, device=x.device)
    values = torch.empty(n, k, dtype=W_enc.wide, device=x.device)
    ways = _topk_ways(W_enc, b_enc, k, n)
    for rest in torch.arange(n, device=x.device).split(TOKENS):
        for find in list(ways):
            if not len(rest):
                break
            found = find(x[rest])
            for part, (features, largest_values) in zip(found, in_threads(partial(_topk_of, k=k), found), strict=True):
                proved = rest[part.block][part.proved]
                indices[proved], values[proved] = features, largest_values
            left = rest[~torch.cat([part.proved for part in found])]
            if 2 * len(left) > len(rest):
                ways.remove(find)
            rest = left
        for start, h in pre_act_chunks(x[rest], W_enc, b_enc):
            rows, chosen = rest[start : start + len(h)], topk_indices(h.relu_(), k)
            indices[rows], values[rows] = chosen.int(), h.gather(1, chosen)
    return SparseActs(
        crow_indices=torch.arange(n + 1, device=x.device) * k,
        col_indices=indices.view(-1),
        values=values.view(-1),
        shape=(n, d_sae),
        entries_per_row=k,
    )


def encode_threshold(
    x: Tensor, W_enc: Prepared, bias: Tensor, threshold: Tensor, gain: Tensor | None = None, offset: Tensor | None = None
) -> SparseActs:
    """See `sae_fast.reference.encode_threshold`."""
    n = x.shape[0]
    threshold = threshold.to(W_enc.wide)
    screens = screening_pays(W_enc, n)
    entries = _Entries()
    for rest in torch.arange(n, device=x.device).split(TOKENS):
        if screens and len(rest):
            found = threshold_candidates(Screened(x[rest], W_enc, bias, bias - threshold), len(rest), W_enc.d_sae)
            for part, fired in zip(found, in_threads(partial(_fired, threshold), found), strict=True):
                entries.add(rest[part.block][fired[0]], *fired[1:])
            left = rest[~torch.cat([part.proved for part in found])]
            screens = 2 * len(left) <= len(rest)
            rest = left
        for rows, features, values in by_blocks(partial(_firing, threshold), x[rest], W_enc, bias):
            entries.add(rest[rows], features, values)
    rows, features, values = entries.in_order(n, W_enc)
    if gain is not None:
        values *= gain.to(W_enc.wide)[features]
    if offset is not None:
        values += offset.to(W_enc.wide)[features]
    return SparseActs(row_pointer(torch.bincount(rows, minlength=n)), features, values, (n, W_enc.d_sae))


def encode_batch_topk(x: Tensor, W_enc: Prepared, b_enc: Tensor, k: float) -> SparseActs:
    """See `sae_fast.reference.encode_batch_topk`.

    Keeps the best floor(k * n) entries seen so far and raises the level that a new entry must reach as it goes.
    """
    n, d_sae = x.shape[0], W_enc.d_sae
    wanted = int(k * n)
    places = torch.empty(0, dtype=torch.int64, device=x.device)
    values = torch.empty(0, dtype=W_enc.wide, device=x.device)
    level = 0.0
    for start, h in pre_act_chunks(x, W_enc, b_enc):
        # A later entry equal to the lowest one kept loses the tie, so strictly greater is enough.
        chosen = flat_entries(h > level)
        places = torch.cat([places, chosen + start * d_sae])
        values = torch.cat([values, h.view(-1)[chosen]])
        if len(values) > wanted:
            kept = largest(values, wanted)
            places, values = places[kept], values[kept]
            level = float(values.min()) if wanted else float("inf")
    lengths = torch.bincount(places // d_sae, minlength=n)
    return SparseActs(row_pointer(lengths), (places % d_sae).to(torch.int32), values, (n, d_sae))


@dataclass
class _Entries:
    """Entries in several parts; in each, rows ascend, and features ascend within a row."""

    rows: list[Tensor] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def add(self, rows: Tensor, features: Tensor, values: Tensor) -> None:
        self.rows.append(rows)
        self.features.append(features.to(torch.int32))
        self.values.append(values)

    def in_order(self, n: int, W_enc: Prepared) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, features, values) of all parts, in row-major order."""
        nothing = torch.empty(0, device=W_enc.device)
        rows, features = torch.cat([nothing.long(), *self.rows]), torch.cat([nothing.int(), *self.features])
        values = torch.cat([nothing.to(W_enc.wide), *self.values])
        if bool((rows.diff() < 0).any()):
            order = stable_order(rows, n)
            return rows[order], features[order], values[order]
        return rows, features, values


def _firing(threshold: Tensor, start: int, first: int, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, features, values) of a block of pre-activations that exceed their thresholds."""
    width = h.shape[1]
    places = flat_entries(h > threshold[first : first + width])
    return start + places // width, first + places % width, h.view(-1)[places]


def _topk_ways(W_enc: Prepared, b_enc: Tensor, k: int, n: int) -> list[Callable[[Tensor], list[Candidates]]]:
    """Ways to find the candidates of some tokens, the fastest first; each takes what the one before gave up."""
    group = group_for(k, W_enc.d_sae)
    if group is None or W_enc.wide != torch.float32 or W_enc.device.type != "cpu":
        return []

    def find(scores: Callable[[Tensor], Scores], x: Tensor) -> list[Candidates]:
        return topk_candidates(scores(x), len(x), W_enc.d_sae, k, group)

    exact = partial(find, lambda x: Exact(x, W_enc, b_enc))
    if not screening_pays(W_enc, n):
        return [exact]
    return [partial(find, lambda x: Screened(x, W_enc, b_enc, b_enc)), exact]


def _topk_of(found: Candidates, k: int) -> tuple[Tensor, Tensor]:
    """(features int32, values) [proved rows, k] of the k largest candidates of each proved row, which has at least k."""
    counts = torch.bincount(found.rows, minlength=len(found.proved))[found.proved]
    if not len(counts):
        return torch.empty(0, k, dtype=torch.int32), found.values.new_empty(0, k)
    pointer = row_pointer(counts)
    within = torch.arange(len(found.rows)) - pointer[:-1].repeat_interleave(counts)
    padded = found.values.new_full((len(counts), int(counts.max())), -torch.inf)
    padded[torch.arange(len(counts)).repeat_interleave(counts), within] = found.values.relu()
    chosen = topk_indices(padded, k)
    return found.features[pointer[:-1, None] + chosen].int(), padded.gather(1, chosen)


def _fired(threshold: Tensor, found: Candidates) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, features, values) of the candidates that exceed their thresholds."""
    fires = flat_entries(found.values > threshold[found.features])
    return found.rows[fires], found.features[fires], found.values[fires]
