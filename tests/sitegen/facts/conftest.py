"""Tiny random corpora with dense activations, and their records."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from brute_force import Dense, write_index

from sae_fast.corpus.tokens import TokenDataset
from sitegen.activation_index import ActivationIndex
from sitegen.facts import FactOptions, compute
from sitegen.records import FeatureRecord
from sitegen.vocabulary import Vocabulary


@dataclass
class Case:
    """Dense activations, their index on disk, and small weights."""

    dense: Dense
    index: ActivationIndex
    vocabulary: Vocabulary

    @property
    def sae(self) -> Any:
        return SimpleNamespace(W_dec=torch.from_numpy(self.dense.W_dec))

    @property
    def unembed(self) -> Any:
        W_U = torch.from_numpy(self.dense.W_U)
        return SimpleNamespace(W_U=W_U, norm_weight=torch.linspace(0.5, 2, len(W_U)))

    def stream(self, options: FactOptions, features: Any = None, progress: Any = None) -> Iterator[FeatureRecord]:
        return compute(self.index, self.dense.dataset, self.sae, self.unembed, self.vocabulary, options, features, progress)

    def records(self, options: FactOptions | None = None, features: Any = None) -> list[FeatureRecord]:
        return list(self.stream(options or FactOptions(labels=False), features))


def random_dataset(rng: np.random.Generator, n_contexts: int, length: int, d_vocab: int, n_prefix: int) -> TokenDataset:
    """Contexts of random lengths, several to a document; some tokens uncounted, some contexts copied from others."""
    tokens = rng.integers(1, d_vocab, (n_contexts, length)).astype(np.int32)
    for copy in rng.integers(0, n_contexts, n_contexts // 3):
        tokens[copy] = tokens[rng.integers(n_contexts)]
    kind = np.where(rng.random((n_contexts, length)) < 0.05, 2, 1).astype(np.uint8)
    for context, n_real in enumerate(rng.integers(2, length + 1, n_contexts)):
        if rng.random() < 0.4:
            tokens[context, n_real:], kind[context, n_real:] = 0, 0
    if n_prefix:
        tokens[:, 0], kind[:, 0] = 0, 2
    document = np.sort(rng.integers(0, max(n_contexts // 3, 1), n_contexts)).astype(np.int32)
    start = np.zeros(n_contexts, dtype=np.int32)
    for context in range(1, n_contexts):
        if document[context] == document[context - 1]:
            start[context] = start[context - 1] + length - n_prefix
    return TokenDataset(tokens, kind, document, start, [f"{d}.txt" for d in range(n_contexts)], n_prefix)


@pytest.fixture
def make_case(tmp_path: Path) -> Callable[..., Case]:
    """Build a case from a seed; `change(acts, dataset)` may set activations before the index is written."""

    def make(
        seed: int = 0,
        n_contexts: int = 40,
        length: int = 48,
        d_sae: int = 13,
        d_vocab: int = 61,
        n_prefix: int = 1,
        contexts_per_part: int = 7,
        signed: bool = False,
        change: Callable[[np.ndarray, TokenDataset], None] | None = None,
    ) -> Case:
        rng = np.random.default_rng(seed)
        dataset = random_dataset(rng, n_contexts, length, d_vocab, n_prefix)
        n_positions = n_contexts * length
        acts = rng.lognormal(0, 1.5, (n_positions, d_sae)).astype(np.float32)
        acts *= rng.random((n_positions, d_sae)) < rng.choice([0.002, 0.03, 0.3], d_sae)
        # Features that fire together, so that there is something to correlate.
        acts[:, 1] = np.where(rng.random(n_positions) < 0.8, acts[:, 0] * 0.5, acts[:, 1])
        if signed:
            acts *= rng.choice([-1, 1], acts.shape)
        if change is not None:
            change(acts, dataset)
        acts *= (dataset.kind.reshape(-1) == 1)[:, None]
        W_dec = rng.standard_normal((d_sae, 16)).astype(np.float32)
        W_U = rng.standard_normal((16, d_vocab)).astype(np.float32)
        dense = Dense(dataset, acts, W_dec, W_U)
        index = write_index(tmp_path / f"index-{seed}-{signed}", acts, dataset, contexts_per_part)
        return Case(dense, index, Vocabulary(tuple(b"t%d" % token for token in range(d_vocab))))

    return make
