"""Pooled values against a loop over texts and features."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_fast.contrast import pool
from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.sparse import SparseActs


def by_hand(dense: torch.Tensor, text: torch.Tensor, n_texts: int, how: str) -> torch.Tensor:
    """The definition, a text at a time."""
    pooled = torch.zeros(n_texts, dense.shape[1], dtype=torch.float64)
    for i in range(n_texts):
        rows = dense[text == i].double()
        if len(rows) == 0:
            continue
        if how == "mean":
            pooled[i] = rows.mean(0)
        elif how == "frequency":
            pooled[i] = (rows != 0).double().mean(0)
        else:
            pooled[i] = torch.where(-rows.amin(0) > rows.amax(0), rows.amin(0), rows.amax(0))
    return pooled


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 30),
    d_sae=st.integers(1, 12),
    n_texts=st.integers(1, 6),
    how=st.sampled_from(["mean", "max", "frequency"]),
)
def test_pooling_equals_its_definition(seed: int, n: int, d_sae: int, n_texts: int, how: str) -> None:
    """Eighths pool exactly: negative values, stored zeros, and texts without a token included."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randint(-8, 9, (n, d_sae), generator=generator) / 8 * (torch.rand(n, d_sae, generator=generator) < 0.5)
    text = torch.randint(0, n_texts, (n,), generator=generator)
    acts = SparseActs.from_dense(dense)
    with_zeros = SparseActs.from_topk(torch.arange(d_sae).expand(n, d_sae), dense, d_sae)  # every zero is stored

    expected = by_hand(dense, text, n_texts, how)
    for form in (acts, with_zeros):
        pooled = pool(form, text, n_texts, how)  # type: ignore[arg-type]
        torch.testing.assert_close(pooled.to_dense(), expected, rtol=1e-15, atol=0)
        assert bool((pooled.values != 0).all()) or how == "mean"


def test_wrong_arguments_are_refused() -> None:
    """A text index out of range, of another length, or an unknown way of pooling is an error."""
    acts = SparseActs.from_dense(torch.eye(3))

    with pytest.raises(ShapeError, match="expected 0 to 1, got 0 to 2"):
        pool(acts, torch.arange(3), 2)
    with pytest.raises(ShapeError, match=r"expected int64 \[3\]"):
        pool(acts, torch.arange(2), 2)
    with pytest.raises(ArgumentError, match="expected one of mean, max, frequency"):
        pool(acts, torch.arange(3), 3, "median")  # type: ignore[arg-type]
