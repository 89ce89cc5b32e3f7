"""Exact TopK without the dense matrix: group words, a proven bound, and single dot products where the words do not decide."""

import torch
import triton
from torch import Tensor

from sae_fast.kernels._card import on_card_of
from sae_fast.kernels._choice import Choice
from sae_fast.kernels._chunks import product_into
from sae_fast.kernels._groups import INTERPRET
from sae_fast.kernels._product import Product, Words
from sae_fast.kernels._refine import refine_candidates, refine_depth
from sae_fast.kernels._rescan import products, select_rows
from sae_fast.kernels._select import finish, select
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs

LARGEST_K = 512
"""Beyond, and where there are fewer than 4 groups for each of the k, whole rows are computed in chunks instead."""
MOST_REGISTERS = 128
"""Of `select_rows`: left alone, the assembler spills some to fit more programs, which a last resort does not need."""
CANDIDATE_BYTES = 160 << 20
"""Most memory of a block's candidates."""
RESCAN_BYTES = 32 << 20
"""Memory of the rows that are rescanned together."""
ROW_BYTES = 128 << 20
"""Memory of a chunk of whole rows."""


def encode_topk(
    x: Tensor, W_enc: Prepared, b_enc: Tensor, k: int, approximate: bool = False, choice: Choice | None = None
) -> SparseActs:
    """The k largest activations `relu(x @ W_enc + b_enc)` of each token; see `sae_fast.ops.encode_topk`.

    x [n, d_in] on the device of the weights. Nothing is read back by the host, so the call can be captured in a CUDA graph.
    A row of x that holds NaN activates nothing. With `approximate` at most one feature of each group of 16 is found: of
    features in random places, a share of `expected_recall(k, d_sae)`. `choice` overrides the table of `_choice`.
    """
    product = Product("encode_topk", x, W_enc, b_enc, None, k, choice)
    n, d_sae = x.shape[0], W_enc.d_sae
    features = torch.arange(k, dtype=torch.int32, device=x.device).repeat(n, 1)
    values = torch.zeros(n, k, dtype=torch.float32, device=x.device)
    with on_card_of(x):
        if uses_groups(k, product.n_groups) or choice is not None or approximate:
            for tokens, words in product.blocks(CANDIDATE_BYTES // (9 * slots(k))):
                _Candidates(product, words, k).write(features[tokens], values[tokens], not approximate)
        else:
            _write_whole_rows(product, k, features, values)
    return SparseActs(
        crow_indices=torch.arange(n + 1, device=x.device) * k,
        col_indices=features.view(-1),
        values=values.view(-1),
        shape=(n, d_sae),
        entries_per_row=k,
    )


def expected_recall(k: int, d_sae: int) -> float:
    """Share of the k largest that `approximate` finds, where features lie in random groups of 16.

    The j-th largest is found unless one of the j - 1 larger ones is among the 15 others of its group.
    """
    alone, total = 1.0, 0.0
    for larger in range(k):
        total += alone
        alone *= max(0.0, d_sae - 16 - larger) / max(1, d_sae - 1 - larger)
    return total / k


def uses_groups(k: int, n_groups: int) -> bool:
    """Whether group words bound the k-th largest well enough to be worth it."""
    return k <= LARGEST_K and 4 * k <= n_groups


def slots(k: int) -> int:
    """Places for a row's candidates: enough also where features that fire together lie side by side, in fours."""
    return min(4096, triton.next_power_of_2(4 * k + 256))


def select_warps(n_lanes: int) -> int:
    """Warps of `select`."""
    return 8 if n_lanes > 1024 else 4


def finish_warps(n_slots: int) -> int:
    """Warps of `finish`: each thread compares at most 8 candidates with 8 others at a time."""
    return max(4, n_slots // 256)


def rescan_tile(dtype: torch.dtype) -> tuple[int, int]:
    """(features, depth) of the product of whole rows; exact float32 products take more registers."""
    return (64, 32) if dtype == torch.float32 else (128, 64)


def select_lanes(k: int, n_groups: int) -> int:
    """Sets of groups by whose largest `select` bounds the k-th largest: with 16 k of them, about k / 32 candidates too many."""
    return min(4096, max(256, triton.next_power_of_2(16 * k)), triton.next_power_of_2(n_groups))


class _Candidates:
    """Candidates of a block of tokens, on the way from words to the k largest."""

    def __init__(self, product: Product, words: Words, k: int) -> None:
        n, device = words.x.shape[0], words.x.device
        self.product, self.words, self.k = product, words, k
        self.slots = slots(k)
        self.features = torch.empty(n, self.slots, dtype=torch.int32, device=device)
        self.bits = torch.empty_like(self.features)
        self.groups = torch.empty(n, self.slots // 16, dtype=torch.int32, device=device)
        self.counts = torch.empty(n, 2, dtype=torch.int32, device=device)
        self.overflows = torch.empty(n, dtype=torch.int32, device=device)

    def write(self, out_features: Tensor, out_values: Tensor, exact: bool) -> None:
        """Fill [n, k], which hold 0, 1, … and zeros."""
        self._select(exact)
        self._refine()
        finish[(len(self.counts),)](
            self.features, self.bits, self.counts, out_features, out_values, self.k, SLOTS=self.slots,
            num_warps=finish_warps(self.slots), enable_fp_fusion=True,
        )  # fmt: skip
        listed = self.overflows.argsort(descending=True, stable=True).int()
        count = self.overflows.sum(dtype=torch.int32)
        n_rows = max(1, min(64, RESCAN_BYTES // (4 * self.product.weights.d_sae)))
        rescan(self.product, self.words.x, listed, count, n_rows, self.k, out_features, out_values)

    def _select(self, exact: bool) -> None:
        words, width = self.words, select_lanes(self.k, self.product.n_groups)
        select[(len(self.counts),)](
            words.first, words.second, words.x_margin, self.product.row_margin, self.features, self.bits, self.groups,
            self.counts, self.overflows, self.product.n_groups, self.k, SCREEN=self.product.screen,
            EXACT=exact, SLOTS=self.slots, LANES=width, num_warps=select_warps(width), enable_fp_fusion=True,
        )  # fmt: skip

    def _refine(self) -> None:
        weights = self.product.weights
        refine_candidates[(len(self.counts),)](
            self.words.x, weights.rows, self.product.bias, self.features, self.bits, self.groups, self.counts,
            weights.shape[0], weights.d_sae, SINGLES=self.product.screen, SLOTS=self.slots, BK=refine_depth(weights.rows.dtype),
            num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip


def rescan(
    product: Product, x: Tensor, listed: Tensor, count: Tensor, n_rows: int, k: int, out_features: Tensor, out_values: Tensor
) -> None:
    """The k largest of the `count` rows of x that are `listed`, over all features; `n_rows` of them are held at a time."""
    weights = product.weights
    columns, depth = rescan_tile(weights.rows.dtype)
    h_rows = torch.empty(n_rows, weights.d_sae, dtype=torch.float32, device=x.device)
    products[(triton.cdiv(weights.d_sae, columns),)](
        x, weights.rows, product.bias, listed, count, h_rows, *weights.shape, n_rows, BN=columns, BK=depth, INTERPRET=INTERPRET,
        num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    _select_rows(product, x, listed, count, h_rows, k, out_features, out_values)


def _select_rows(
    product: Product, x: Tensor, listed: Tensor, count: Tensor, h_rows: Tensor, k: int, out_features: Tensor, out_values: Tensor
) -> None:
    weights, n_rows = product.weights, len(h_rows)
    select_rows[(n_rows,)](
        x, weights.rows, product.bias, listed, count, h_rows, out_features, out_values, *weights.shape, k, n_rows,
        LANES=min(1024, triton.next_power_of_2(weights.d_sae)), BK=refine_depth(weights.rows.dtype), num_warps=8,
        maxnreg=MOST_REGISTERS, enable_fp_fusion=True,
    )  # fmt: skip


def _write_whole_rows(product: Product, k: int, features: Tensor, values: Tensor) -> None:
    """TopK for any k. Products in half precision are the vendor's; those in float32 must be exact whatever torch is set to."""
    n, weights = product.x.shape[0], product.weights
    n_rows = max(16, ROW_BYTES // (4 * weights.d_sae))
    listed = torch.arange(n, dtype=torch.int32, device=features.device)
    for start in range(0, n, n_rows):
        rows = listed[start : start + n_rows]
        count = torch.full_like(rows[:1], len(rows))
        if product.screen:
            rescan(product, product.x, rows, count, len(rows), k, features, values)
        else:
            h_rows = torch.empty(len(rows), weights.d_sae, dtype=torch.float32, device=features.device)
            product_into(product.x[start : start + n_rows], weights.rows, h_rows)
            _select_rows(product, product.x, rows, count, h_rows.add_(product.bias), k, features, values)
