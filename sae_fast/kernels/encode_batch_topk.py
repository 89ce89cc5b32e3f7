"""BatchTopK without the dense matrix: one level for the whole batch, raised block by block."""

from typing import NamedTuple

import torch
from torch import Tensor

from sae_fast.kernels._card import on_card_of
from sae_fast.kernels._choice import Choice
from sae_fast.kernels._level import keep_reaching, reached_by
from sae_fast.kernels._product import Product, Words
from sae_fast.kernels.encode_threshold import compact, refine
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs, row_pointer


class _Entries(NamedTuple):
    """Positive activations in row-major order: int64 rows, int32 features, float32 values."""

    rows: Tensor
    features: Tensor
    values: Tensor


def encode_batch_topk(x: Tensor, W_enc: Prepared, b_enc: Tensor, k: float, choice: Choice | None = None) -> SparseActs:
    """The `floor(k * n)` largest activations of the whole batch; see `sae_fast.ops.encode_batch_topk`.

    x [n, d_in] on the device of the weights. Keeps the best so far and the value that a new one must reach; every block of
    tokens adds its candidates, a few more than belong to the result once the first blocks are through. The host reads their
    number block by block. NaN activates nothing. `choice` overrides the table of `_choice`.
    """
    n, wanted = x.shape[0], int(k * x.shape[0])
    product = Product("encode_batch_topk", x, W_enc, b_enc, None, max(1, int(k)), choice)
    best = _Entries(*(torch.empty(0, dtype=t, device=x.device) for t in (torch.int64, torch.int32, torch.float32)))
    level = torch.ones(1, dtype=torch.int32, device=x.device)
    with on_card_of(x):
        for tokens, words in product.blocks() if wanted else ():
            level = reached_by(product, words, wanted, level)
            best = _largest(_joined(best, _candidates(product, words, level, tokens.start)), wanted)
            if len(best.values) == wanted:
                level = best.values.min().view(1).view(torch.int32)
    counts = torch.bincount(best.rows, minlength=n)
    return SparseActs(row_pointer(counts), best.features, best.values, (n, W_enc.d_sae))


def _candidates(product: Product, words: Words, level: Tensor, first_row: int) -> _Entries:
    """What may reach the level in a block of tokens, with final values."""
    keep_reaching(product, words, level)
    _, features, rows, values = compact(product, words, with_values=not product.screen)
    refine(product, words, features, rows, values)
    positive = values > 0
    return _Entries(rows[positive].long() + first_row, features[positive], values[positive])


def _joined(a: _Entries, b: _Entries) -> _Entries:
    return _Entries(*(torch.cat(pair) for pair in zip(a, b, strict=True)))


def _largest(entries: _Entries, wanted: int) -> _Entries:
    """The `wanted` largest, in the same order; ties to the earlier."""
    if len(entries.values) <= wanted:
        return entries
    chosen = entries.values.sort(descending=True, stable=True).indices[:wanted].sort().values
    return _Entries(*(part[chosen] for part in entries))
