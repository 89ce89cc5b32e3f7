"""What formats of crosscoders share: a decoder and an encoder a hook (or a model) become one each, side by side."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sae_fast.errors import FormatError
from sae_fast.formats._description import Tensors
from sae_fast.formats._places import MOST_LAYERS
from sae_fast.sources import TensorFile


def flattened(tensor: Tensor) -> Tensor:
    """[n, d, d_sae] as [n · d, d_sae], or [n, d] as [n · d]."""
    return tensor.flatten(0, 1)


def rows_joined(tensor: Tensor) -> Tensor:
    """[d_sae, n, d] as [d_sae, n · d]."""
    return tensor.flatten(1)


def layers_joined(tensor: Tensor) -> Tensor:
    """[n, d_sae, d] as [d_sae, n · d]."""
    return tensor.movedim(0, 1).flatten(1)


def sizes(file: TensorFile, key: str) -> tuple[int, int, int]:
    """(hooks or models, width of each, features) by an encoder [n, d, d_sae]. Raises `FormatError` for any other."""
    shape = file.shapes.get(key, ())
    if len(shape) != 3 or not 2 <= shape[0] <= MOST_LAYERS:
        got = list(shape) or f"none among {', '.join(sorted(file.shapes)[:12])}"
        raise FormatError(f"{file.place}: {key}", expected="[n, d, d_sae] with an encoder for each of two or more", got=got)
    return shape[0], shape[1], shape[2]


def places(hooks: int, models: Sequence[str], hook: str | None) -> dict[str, Any]:
    """Metadata of a crosscoder of one hook of several models; empty where the models are not known."""
    if len(models) != hooks:
        return {}
    return {"models": list(models)} | ({"hook_name": hook} if hook else {})


def norms_by_part(W_dec: Tensor, n: int) -> Tensor:
    """Norm of each feature's row at each hook, [d_sae, n] in float32 or wider, of a decoder [d_sae, n · d]."""
    wide = torch.promote_types(W_dec.dtype, torch.float32)
    return torch.linalg.vector_norm(W_dec.unflatten(1, (n, -1)), dim=2, dtype=wide)


def scaled(tensors: Tensors, factors: Sequence[float], d: int) -> Tensors:
    """The same for inputs that are not yet multiplied by the factor of their hook."""
    wide = torch.promote_types(tensors["W_enc"].dtype, torch.float32)
    factor = torch.tensor(factors, dtype=wide, device=tensors["W_enc"].device).repeat_interleave(d)
    changed = {
        "W_enc": (tensors["W_enc"].to(wide) * factor[:, None]).to(tensors["W_enc"].dtype),
        "b_dec": tensors["b_dec"].to(wide) / factor,
    }
    if "W_dec" in tensors:
        changed["W_dec"] = (tensors["W_dec"].to(wide) / factor).to(tensors["W_dec"].dtype)
    return tensors | changed
