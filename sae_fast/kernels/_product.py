"""The encoder's product over a block of tokens, by either design, reduced to group words."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from sae_fast.errors import ImplementationUnavailableError
from sae_fast.kernels import _chunks
from sae_fast.kernels._choice import INTERPRETED, Choice, Tile, choose
from sae_fast.kernels._gemm import group_gemm
from sae_fast.kernels._groups import INTERPRET, n_groups_of
from sae_fast.kernels._screen import row_margin, screen_of, screened_x
from sae_fast.prepared import Prepared

WORD_BYTES = 256 << 20
"""Most memory that the words of one block of tokens take, as long as a block may be that small."""
MOST_TOKENS = 32768
"""Most tokens of a block, whatever their words take."""
LEAST_TOKENS = 128
"""Fewest tokens of a block: below, reading the weights would dominate."""


@dataclass(frozen=True)
class Words:
    """What a block of tokens leaves behind."""

    x: Tensor
    """[n, d_in], as the single dot products read it."""
    x_margin: Tensor
    """bfloat16 [n, 16]; see `_screen`. Empty unless screening."""
    first: Tensor
    """int32 [n, n_groups]; see `_groups`."""
    second: Tensor
    """int32 [n, n_groups]."""


class Product:
    """`x @ W_enc + bias` of one call, to be run over blocks of tokens. With `threshold`, words are hits, else top-2."""

    def __init__(
        self, operation: str, x: Tensor, weights: Prepared, bias: Tensor, threshold: Tensor | None, k: int | None,
        choice: Choice | None,
    ) -> None:  # fmt: skip
        _require_supported(operation, x, weights)
        self.weights = weights
        self.x = x.to(weights.rows.dtype).contiguous()
        self.screen = weights.rows.dtype == torch.float32
        self.hits = threshold is not None
        self.bias = bias.float().contiguous()
        self.threshold = torch.zeros_like(self.bias) if threshold is None else threshold.float().contiguous()
        self.n_groups = n_groups_of(weights.d_sae)
        self.rows = screen_of(weights).rows if self.screen else weights.rows
        self.choice = choice or _chosen(operation, self.x, weights, k)
        self.row_margin = self.bias
        if self.screen:
            offset = self.bias - self.threshold if self.hits else self.bias
            self.row_margin = row_margin(screen_of(weights), offset)

    def blocks(self, most_tokens: int = MOST_TOKENS) -> Iterator[tuple[slice, Words]]:
        """(tokens, their words); every block's words lie in the same buffers."""
        n = self.x.shape[0]
        fitting = min(most_tokens, WORD_BYTES // (8 * self.n_groups)) // LEAST_TOKENS
        at_once = LEAST_TOKENS * max(1, fitting)
        buffers = torch.empty(2, min(n, at_once), self.n_groups, dtype=torch.int32, device=self.x.device)
        for start in range(0, n, at_once):
            tokens = slice(start, min(n, start + at_once))
            first, second = buffers[:, : tokens.stop - start]
            yield tokens, self._words(self.x[tokens], first, second)

    def _words(self, x: Tensor, first: Tensor, second: Tensor) -> Words:
        coarse, margin = x, x.new_empty(0)
        if self.screen:
            coarse, margin = screened_x(x, screen_of(self.weights))
        if self.choice.design == "chunks":
            _chunks.write_words(
                coarse, self.rows, self._chunk_bias(), self.threshold, margin, self.row_margin, first, second, self.hits,
                self.screen,
            )  # fmt: skip
        else:
            self._run_groups(coarse, margin, first, second)
        return Words(x, margin, first, second)

    def _chunk_bias(self) -> Tensor:
        return self.bias - self.threshold if self.screen and self.hits else self.bias

    def _run_groups(self, coarse: Tensor, margin: Tensor, first: Tensor, second: Tensor) -> None:
        tile = _runnable(self.choice.tile, coarse, self.rows)
        (n, d_in), d_sae = coarse.shape, self.weights.d_sae
        x, rows = coarse, self.rows
        if tile.descriptors:
            x = TensorDescriptor.from_tensor(coarse, [tile.rows, tile.depth])
            rows = TensorDescriptor.from_tensor(self.rows, [tile.columns, tile.depth])
        group_gemm[(triton.cdiv(n, tile.rows) * triton.cdiv(d_sae, tile.columns),)](
            x, rows, self.bias, self.threshold, margin, self.row_margin, first, second, n, d_in, d_sae,
            HITS=self.hits, SCREEN=self.screen, DESCRIPTORS=tile.descriptors, EVEN=d_in % tile.depth == 0, INTERPRET=INTERPRET,
            BM=tile.rows, BN=tile.columns, BK=tile.depth, PANEL=tile.panel, num_warps=tile.warps, num_stages=tile.stages,
            enable_fp_fusion=True,
        )  # fmt: skip


def _chosen(operation: str, x: Tensor, weights: Prepared, k: int | None) -> Choice:
    if INTERPRET:
        return Choice("groups", INTERPRETED)
    major, minor = torch.cuda.get_device_capability(x.device)
    screen = weights.rows.dtype == torch.float32
    return choose(operation, 10 * major + minor, screen, *weights.shape, x.shape[0], k)


def _runnable(tile: Tile, x: Tensor, rows: Tensor) -> Tile:
    """The tile, without descriptors where an operand is not aligned as they demand."""
    aligned = x.shape[1] % 8 == 0 and x.data_ptr() % 16 == 0 and rows.data_ptr() % 16 == 0
    return tile if aligned else tile._replace(descriptors=False)


def _require_supported(operation: str, x: Tensor, weights: Prepared) -> None:
    if weights.rows.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ImplementationUnavailableError(
            f"{operation}: the Triton kernels take float32, float16 and bfloat16 weights", got=weights.rows.dtype,
            advice="Use impl='torch'",
        )  # fmt: skip
    if not (x.is_cuda or INTERPRET):
        raise ImplementationUnavailableError(
            f"{operation}: the Triton kernels need tensors on a CUDA device", got=x.device, advice="Use impl='torch'"
        )
