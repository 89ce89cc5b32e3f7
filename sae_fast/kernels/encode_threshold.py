"""Features above a threshold, in compressed rows, without the dense matrix."""

import torch
import triton
from torch import Tensor

from sae_fast.kernels._card import on_card_of
from sae_fast.kernels._choice import Choice
from sae_fast.kernels._compact import count_hits, refine_entries, write_hits
from sae_fast.kernels._product import Product, Words
from sae_fast.kernels._refine import refine_depth
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs, row_pointer


def encode_threshold(
    x: Tensor,
    W_enc: Prepared,
    bias: Tensor,
    threshold: Tensor,
    gain: Tensor | None = None,
    offset: Tensor | None = None,
    choice: Choice | None = None,
) -> SparseActs:
    """Features with `h > threshold` and their `h`, or `gain * h + offset`; see `sae_fast.ops.encode_threshold`.

    x [n, d_in] on the device of the weights. The host reads the number of entries once for each block of tokens whose words
    take 256 MiB, and with float32 weights a second time, for the candidates of the screening that fire. NaN never fires.
    `choice` overrides the table of `_choice`.
    """
    product = Product("encode_threshold", x, W_enc, bias, threshold, None, choice)
    with on_card_of(x):
        parts = [_entries(product, words, gain, offset) for _, words in product.blocks()]
    counts = [x.new_empty(0, dtype=torch.int64), *(part[0] for part in parts)]
    features = [x.new_empty(0, dtype=torch.int32), *(part[1] for part in parts)]
    values = [x.new_empty(0, dtype=torch.float32), *(part[2] for part in parts)]
    shape = (x.shape[0], W_enc.d_sae)
    return SparseActs(row_pointer(torch.cat(counts)), torch.cat(features), torch.cat(values), shape)


def compact(product: Product, words: Words, with_values: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(pointer int64 [n + 1], features int32, rows int32, values float32 [nnz]) of hit words.

    Values are to be finished by `refine`: NaN where a group has several hits, and unset without `with_values`.
    """
    n, n_groups = words.second.shape
    device = words.x.device
    counts = torch.empty(n, dtype=torch.int64, device=device)
    lanes = min(2048, triton.next_power_of_2(n_groups))
    count_hits[(n,)](words.second, counts, n_groups, LANES=lanes, num_warps=4, enable_fp_fusion=True)
    pointer = row_pointer(counts)
    nnz = int(pointer[-1])
    features = torch.empty(nnz, dtype=torch.int32, device=device)
    rows, values = torch.empty_like(features), torch.empty(nnz, dtype=torch.float32, device=device)
    write_hits[(n,)](
        words.first, words.second, pointer, features, values, rows, n_groups, VALUES=with_values,
        BLOCKS=min(128, triton.next_power_of_2(n_groups // 4)), num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return pointer, features, rows, values


def refine(
    product: Product, words: Words, features: Tensor, rows: Tensor, values: Tensor, gain: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Finish `values` in place; returns which entries fire, int8 [nnz], where the product was a screening."""
    kept = torch.empty(len(values) if product.screen else 0, dtype=torch.int8, device=values.device)
    weights = product.weights
    if len(values):
        refine_entries[(triton.cdiv(len(values), 16),)](
            words.x, weights.rows, product.bias, product.threshold, _vector(gain, product), _vector(offset, product), features,
            rows, values, kept, len(values), weights.shape[0], ALL=product.screen, GAIN=gain is not None,
            OFFSET=offset is not None, BK=refine_depth(weights.rows.dtype), num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return kept


def _entries(product: Product, words: Words, gain: Tensor | None, offset: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(counts [n], features, values) of a block of tokens."""
    pointer, features, rows, values = compact(product, words, with_values=not product.screen)
    kept = refine(product, words, features, rows, values, gain, offset)
    if product.screen:
        pointer = row_pointer(kept)[pointer]
        chosen = kept.bool()
        features, values = features[chosen], values[chosen]
    return pointer.diff(), features, values


def _vector(vector: Tensor | None, product: Product) -> Tensor:
    return product.bias if vector is None else vector.float().contiguous()
