"""Which documents labels are chosen on, and which they are measured on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_fast.corpus.tokens import COUNTED, PADDING, TokenDataset


@dataclass(frozen=True)
class LabelCorpus:
    """The documents that labels are made from, cut in two halves by a hash of the document's number.

    Whole documents, so that no text is on both sides; in the order of the dataset.
    """

    tokens: NDArray[np.int32]
    """`[m, context_length]`"""
    real: NDArray[np.bool_]
    """`[m, context_length]` not padding"""
    counted: NDArray[np.bool_]
    """`[m, context_length]`"""
    document: NDArray[np.int32]
    """`[m]`"""
    fit: NDArray[np.bool_]
    """`[m]` True where labels are chosen, False where they are measured"""
    row_of_context: NDArray[np.int64]
    """`[n_contexts]` row of each context of the dataset, -1 where it was left out"""
    n_prefix: int

    @classmethod
    def choose(cls, dataset: TokenDataset, max_tokens: int) -> "LabelCorpus":
        """Take documents in the order of a hash until `max_tokens` positions are reached: all of them in a small corpus."""
        documents = np.asarray(dataset.document)
        n_contexts = np.bincount(documents, minlength=1)
        mixed = _hash(np.arange(len(n_contexts)))
        order = np.argsort(mixed, kind="stable")
        sizes = np.cumsum(n_contexts[order]) * dataset.context_length
        taken = np.zeros(len(n_contexts), dtype=bool)
        taken[order[sizes <= max(max_tokens, sizes[0])]] = True
        contexts = np.flatnonzero(taken[documents])
        row_of_context = np.full(len(documents), -1, dtype=np.int64)
        row_of_context[contexts] = np.arange(len(contexts))
        kind = np.asarray(dataset.kind)[contexts]
        return cls(
            tokens=np.asarray(dataset.tokens)[contexts],
            real=kind != PADDING,
            counted=kind == COUNTED,
            document=documents[contexts],
            fit=_hash(documents[contexts].astype(np.int64) + len(n_contexts)) % np.uint64(2) == 0,
            row_of_context=row_of_context,
            n_prefix=dataset.n_prefix,
        )

    @property
    def context_length(self) -> int:
        return self.tokens.shape[1]


def _hash(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Mix integers (the splitmix64 finaliser)."""
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
