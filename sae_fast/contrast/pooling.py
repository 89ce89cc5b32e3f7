"""Token activations to one value per text and feature, sparse all the way."""

from typing import Literal, get_args

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.sparse import SparseActs, row_pointer

Pooling = Literal["mean", "max", "frequency"]


def pool(acts: SparseActs, text: Tensor, n_texts: int, how: Pooling = "mean") -> SparseActs:
    """Pooled activations `[n_texts, d_sae]`, float64; zero where a feature is active on none of a text's tokens.

    Args:
        acts: activations of `n` tokens.
        text: int64 `[n]`, the text of each token, from 0 to `n_texts - 1`.
        n_texts: number of texts.
        how: `mean` over the text's tokens, zeros included; `max`, the value of largest magnitude, sign kept; or `frequency`,
            the share of the text's tokens with a value other than 0.

    Raises:
        ShapeError: `text` is not as described.
        ArgumentError: `how` is none of the three.
    """
    if how not in get_args(Pooling):
        raise ArgumentError("pool", expected=f"one of {', '.join(get_args(Pooling))}", got=repr(how))
    n, d_sae = acts.shape
    if text.dtype != torch.int64 or tuple(text.shape) != (n,):
        raise ShapeError("text", expected=f"int64 [{n}]", got=f"{text.dtype} {list(text.shape)}")
    if n and not (int(text.min()) >= 0 and int(text.max()) < n_texts):
        raise ShapeError("text", expected=f"0 to {n_texts - 1}", got=f"{int(text.min())} to {int(text.max())}")
    active = acts.values != 0
    key = text[acts.row_indices()[active]] * d_sae + acts.col_indices[active]
    values = acts.values[active].double()
    cells, cell = key.unique(return_inverse=True)
    pooled = torch.zeros(cells.numel(), dtype=torch.float64, device=values.device)
    if how == "max":
        top = pooled.scatter_reduce(0, cell, values, "amax", include_self=False)
        bottom = pooled.scatter_reduce(0, cell, values, "amin", include_self=False)
        pooled = torch.where(-bottom > top, bottom, top)
    else:
        summed = pooled.scatter_add(0, cell, torch.ones_like(values) if how == "frequency" else values)
        pooled = summed / text.bincount(minlength=n_texts)[cells // d_sae]
    return SparseActs(
        crow_indices=row_pointer((cells // d_sae).bincount(minlength=n_texts)),
        col_indices=(cells % d_sae).to(torch.int32),
        values=pooled,
        shape=(n_texts, d_sae),
    )
