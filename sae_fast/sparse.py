"""`SparseActs`, the one sparse type: feature activations of `n` tokens as compressed sparse rows (CSR)."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import EllipsisType

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, ShapeError


@dataclass(frozen=True, eq=False)
class SparseActs:
    """Feature activations of `n` tokens, one row per token.

    Row `r` holds the entries `crow_indices[r]:crow_indices[r + 1]` of `col_indices` and `values`, ascending by feature. What
    is not stored is zero; a stored value may be zero or negative. Lengths and dtypes are checked at construction
    (`ShapeError`), the order within rows is not.
    """

    crow_indices: Tensor
    """int64 [n + 1], row pointer."""
    col_indices: Tensor
    """int32 [nnz], feature index."""
    values: Tensor
    """floating [nnz], activation."""
    shape: tuple[int, int]
    """(n, d_sae)."""
    leading: tuple[int, ...] = (-1,)
    """Leading dimensions of the input, whose product is n; `(n,)` if not given. `to_dense` restores them."""
    mean: Tensor | None = None
    """[n, 1], what the input's normalisation subtracted from each token, or None."""
    scale: Tensor | None = None
    """[n, 1], what a normalised reconstruction is multiplied by to return to the input's units, or None."""
    entries_per_row: int | None = field(default=None, repr=False)
    """The length of every row where it is known to be the same (TopK); spares `topk_view` a look at the device."""

    def __post_init__(self) -> None:
        n = self.shape[0]
        if self.leading == (-1,):
            object.__setattr__(self, "leading", (n,))
        _require(self.crow_indices, "crow_indices", torch.int64, (n + 1,))
        _require(self.col_indices, "col_indices", torch.int32, (self.values.numel(),))
        if not self.values.is_floating_point() or self.values.ndim != 1:
            got = f"{list(self.values.shape)} {self.values.dtype}"
            raise ShapeError("values", expected="a floating tensor of one dimension", got=got)
        if math.prod(self.leading) != n:
            raise ShapeError("leading", expected=f"dimensions whose product is {n}", got=self.leading)
        for name in ("mean", "scale"):
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != (n, 1):
                raise ShapeError(name, expected=[n, 1], got=list(tensor.shape))

    @classmethod
    def from_dense(cls, x: Tensor) -> "SparseActs":
        """The non-zero entries of `x` [..., d_sae]."""
        flat = x.reshape(-1, x.shape[-1])
        mask = flat != 0
        rows_and_cols = mask.nonzero()
        return cls(
            crow_indices=row_pointer(mask.sum(1)),
            col_indices=rows_and_cols[:, 1].to(torch.int32),
            values=flat[mask],
            shape=(flat.shape[0], flat.shape[1]),
            leading=tuple(x.shape[:-1]),
        )

    @classmethod
    def from_topk(cls, indices: Tensor, values: Tensor, d_sae: int) -> "SparseActs":
        """From k entries per token: `indices` integer [..., k], distinct within a token, in any order; `values` [..., k]."""
        if indices.shape != values.shape or indices.ndim < 1:
            raise ShapeError("indices and values", expected="equal shapes [..., k]", got=[indices.shape, values.shape])
        k, leading = indices.shape[-1], tuple(indices.shape[:-1])
        n = math.prod(leading)
        indices, order = indices.reshape(n, k).sort(dim=1)
        return cls(
            crow_indices=torch.arange(n + 1, device=indices.device) * k,
            col_indices=indices.to(torch.int32).reshape(-1),
            values=values.reshape(n, k).gather(1, order).reshape(-1),
            shape=(n, d_sae),
            leading=leading,
            entries_per_row=k,
        )

    @classmethod
    def cat(cls, parts: Sequence["SparseActs"]) -> "SparseActs":
        """Join along the first leading dimension, like `torch.cat`; the others must agree (`flatten()` them otherwise)."""
        if not parts:
            raise ArgumentError("SparseActs.cat needs at least one part")
        first = parts[0]
        for part in parts:
            if part.shape[1] != first.shape[1]:
                raise ShapeError("d_sae of the parts", expected=first.shape[1], got=part.shape[1])
            if part.leading[1:] != first.leading[1:]:
                raise ShapeError(
                    "leading dimensions after the first", expected=first.leading[1:], got=part.leading[1:],
                    advice="Call flatten() on the parts",
                )  # fmt: skip
            if (part.mean is None, part.scale is None) != (first.mean is None, first.scale is None):
                raise ArgumentError("SparseActs.cat: some parts carry mean or scale and others do not")
        ends = torch.tensor([0] + [part.nnz for part in parts]).cumsum(0).tolist()
        pointers = [first.crow_indices[:1], *(part.crow_indices[1:] + end for part, end in zip(parts, ends, strict=False))]
        lengths = {part.entries_per_row for part in parts}
        return cls(
            crow_indices=torch.cat(pointers),
            col_indices=torch.cat([part.col_indices for part in parts]),
            values=torch.cat([part.values for part in parts]),
            shape=(sum(part.shape[0] for part in parts), first.shape[1]),
            leading=(sum(part.leading[0] for part in parts), *first.leading[1:]),
            mean=None if first.mean is None else torch.cat([part.mean for part in parts]),  # type: ignore[misc]
            scale=None if first.scale is None else torch.cat([part.scale for part in parts]),  # type: ignore[misc]
            entries_per_row=lengths.pop() if len(lengths) == 1 else None,
        )

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return self.values.numel()

    @property
    def l0(self) -> float:
        """Mean number of non-zero values per token; stored zeros do not count."""
        return int(torch.count_nonzero(self.values)) / self.shape[0] if self.shape[0] else 0.0

    def row_indices(self) -> Tensor:
        """The row of each stored entry, int64 [nnz]."""
        rows = torch.arange(self.shape[0], device=self.values.device)
        return rows.repeat_interleave(self.crow_indices.diff(), output_size=self.nnz)

    def to_dense(self) -> Tensor:
        """[*leading, d_sae], zero where nothing is stored."""
        dense = self.values.new_zeros(self.shape)
        dense = dense.index_put((self.row_indices(), self.col_indices.long()), self.values)
        return dense.reshape(*self.leading, self.shape[1])

    def __getitem__(self, key: tuple[EllipsisType, int]) -> Tensor:
        """`acts[..., i]`: the activations of feature `i`, [*leading]."""
        if not (isinstance(key, tuple) and len(key) == 2 and key[0] is Ellipsis and isinstance(key[1], int)):
            raise TypeError("SparseActs supports acts[..., i] with an integer i; see also features([i, j]) and rows(mask)")
        return self.features([key[1]])[..., 0]

    def features(self, features: Sequence[int] | Tensor) -> Tensor:
        """Dense columns of the named features: [*leading, len(features)], in that order."""
        wanted = torch.as_tensor(features, dtype=torch.int64, device=self.values.device)
        if wanted.ndim != 1:
            raise ShapeError("features", expected="a list of feature indices", got=list(wanted.shape))
        if wanted.numel() and (int(wanted.min()) < 0 or int(wanted.max()) >= self.shape[1]):
            raise IndexError(f"feature index out of range: expected 0 to {self.shape[1] - 1}, got {wanted.tolist()}")
        distinct, place = wanted.unique(return_inverse=True)
        column = torch.full((self.shape[1],), -1, dtype=torch.int64, device=wanted.device)
        column[distinct] = torch.arange(distinct.numel(), device=wanted.device)
        column_of_entry = column[self.col_indices.long()]
        here = column_of_entry >= 0
        dense = self.values.new_zeros(self.shape[0], distinct.numel())
        dense = dense.index_put((self.row_indices()[here], column_of_entry[here]), self.values[here])
        return dense[:, place].reshape(*self.leading, wanted.numel())

    def rows(self, which: Tensor | slice) -> "SparseActs":
        """The tokens where a boolean mask ([*leading] or [n]) is true, or a slice of the n tokens; `leading` becomes one."""
        n = self.shape[0]
        device = self.values.device
        if isinstance(which, slice):
            start, stop, step = which.indices(n)
            if step == 1:
                return self._row_range(start, max(start, stop))
            chosen = start + step * torch.arange(len(range(start, stop, step)), device=device)
        elif which.dtype == torch.bool and tuple(which.shape) in {(n,), self.leading}:
            chosen = which.reshape(-1).to(device).nonzero()[:, 0]
        else:
            got = f"{list(which.shape)} {which.dtype}"
            raise ShapeError("rows", expected=f"a slice or a boolean mask {list(self.leading)}", got=got)
        lengths = self.crow_indices.diff()[chosen]
        pointer = row_pointer(lengths)
        shift = (self.crow_indices[chosen] - pointer[:-1]).repeat_interleave(lengths)
        entries = torch.arange(shift.numel(), device=device) + shift
        return self._with_rows(pointer, entries, chosen)

    def kept(self, chosen: Tensor) -> "SparseActs":
        """The chosen entries (bool [nnz]) of the same tokens, in the same shape."""
        pointer = torch.nn.functional.pad(chosen.cumsum(0), (1, 0))[self.crow_indices]
        return replace(
            self,
            crow_indices=pointer,
            col_indices=self.col_indices[chosen],
            values=self.values[chosen],
            entries_per_row=None,
        )

    def in_features(self, first: int, last: int) -> "SparseActs":
        """The entries of the features from `first` to before `last`, of the same tokens and in the same shape."""
        return self.kept((self.col_indices >= first) & (self.col_indices < last))

    def flatten(self) -> "SparseActs":
        """The same activations with one leading dimension, `(n,)`."""
        return replace(self, leading=(self.shape[0],))

    def topk_view(self) -> tuple[Tensor, Tensor]:
        """(feature indices int32 [n, k], values [n, k]) without a copy, where all rows have the same length k.

        Raises `ShapeError` otherwise.
        """
        n = self.shape[0]
        k = self.entries_per_row
        if k is None:
            k = self.nnz // n if n else 0
            if not torch.equal(self.crow_indices, torch.arange(n + 1, device=self.crow_indices.device) * k):
                raise ShapeError("topk_view", expected="rows of equal length", got="rows of different lengths")
        return self.col_indices.view(n, k), self.values.view(n, k)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "SparseActs":
        """On another device, or with `values` in another dtype; indices, mean and scale keep theirs."""
        return replace(
            self,
            crow_indices=self.crow_indices.to(device),
            col_indices=self.col_indices.to(device),
            values=self.values.to(device=device, dtype=dtype),
            mean=None if self.mean is None else self.mean.to(device),
            scale=None if self.scale is None else self.scale.to(device),
        )

    def to_torch(self) -> Tensor:
        """A `torch.sparse_csr` tensor [n, d_sae] with int64 indices."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            columns = self.col_indices.long()
            return torch.sparse_csr_tensor(self.crow_indices, columns, self.values, self.shape, check_invariants=False)

    def _row_range(self, start: int, stop: int) -> "SparseActs":
        pointer = self.crow_indices[start : stop + 1]
        entries = slice(int(pointer[0]), int(pointer[-1]))
        return self._with_rows(pointer - pointer[0], entries, slice(start, stop))

    def _with_rows(self, pointer: Tensor, entries: Tensor | slice, tokens: Tensor | slice) -> "SparseActs":
        n = pointer.numel() - 1
        return replace(
            self,
            crow_indices=pointer,
            col_indices=self.col_indices[entries],
            values=self.values[entries],
            shape=(n, self.shape[1]),
            leading=(n,),
            mean=None if self.mean is None else self.mean[tokens],
            scale=None if self.scale is None else self.scale[tokens],
        )


@dataclass(frozen=True, eq=False)
class FeatureMajor:
    """The entries of a `SparseActs` ordered by feature, then by row (CSC)."""

    feature_ptr: Tensor
    """int64 [d_sae + 1]: feature `f` holds the entries `feature_ptr[f]:feature_ptr[f + 1]`."""
    rows: Tensor
    """int64 [nnz], ascending within a feature."""
    values: Tensor
    """floating [nnz]."""
    shape: tuple[int, int]
    """(n, d_sae), as in the `SparseActs` it came from."""

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return self.values.numel()

    def feature(self, feature: int) -> tuple[Tensor, Tensor]:
        """(rows, values) of one feature."""
        start, stop = self.feature_ptr[feature : feature + 2].tolist()
        return self.rows[start:stop], self.values[start:stop]


def row_pointer(lengths: Tensor) -> Tensor:
    """int64 [n + 1] from the number of entries of each row [n]."""
    pointer = torch.zeros(lengths.numel() + 1, dtype=torch.int64, device=lengths.device)
    torch.cumsum(lengths, 0, out=pointer[1:])
    return pointer


def _require(tensor: Tensor, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise ShapeError(name, expected=f"{list(shape)} {dtype}", got=f"{list(tensor.shape)} {tensor.dtype}")
