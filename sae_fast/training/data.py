"""What the SAEs learn from: the activations of a store, or of the LM running along."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_fast.activations import ActivationStore, Permutation, Split
from sae_fast.activations.reading import ahead
from sae_fast.activations.store import dataset_fingerprint, split_documents
from sae_fast.corpus.batch import Batch
from sae_fast.corpus.tokens import COUNTED, TokenDataset
from sae_fast.errors import ArgumentError, NonFiniteError
from sae_fast.lm.interface import LanguageModel
from sae_fast.training.distributed import Ranks
from sae_fast.training.trainer import TrainOptions

SAMPLE_TOKENS = 8192
"""Activations from which the initial weights are made."""
HELD_OUT_TOKENS = 65536
"""Held-out activations that thresholds are set on, and results measured on, at most."""
HELD_OUT_CHUNK = 4096


class Activations(ABC):
    """Activations at several hooks, those of training and those held out."""

    hooks: Mapping[str, int]
    """widths by name"""
    about: Mapping[str, Any]
    """what they were made from, for checkpoints"""

    @abstractmethod
    def sample(self, n: int, seed: int) -> dict[str, Tensor]:
        """At most n tokens, {hook: [n, d]} in float32, the same ones every time."""

    @abstractmethod
    def norm_scale(self, hook: str) -> float:
        """√d / mean norm."""

    @abstractmethod
    def batches(self, options: TrainOptions, first_step: int, ranks: Ranks) -> Iterator[dict[str, Tensor]]:
        """The batches of a run from a step on, without end; a process's rows of them, in the dtype in which they are kept."""

    @abstractmethod
    def held_out(self, hooks: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Held-out tokens, at most `HELD_OUT_TOKENS`, spread over the held-out documents; float32."""


@dataclass(frozen=True)
class StoredActivations(Activations):
    """Those of a store, shuffled as a whole."""

    store: ActivationStore
    training: Split
    held_out_rows: Split

    @property
    def hooks(self) -> Mapping[str, int]:  # type: ignore[override]
        """Widths by name."""
        return self.store.hooks

    @property
    def about(self) -> Mapping[str, Any]:  # type: ignore[override]
        """The content of store.json."""
        return self.store.info

    def sample(self, n: int, seed: int) -> dict[str, Tensor]:
        """Rows from anywhere in the training documents."""
        places = Permutation(len(self.training), seed)[: min(n, len(self.training))]
        rows = np.sort(self.training.rows(places))
        return {hook: self.store.rows(hook, rows).float() for hook in self.hooks}

    def norm_scale(self, hook: str) -> float:
        """Over all rows, exact."""
        return self.store.norm_scale(hook)

    def batches(self, options: TrainOptions, first_step: int, ranks: Ranks) -> Iterator[dict[str, Tensor]]:
        """In a global random order for each epoch, read by a thread of its own while the SAEs learn."""
        part = (ranks.rank, ranks.size)
        read = self.store.batches(options.batch_tokens, options.seed, first_step, self.training, dtype=None, part=part)
        return ahead(map(_pinned, read) if torch.cuda.is_available() else read)

    def held_out(self, hooks: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Evenly spread rows."""
        n = len(self.held_out_rows)
        places = np.unique(np.linspace(0, n - 1, min(n, HELD_OUT_TOKENS)).astype(np.int64))
        for part in np.array_split(places, max(1, len(places) // HELD_OUT_CHUNK)):
            rows = self.held_out_rows.rows(part)
            yield {hook: self.store.rows(hook, rows).float() for hook in hooks}


class StreamedActivations(Activations):
    """Those of an LM that runs along.

    Contexts come in a random order for each epoch; the activations of as many as fill the buffer are shuffled among themselves.
    A batch may reach into the next buffer. Where a step lies follows from counts of tokens alone, so that a run goes on
    anywhere after at most one buffer's work.
    """

    def __init__(
        self,
        lm: LanguageModel,
        dataset: TokenDataset,
        hooks: Sequence[str],
        held_out: float,
        batch_size: int,
        buffer_tokens: int,
    ) -> None:
        self.lm, self.dataset, self.batch_size, self.buffer_tokens = lm, dataset, batch_size, buffer_tokens
        self.hooks = {hook: lm.d_hook(hook) for hook in hooks}
        self.about = {"dataset": dataset_fingerprint(dataset), "hooks": self.hooks}
        is_held = split_documents(dataset, held_out)[np.asarray(dataset.document)]
        counts = np.concatenate(
            [(np.asarray(dataset.kind[i : i + 4096]) == COUNTED).sum(1) for i in range(0, dataset.n_contexts, 4096)]
        )
        self.counts = counts.astype(np.int64)
        self.training, self.held = np.flatnonzero(~is_held), np.flatnonzero(is_held)
        if not (self.counts[self.training].sum() and self.counts[self.held].sum()):
            raise ArgumentError("held_out", expected="a share that leaves documents on both sides", got=held_out)
        self._block = lru_cache(maxsize=1)(self._computed_block)

    def sample(self, n: int, seed: int) -> dict[str, Tensor]:
        """Tokens of random contexts of training."""
        order = self.training[Permutation(len(self.training), seed)[:]]
        taken = order[: int(np.searchsorted(np.cumsum(self.counts[order]), n)) + 1]
        found = self._run(np.sort(taken), list(self.hooks))
        return {hook: x[:n].float() for hook, x in found.items()}

    def norm_scale(self, hook: str) -> float:
        """Over a sample."""
        x = self._norm_sample[hook]
        return float(x.shape[1] ** 0.5 / x.double().norm(dim=1).mean())

    def batches(self, options: TrainOptions, first_step: int, ranks: Ranks) -> Iterator[dict[str, Tensor]]:
        """From the buffers in which the step's rows lie."""
        n, step = options.batch_tokens, first_step
        while True:
            pieces = list(self._rows(step * n, n, options.seed))
            batch = {hook: torch.cat([piece[hook] for piece in pieces]) for hook in self.hooks}
            yield {hook: x[ranks.rank :: ranks.size] for hook, x in batch.items()}
            step += 1

    def held_out(self, hooks: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Tokens of evenly spread contexts; the LM runs once for all hooks and calls."""
        total = len(next(iter(self._held_rows.values())))
        for first in range(0, total, HELD_OUT_CHUNK):
            yield {hook: self._held_rows[hook][first : first + HELD_OUT_CHUNK].float() for hook in hooks}

    @cached_property
    def _norm_sample(self) -> dict[str, Tensor]:
        return self.sample(4 * SAMPLE_TOKENS, 0)

    @cached_property
    def _held_rows(self) -> dict[str, Tensor]:
        n_contexts = len(self.held)
        share = min(1.0, HELD_OUT_TOKENS / int(self.counts[self.held].sum()))
        places = np.unique(np.linspace(0, n_contexts - 1, max(1, int(n_contexts * share))).astype(np.int64))
        return self._run(self.held[places], list(self.hooks))

    def _rows(self, first: int, count: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """`count` successive rows of the endless sequence of shuffled buffers, from `first` on."""
        per_epoch = int(self.counts[self.training].sum())
        while count:
            epoch, place = divmod(first, per_epoch)
            _, ends = self._order(seed, epoch)
            number = int(np.searchsorted(ends, place, side="right"))
            begin = place - (int(ends[number - 1]) if number else 0)
            taken = min(count, int(ends[number]) - place)
            block = self._block(seed, epoch, number)
            yield {hook: x[begin : begin + taken] for hook, x in block.items()}
            first, count = first + taken, count - taken

    @lru_cache(maxsize=2)  # noqa: B019 - lives as long as a run
    def _order(self, seed: int, epoch: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        """(contexts of each buffer, rows up to the end of each)."""
        order = self.training[Permutation(len(self.training), seed, epoch)[:]]
        number = (np.cumsum(self.counts[order]) - 1) // self.buffer_tokens
        blocks = [block for block in np.split(order, np.flatnonzero(np.diff(number)) + 1) if self.counts[block].sum()]
        return blocks, np.cumsum([int(self.counts[block].sum()) for block in blocks])

    def _computed_block(self, seed: int, epoch: int, number: int) -> dict[str, Tensor]:
        contexts = np.sort(self._order(seed, epoch)[0][number])
        found = self._run(contexts, list(self.hooks))
        n = len(next(iter(found.values())))
        order = torch.from_numpy(Permutation(n, seed + 1, number)[:])
        return {hook: x[order] for hook, x in found.items()}

    def _run(self, contexts: NDArray[np.int64], hooks: list[str]) -> dict[str, Tensor]:
        """Counted tokens of some contexts, in the LM's dtype on the CPU."""
        parts: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
        for first in range(0, len(contexts), self.batch_size):
            batch = Batch.of(self.dataset, contexts[first : first + self.batch_size])
            found = self.lm.activations(batch.token_ids, hooks, batch.attention_mask)
            for hook in hooks:
                x = found[hook][batch.is_counted.to(found[hook].device)]
                if not bool(torch.isfinite(x).all()):
                    raise NonFiniteError(f"The model gives NaN or infinity at {hook}", advice="Load it as float32")
                parts[hook].append(x.detach().cpu())
        return {hook: torch.cat(xs) for hook, xs in parts.items()}


def _pinned(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """In memory from which a GPU fetches by itself."""
    return {hook: x.pin_memory() for hook, x in batch.items()}
