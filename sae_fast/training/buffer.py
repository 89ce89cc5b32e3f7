"""A shuffle buffer in memory: activations of several hooks, mixed over many contexts before they are served."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


class ShuffleBuffer:
    """Serve shuffled batches of activations `{hook: [batch_tokens, d]}` from a stream of blocks `{hook: [n, d]}`.

    Holds `n_tokens` rows per hook in bfloat16. When half are served, that half is replaced by new rows, so a batch mixes
    rows from many blocks. The rows of all hooks stay aligned: row `i` of every hook is the same token.
    """

    def __init__(self, blocks: Iterator[Mapping[str, Tensor]], n_tokens: int, batch_tokens: int, seed: int = 0) -> None:
        self._blocks = blocks
        self._n_tokens = n_tokens
        self._batch_tokens = batch_tokens
        self._generator = torch.Generator().manual_seed(seed)
        self._rows: dict[str, Tensor] = {}

    def _fill(self) -> None:
        parts = {hook: [rows] for hook, rows in self._rows.items()}
        n = len(next(iter(self._rows.values()))) if self._rows else 0
        while n < self._n_tokens:
            block = next(self._blocks)
            for hook, rows in block.items():
                parts.setdefault(hook, []).append(rows.to(torch.bfloat16))
            n += len(next(iter(block.values())))
        order = torch.randperm(n, generator=self._generator)
        self._rows = {hook: torch.cat(rows)[order] for hook, rows in parts.items()}

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield float32 batches until the stream of blocks ends."""
        while True:
            try:
                self._fill()
            except StopIteration:
                return
            n_served = max(self._batch_tokens, self._n_tokens // 2)
            for first in range(0, n_served - self._batch_tokens + 1, self._batch_tokens):
                yield {hook: rows[first : first + self._batch_tokens].float() for hook, rows in self._rows.items()}
            self._rows = {hook: rows[n_served:] for hook, rows in self._rows.items()}
