"""Inputs and tolerances that tests and benchmarks share, so that the two cannot diverge."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_fast.sparse import SparseActs


@dataclass(frozen=True)
class Inputs:
    """Operands of every operation, of one size."""

    x: Tensor
    """[n, d_in]."""
    W_enc: Tensor
    """[d_in, d_sae]."""
    b_enc: Tensor
    """[d_sae], float32 or wider."""
    threshold: Tensor
    """[d_sae], not negative."""
    gain: Tensor
    """[d_sae], positive."""
    offset: Tensor
    """[d_sae]."""
    W_dec: Tensor
    """[d_sae, d_in]."""
    b_dec: Tensor
    """[d_in]."""


@dataclass(frozen=True)
class Case:
    """A size and a kind of input.

    Inputs are small integers and eighths: every product and sum is exact in float32, in any order, so that two right
    implementations give equal features and equal values, ties included. `normal` inputs are rounded by each in its own way.
    """

    name: str
    n: int
    d_in: int
    d_sae: int
    k: int
    kind: str = "integer"
    """integer, normal, tied (all features alike), negative (no feature fires), or strided (no operand contiguous)."""
    dtype: torch.dtype = torch.float32
    """dtype of x, W_enc and W_dec."""

    def __str__(self) -> str:
        return self.name

    def inputs(self, seed: int = 0) -> Inputs:
        """The operands; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int, unit: float = 1.0) -> Tensor:
            if self.kind == "normal":
                return torch.randn(shape, generator=generator) * unit
            return torch.randint(-3, 4, shape, generator=generator).float() * unit

        x, W_enc, b_enc = draw(self.n, self.d_in), draw(self.d_in, self.d_sae), draw(self.d_sae)
        if self.kind == "tied":
            W_enc, b_enc = W_enc[:, :1].expand(-1, self.d_sae).contiguous(), b_enc[:1].expand(self.d_sae).contiguous()
        if self.kind == "negative":
            b_enc = b_enc - 16 * (self.d_in + 1)
        W_dec = draw(self.d_sae, self.d_in)
        if self.kind == "strided":
            x, W_enc, W_dec = _strided(x), _strided(W_enc), _strided(W_dec)
        return Inputs(
            x=x.to(self.dtype),
            W_enc=W_enc.to(self.dtype),
            b_enc=b_enc,
            threshold=draw(self.d_sae, unit=2).abs(),
            gain=draw(self.d_sae, unit=0.125) + 0.5,
            offset=draw(self.d_sae),
            W_dec=W_dec.to(self.dtype),
            b_dec=draw(self.d_in),
        )


CASES = (
    Case("prime-sizes", n=31, d_in=17, d_sae=101, k=7),
    Case("one-token", n=1, d_in=5, d_sae=13, k=3),
    Case("no-token", n=0, d_in=5, d_sae=13, k=3),
    Case("k-1", n=11, d_in=7, d_sae=37, k=1),
    Case("k-is-d_sae", n=11, d_in=7, d_sae=37, k=37),
    Case("one-feature", n=11, d_in=7, d_sae=1, k=1),
    Case("all-tied", n=11, d_in=7, d_sae=37, k=5, kind="tied"),
    Case("none-active", n=11, d_in=7, d_sae=37, k=5, kind="negative"),
    Case("not-contiguous", n=11, d_in=7, d_sae=37, k=5, kind="strided"),
    Case("bfloat16", n=31, d_in=17, d_sae=101, k=7, dtype=torch.bfloat16),
    Case("float16", n=31, d_in=17, d_sae=101, k=7, dtype=torch.float16),
    Case("float64", n=31, d_in=17, d_sae=101, k=7, dtype=torch.float64),
)
"""Awkward sizes with exact arithmetic: results must be equal."""

ROUNDED_CASES = (
    Case("normal", n=67, d_in=61, d_sae=257, k=9, kind="normal"),
    Case("normal-bfloat16", n=67, d_in=61, d_sae=257, k=9, kind="normal", dtype=torch.bfloat16),
    Case("normal-float16", n=67, d_in=61, d_sae=257, k=9, kind="normal", dtype=torch.float16),
)
"""Inputs whose products are rounded: results are compared with `assert_as_accurate`."""

BENCHMARK_CASES = (
    Case("demo", n=4096, d_in=256, d_sae=4096, k=32, kind="normal"),
    Case("gpt2-small", n=1024, d_in=768, d_sae=24576, k=32, kind="normal"),
)
"""Sizes of real SAEs, for a CPU: that of the demo, and of the published ones of GPT-2 small."""


def assert_well_formed(acts: SparseActs) -> None:
    """Row pointers ascend and end at nnz; features ascend strictly within a row and lie below d_sae."""
    pointer = acts.crow_indices
    assert int(pointer[0]) == 0
    assert int(pointer[-1]) == acts.nnz
    assert bool((pointer.diff() >= 0).all())
    if acts.nnz:
        assert int(acts.col_indices.min()) >= 0
        assert int(acts.col_indices.max()) < acts.shape[1]
    place = acts.row_indices() * acts.shape[1] + acts.col_indices
    assert bool((place.diff() > 0).all()), "features do not ascend within a row"


def assert_same_acts(got: SparseActs, expected: SparseActs) -> None:
    """Equal shapes, stored features and values."""
    assert_well_formed(got)
    assert got.shape == expected.shape
    assert got.leading == expected.leading
    assert torch.equal(got.crow_indices, expected.crow_indices)
    assert torch.equal(got.col_indices, expected.col_indices)
    assert got.values.dtype == expected.values.dtype
    assert torch.equal(got.values, expected.values)


def assert_as_accurate(got: Tensor, plain: Tensor, exact: Tensor) -> None:
    """The largest error of `got` is at most that of `plain` (PyTorch in the same dtype) and one rounding step of the results.

    `exact` is the float64 result for the same operands.
    """
    assert got.shape == exact.shape
    rounding = float(exact.abs().max()) * torch.finfo(plain.dtype).eps if exact.numel() else 0.0
    error, allowed = _largest_difference(got, exact), _largest_difference(plain, exact) + rounding
    assert error <= allowed, f"error {error:.3g} exceeds that of plain PyTorch and one rounding step, {allowed:.3g}"


def _largest_difference(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0


def _strided(matrix: Tensor) -> Tensor:
    """The same values, every second column of a transposed and wider tensor."""
    wide = torch.full((2 * matrix.shape[1], matrix.shape[0]), float("nan"))
    wide[::2] = matrix.T
    return wide[::2].T
