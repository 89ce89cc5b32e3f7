"""Contexts of a TokenDataset as a language model reads them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sae_fast.corpus.tokens import COUNTED, PADDING, TokenDataset
from sae_fast.errors import MismatchError


@dataclass(frozen=True)
class Batch:
    """Contexts, cut to the longest one."""

    contexts: NDArray[np.int64]
    """their numbers in the dataset"""
    token_ids: torch.Tensor
    """int64 `[batch, pos]`"""
    is_counted: torch.Tensor
    """bool `[batch, pos]`"""
    attention_mask: torch.Tensor
    """int64 `[batch, pos]`: 1 at tokens, 0 at padding"""

    @classmethod
    def of(cls, dataset: TokenDataset, contexts: NDArray[np.int64]) -> "Batch":
        """Read the contexts of these numbers."""
        kind = np.asarray(dataset.kind[contexts])
        length = max(int((kind != PADDING).sum(axis=1).max(initial=0)), 1)
        kind = kind[:, :length]
        return cls(
            contexts,
            torch.from_numpy(dataset.tokens[contexts][:, :length].astype(np.int64)),
            torch.from_numpy(kind == COUNTED),
            torch.from_numpy((kind != PADDING).astype(np.int64)),
        )


def batches(dataset: TokenDataset, contexts: range, batch_size: int) -> Iterator[Batch]:
    """The contexts of a range, `batch_size` at a time."""
    for first in range(contexts.start, contexts.stop, batch_size):
        yield Batch.of(dataset, np.arange(first, min(first + batch_size, contexts.stop)))


def part_contexts(dataset: TokenDataset, part_tokens: int) -> list[range]:
    """The contexts of each part: as many as fit into `part_tokens` positions, at least one."""
    step = max(part_tokens // dataset.context_length, 1)
    return [range(first, min(first + step, dataset.n_contexts)) for first in range(0, dataset.n_contexts, step)]


def check_tokens(dataset: TokenDataset, n_ctx: int | None, d_vocab: int) -> None:
    """Raise MismatchError where an LM cannot read the dataset: ids beyond its embedding, contexts beyond its positions."""
    if n_ctx is not None and dataset.context_length > n_ctx:
        raise MismatchError(
            f"[corpus] context_length = {dataset.context_length}, but the model reads at most {n_ctx} tokens: lower it."
        )
    highest = max((int(dataset.tokens[first : first + 4096].max()) for first in range(0, dataset.n_contexts, 4096)), default=0)
    if highest >= d_vocab:
        raise MismatchError(
            f"The tokenizer gives the id {highest}, but the model embeds {d_vocab} tokens: they do not belong together."
        )
