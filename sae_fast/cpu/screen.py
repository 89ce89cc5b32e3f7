r"""Scores of a block of tokens and features, exact or screened in bfloat16 with a proven margin.

Screening multiplies x̂ = bf16(x) by ŵ = bf16(w) on the processor's bfloat16 units, several times faster than float32. With
δx = x - x̂ and δw = w - ŵ the product differs from the exact one by

    |x·w - x̂·ŵ| = |δx·w + x̂·δw| ≤ ‖δx‖ ‖w‖ + ‖x̂‖ ‖δw‖            (Cauchy-Schwarz)

where all four norms are known. To this come: the rounding of float32 sums of d_in products, at most d_in 2⁻²⁴ ‖x̂‖ ‖ŵ‖ each for
the screen, for the exact value and for whoever compares with it; the bias in bfloat16, 2⁻⁹ |b|, and again where it is added
after a first rounding; and the rounding of the score itself, 2⁻⁹ of it, as PyTorch returns a bfloat16 product in bfloat16.
`margin` bounds their sum, by the largest norms in a group of features, so that

    score - margin ≤ exact value ≤ score + margin.

What is within reach of the threshold is computed exactly (`Screened.evaluate`); nothing else is looked at again. The norms of
δx and δw are some 0.0008 of those of x and w, less than half of the worst case 2⁻⁹, and zero where an operand is in bfloat16
already.
"""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from sae_fast.cpu.rows import Buffers, Widened, chunk_features
from sae_fast.prepared import Prepared
from sae_fast.sparse import row_pointer

MODE = os.environ.get("SAE_FAST_CPU_SCREEN", "auto")
"""`auto`, or `never`: multiply in the dtype of the weights only. Read from the environment variable SAE_FAST_CPU_SCREEN."""

KEPT_BYTES = 256 << 20
"""A bfloat16 copy up to this size is kept with the weights; that of larger weights is made block by block in each call."""

MIN_TOKENS_KEPT, MIN_TOKENS_MADE = 16, 64
"""Fewest tokens for which screening is faster than float32, with a kept copy and without."""

SMALLEST_NORM, LARGEST_NORM = 1e-15, 1e15
"""Rows outside are left to the exact way: their squares, or bfloat16's own range, could underflow or overflow."""

UNSEEN = 1e-17
"""Norm of what is too small for its square to be a float32."""


class Scores(Protocol):
    """Scores of some tokens for blocks of features, one block at a time."""

    usable: Tensor | None
    """bool [n], rows that can be scored; None if all can."""

    def take(self, first: int, last: int, group: int) -> None:
        """Turn to the features from `first` to `last`, in groups of `group` successive ones."""

    def scores(self, start: int, stop: int) -> Tensor:
        """[stop - start, last - first] of the tokens from `start` to `stop`; the next call in the thread overwrites it."""

    def margin(self, start: int, stop: int, maxima: Tensor) -> Tensor | None:
        """[stop - start, n_groups] float32, how far scores of a group may be off; `maxima` are the groups' largest scores."""

    def take_exact(self, first: int, last: int) -> Iterator["Weights"]:
        """The weights of the features from `first` to `last`, some at a time, as `evaluate` needs them; none if it does not."""

    def evaluate(self, block: slice, rows: Tensor, features: Tensor, values: Tensor, weights: "Weights") -> None:
        """Put exact values in place of the bounds of entries of a block of tokens, of the features of `weights` alone."""


@dataclass(frozen=True)
class Weights:
    """Rows of the encoder, widened."""

    first: int
    """The first feature."""
    rows: Tensor
    """[features, d_in]."""


class Exact:
    """Scores in the dtype of the results: they are the values."""

    usable: Tensor | None = None

    def __init__(self, x: Tensor, W_enc: Prepared, bias: Tensor) -> None:
        self._x, self._bias, self._buffers = x.to(W_enc.wide), bias.to(W_enc.wide), Buffers(W_enc.wide)
        self._weights = Widened(W_enc.rows, W_enc.wide)

    def take(self, first: int, last: int, group: int) -> None:
        self._block, self._block_bias = self._weights[first:last], self._bias[first:last]

    def scores(self, start: int, stop: int) -> Tensor:
        return self._buffers.product(self._block_bias, self._x[start:stop], self._block)

    def margin(self, start: int, stop: int, maxima: Tensor) -> None:
        return None

    def take_exact(self, first: int, last: int) -> Iterator[Weights]:
        return iter(())

    def evaluate(self, block: slice, rows: Tensor, features: Tensor, values: Tensor, weights: Weights) -> None:
        """Nothing is left to do: the bounds are the values."""


class Screened:
    """Scores in bfloat16 of `x @ W_enc + shifted`, where values are those of `x @ W_enc + bias`, in float32."""

    def __init__(self, x: Tensor, W_enc: Prepared, bias: Tensor, shifted: Tensor) -> None:
        self._weights, self._bias, self._buffers = W_enc, bias.float(), Buffers(torch.bfloat16)
        self._coarse_weights = Widened(W_enc.screen if keeps_copy(W_enc) else W_enc.rows, torch.bfloat16)
        self._exact_weights = Widened(W_enc.rows, torch.float32)
        self._x = x.float()
        self._coarse = self._x.to(torch.bfloat16)
        norm = torch.linalg.vector_norm(self._x, dim=1)
        lost = torch.linalg.vector_norm(self._x - self._coarse.float(), dim=1)
        self.usable: Tensor | None = (norm > SMALLEST_NORM) & (norm < LARGEST_NORM)
        self._x_norms = torch.stack([lost, norm + lost, torch.ones_like(norm)], 1).add_(UNSEEN)
        self._shifted = torch.where(shifted.isnan(), -torch.inf, shifted).float()

    def take(self, first: int, last: int, group: int) -> None:
        weights = self._weights
        self._block = self._coarse_weights[first:last]
        self._block_bias = self._shifted[first:last].to(torch.bfloat16)
        norm, lost = weights.norms[first:last] + UNSEEN, weights.residual_norms[first:last] + UNSEEN
        sums = 2 * weights.rows.shape[1] * 2**-23
        size = self._shifted[first:last].abs()
        bounds = torch.stack([norm, lost + sums * norm, torch.where(size.isfinite(), size, 0) * 2**-8])
        self._group_bounds = bounds.view(3, -1, group).amax(2) * (1 + 2**-6)

    def scores(self, start: int, stop: int) -> Tensor:
        return self._buffers.product(self._block_bias, self._coarse[start:stop], self._block)

    def margin(self, start: int, stop: int, maxima: Tensor) -> Tensor:
        return torch.addmm(maxima.abs(), self._x_norms[start:stop], self._group_bounds, beta=2**-8)

    def take_exact(self, first: int, last: int) -> Iterator[Weights]:
        narrow = self._weights.rows.dtype != torch.float32
        step = chunk_features(self._weights) if narrow else last - first
        for lowest in range(first, last, step):
            yield Weights(lowest, self._exact_weights[lowest : min(last, lowest + step)])

    def evaluate(self, block: slice, rows: Tensor, features: Tensor, values: Tensor, weights: Weights) -> None:
        """Products of the weights as they are, summed in float32, of the entries alone."""
        here = (features >= weights.first) & (features < weights.first + len(weights.rows))
        chosen = features[here]
        dots = sampled_product(self._x[block], weights.rows, rows[here], chosen - weights.first)
        values[here] = dots.add_(self._bias[chosen])


def sampled_product(x: Tensor, W_rows: Tensor, rows: Tensor, features: Tensor) -> Tensor:
    """`x[rows] · W_rows[features]` of each entry, entries ascending by row. Reads the rows of W in place."""
    pointer = row_pointer(torch.bincount(rows, minlength=len(x)))
    _silence_beta_warning()
    pattern = torch.sparse_csr_tensor(
        pointer, features, x.new_zeros(len(features)), (len(x), len(W_rows)), check_invariants=False
    )
    return torch.sparse.sampled_addmm(pattern, x, W_rows.T, beta=0.0).values()


@cache
def _silence_beta_warning() -> None:
    """Let torch say once, unheard, that its CSR layout is beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.empty(0, dtype=torch.int64), torch.empty(0), (1, 1))


def screening_pays(W_enc: Prepared, n: int) -> bool:
    """Whether a call with n tokens is faster by screening, here."""
    if MODE == "never" or W_enc.wide != torch.float32 or W_enc.device.type != "cpu" or not has_fast_bfloat16():
        return False
    return n >= (MIN_TOKENS_KEPT if keeps_copy(W_enc) else MIN_TOKENS_MADE) and bool(W_enc.norms.max() < LARGEST_NORM)


def keeps_copy(W_enc: Prepared) -> bool:
    """Whether a bfloat16 form of the weights stays in memory: they have it, or it is small."""
    return W_enc.rows.dtype == torch.bfloat16 or W_enc.rows.numel() * 2 <= KEPT_BYTES


def has_fast_bfloat16() -> bool:
    """Whether PyTorch multiplies bfloat16 matrices by AVX512-BF16 or AMX instructions, with float32 sums."""
    features = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    supported = any(getattr(torch.cpu, name, lambda: False)() for name in features)
    return supported and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
