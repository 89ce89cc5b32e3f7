"""Checks a result before its time counts. The specification is float64 on the first tokens."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders import Contender
from benchmarks.operands import Operands
from sae_fast import ops
from sae_fast.sparse import SparseActs

CHECKED = 64
"""Tokens that are compared."""

TOLERANCE = {"fp32": 2e-5, "tf32": 1e-2, "bf16": 2e-2}
"""Error allowed to a contender, and width of the band around the border of a selection, relative to the token's largest |h|."""

EXACT = {"fp32": 2e-5, "tf32": 2e-5, "bf16": 2e-5}
"""The same for sae_fast: it sums bfloat16 products in float32 and returns float32."""


class WrongResultError(AssertionError):
    """A contender computed something else."""


@dataclass(frozen=True)
class Check:
    """What was found."""

    error: float
    """Largest difference relative to the token's largest |h| (encoders), or to the largest exact number."""
    mismatches: int
    """Entries outside the band that were chosen wrongly."""
    recall: float | None = None
    """Share of the exact top k that is there."""


def check(contender: Contender, result: Any, o: Operands) -> Check | None:
    """Compare `result` of the first input; `WrongResultError` beyond the tolerance, None where nothing can be said."""
    tolerance = (EXACT if contender.name.startswith("sae_fast") else TOLERANCE)[o.precision]
    with torch.no_grad():
        if contender.gives == "nothing":
            return None
        if contender.gives in {"acts", "dense", "topk"}:
            found = _check_encoder(contender, result, o, tolerance)
        elif contender.gives == "entries":
            found = _check_entries(result, o)
        else:
            found = _check_decoder(contender, result, o)
    wrong = found.mismatches and not contender.approximate
    if wrong or not found.error <= tolerance:
        raise WrongResultError(f"{contender.operation}, {contender.name}, {o.precision}: {found}")
    return found


def _check_encoder(contender: Contender, result: Any, o: Operands, tolerance: float) -> Check:
    x = o.x[0][:CHECKED]
    finite = x.isfinite().all(1)
    h = torch.cat([x[finite].double() @ part.double().T for part in o.rows.split(8192)], 1) + o.b_enc
    acts = _first_rows(result, o, len(x))[finite].double()
    scale = h.abs().amax(1, keepdim=True).clamp_min(1e-30)
    if contender.operation == "encode_topk":
        ranked = h.topk(min(o.size.k + 1, h.shape[1])).values
        border = ranked[:, -2:].mean(1, keepdim=True).clamp_min(0)
    else:
        border = o.threshold
    chosen, band = h > border, (h - border).abs() <= tolerance * scale
    is_there = acts != 0
    error = (((acts - h).abs() / scale)[is_there & chosen]).amax() if bool(is_there.any()) else h.new_zeros(())
    recall = float((is_there & chosen).sum() / chosen.sum()) if contender.operation == "encode_topk" else None
    return Check(float(error), int(((is_there != chosen) & ~band & (h > 0)).sum()), recall)


def _check_decoder(contender: Contender, result: Tensor, o: Operands) -> Check:
    acts = o.acts.rows(slice(0, CHECKED))
    finite = o.x[0][:CHECKED].isfinite().all(1)
    used, place = acts.col_indices.unique(return_inverse=True)
    compact = replace(acts, col_indices=place.int(), values=acts.values.double(), shape=(len(finite), len(used)))
    exact = (compact.to_dense() @ o.W_dec[used.long()].double() + o.b_dec)[finite]
    if contender.gives == "error":
        exact = (o.x[0][:CHECKED][finite].double() - exact).square().sum(1)
    difference = (result[:CHECKED][finite].double() - exact).abs().max()
    return Check(float(difference / exact.abs().max()), 0)


def _check_entries(result: Any, o: Operands) -> Check:
    expected = ops.transpose(o.acts, impl="reference")
    same = torch.equal(result.rows, expected.rows) and torch.equal(result.feature_ptr, expected.feature_ptr)
    return Check(0.0, 0 if same else expected.nnz)


def _first_rows(result: Any, o: Operands, n: int) -> Tensor:
    """Dense activations of the first tokens."""
    if isinstance(result, SparseActs):
        return result.rows(slice(0, n)).to_dense()
    if isinstance(result, tuple):
        values, indices = result[0][:n], result[1][:n]
        return values.new_zeros(n, o.size.d_sae).scatter_(1, indices.long(), values.relu())
    return result[:n]
