"""How rows of activations lie in a file: bfloat16, float16 or float32 as they are, int8 with a scale to each row."""

from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_fast.errors import ArgumentError, NonFiniteError

StoreDtype = Literal["bfloat16", "float16", "float32", "int8"]
"""int8 keeps 127 levels to each side of zero, scaled by the largest magnitude of the row."""

_TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_NUMPY: dict[str, type[np.generic]] = {"bfloat16": np.uint16, "float16": np.float16, "float32": np.float32}
SCALE_BYTES = 4


def row_bytes(d: int, dtype: StoreDtype) -> int:
    """Bytes of one row of `d` values on disk."""
    return d + SCALE_BYTES if dtype == "int8" else d * _TORCH[dtype].itemsize


def file_dtype(d: int, dtype: StoreDtype) -> np.dtype:
    """The NumPy dtype of one row in a file."""
    if dtype == "int8":
        return np.dtype([("scale", "<f4"), ("values", "i1", (d,))])
    return np.dtype((_NUMPY[dtype], (d,)))


def check_dtype(dtype: str) -> None:
    """Raise `ArgumentError` unless `dtype` is one of `StoreDtype`."""
    if dtype not in get_args(StoreDtype):
        raise ArgumentError("dtype of stored activations", expected=" or ".join(get_args(StoreDtype)), got=repr(dtype))


def packed(x: Tensor, dtype: StoreDtype) -> NDArray[Any]:
    """`x` [n, d] as rows of a file.

    Raises `NonFiniteError` where a value does not fit: float16 ends at 65504, and some models have larger activations.
    """
    x = x.detach().to("cpu")
    if dtype == "int8":
        x = x.float()
        scale = (x.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        rows = np.empty(len(x), file_dtype(x.shape[1], dtype))
        rows["scale"], rows["values"] = scale.numpy(), (x / scale[:, None]).round().to(torch.int8).numpy()
        return rows
    narrow = x.to(_TORCH[dtype])
    if not bool(torch.isfinite(narrow).all()):
        raise NonFiniteError(
            f"activations up to {float(x.abs().max()):.3g} do not fit {dtype}", advice="Store them as bfloat16"
        )
    return (narrow.view(torch.int16) if dtype == "bfloat16" else narrow).contiguous().numpy().view(_NUMPY[dtype])


def unpacked(rows: NDArray[Any], dtype: StoreDtype) -> Tensor:
    """Rows of a file as [n, d]: float32 for int8, else in the stored dtype."""
    if dtype == "int8":
        return torch.from_numpy(rows["values"].astype(np.float32)) * torch.from_numpy(rows["scale"].copy())[:, None]
    values = torch.from_numpy(np.ascontiguousarray(rows.view(np.int16) if dtype == "bfloat16" else rows))
    return values.view(torch.bfloat16) if dtype == "bfloat16" else values
