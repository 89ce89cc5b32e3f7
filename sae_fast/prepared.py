"""`Prepared`: a weight matrix in the one form that every implementation reads, one contiguous row to a feature."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from weakref import WeakValueDictionary

import torch
from torch import Tensor

ROWS_AT_ONCE = 1024
"""How many rows are widened at a time to derive something from them."""

Side = Literal["encoder", "decoder"]
"""Whose weights they are."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """W_enc or W_dec, laid out once for many calls. Made by `sae_fast.ops.prepare_encoder` and `prepare_decoder`.

    What is derived from the rows is computed when an implementation first needs it, and kept.
    """

    rows: Tensor
    """[d_sae, d], contiguous: `W_enc.T` or `W_dec`. In the dtype of the weights as given, never widened."""
    side: Side
    """Whose weights these are."""
    input_dtype: torch.dtype
    """What inputs are rounded to before they are multiplied; the dtype of the weights as published."""

    def __post_init__(self) -> None:
        if _lies_in_memory(self.rows):
            _by_place[_place(self.rows, self.side)] = self

    @property
    def shape(self) -> tuple[int, int]:
        """(d_in, d_sae) of an encoder, (d_sae, d_out) of a decoder."""
        d_sae, d = self.rows.shape
        return (d, d_sae) if self.side == "encoder" else (d_sae, d)

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.rows.shape[0]

    @property
    def matrix(self) -> Tensor:
        """The weights in their published orientation: a view, [d_in, d_sae] or [d_sae, d_out]."""
        return self.rows.T if self.side == "encoder" else self.rows

    @property
    def wide(self) -> torch.dtype:
        """Dtype of products, sums and results: float32, or float64 beside float64 weights."""
        return torch.promote_types(self.rows.dtype, torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.rows.device

    @cached_property
    def screen(self) -> Tensor:
        """The rows in bfloat16, [d_sae, d], for screening wider weights on matrix units; the rows themselves if they are.

        Of float32 weights this is a copy of half their size, which stays as long as they do.
        """
        return self.rows.to(torch.bfloat16)

    @cached_property
    def norms(self) -> Tensor:
        """Euclidean norm of each row, float32 [d_sae]."""
        return self._by_row(lambda rows: torch.linalg.vector_norm(rows, dim=1))

    @cached_property
    def residual_norms(self) -> Tensor:
        """Euclidean norm of what each row loses in bfloat16, float32 [d_sae]."""
        return self._by_row(lambda rows: torch.linalg.vector_norm(rows.sub_(rows.to(torch.bfloat16)), dim=1))

    def _by_row(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """`function` of some rows at a time, widened into one buffer: float32 [d_sae]."""
        result = torch.empty(self.d_sae, device=self.device)
        buffer = torch.empty(min(self.d_sae, ROWS_AT_ONCE), self.rows.shape[1], dtype=self.wide, device=self.device)
        for start in range(0, self.d_sae, ROWS_AT_ONCE):
            rows = self.rows[start : start + ROWS_AT_ONCE]
            result[start : start + ROWS_AT_ONCE] = function(buffer[: len(rows)].copy_(rows))
        return result


_by_place: WeakValueDictionary[tuple[object, ...], Prepared] = WeakValueDictionary()


def prepared_from(rows: Tensor, side: Side) -> Prepared:
    """The living `Prepared` of these rows, with all that was derived; a new one where there is none, or rows were changed."""
    found = _by_place.get(_place(rows, side)) if _lies_in_memory(rows) else None
    return found or Prepared(rows, side, rows.dtype)


def _place(rows: Tensor, side: Side) -> tuple[object, ...]:
    # A living `Prepared` keeps its memory, so that no other weights can come to lie there.
    version = 0 if rows.is_inference() else rows._version
    return rows.data_ptr(), rows.shape, rows.dtype, rows.device, version, side


def _lies_in_memory(rows: Tensor) -> bool:
    """Not while torch traces, whose tensors hold nothing."""
    return not torch.compiler.is_compiling() and type(rows) in (Tensor, torch.nn.Parameter) and not rows.is_meta
