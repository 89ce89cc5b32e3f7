"""Sums of what is measured on tokens, kept apart by the cell that a token belongs to; every metric is a function of such sums.

A *grouping* says which row a token belongs to (all tokens, a bucket of positions, a class), and which block of documents it
comes from; a cell is a block of a row. Sums of a row's cells are what an evaluation of its tokens alone would have found, and
weighted sums what it would have found had their documents occurred so often.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from sae_fast.evaluation.metrics import as_double

Cells = Mapping[str, Tensor]
"""int64 [n] by grouping: the cell of each of n tokens, `row * n_blocks + block`."""

_UNDEFINED = float("nan")
_ROUNDING = 2.0**-96
"""Spread below this share of Σ‖y‖² is what float64 leaves of data that do not vary."""
_CANCELLED = 2.0**-40
"""The same as a share of Σ‖y - r‖², for r far from the mean of the tokens: a row of a breakdown, one token drawn many times."""


class Grouping(NamedTuple):
    """How many cells there are."""

    n_rows: int
    n_blocks: int


class Sums:
    """Sums by name, for each cell of each grouping: float64 `[n]` or, of vectors, `[n, d]`, on the CPU; n up to the last row
    that has a token.
    """

    def __init__(self, groupings: Mapping[str, Grouping]) -> None:
        self.groupings = dict(groupings)
        self.of: dict[str, dict[str, Tensor]] = {grouping: {} for grouping in groupings}

    def add(self, cells: Cells, **values: Tensor) -> None:
        """Add tokens: a number `[n]` or a vector `[n, d]` of each, by name."""
        wide = {name: as_double(value) for name, value in values.items()}
        widths = [1 if value.ndim == 1 else value.shape[1] for value in wide.values()]
        columns = torch.cat([value.reshape(len(value), -1) for value in wide.values()], dim=1)
        for grouping, (_, n_blocks) in self.groupings.items():
            present, index = cells[grouping].to(columns.device).unique(return_inverse=True)
            # A product adds in a fixed order, also on a GPU; index_add does not.
            members = torch.zeros(len(present), len(columns), dtype=torch.float64, device=columns.device)
            members[index, torch.arange(len(columns), device=columns.device)] = 1
            totals, present = (members @ columns).cpu(), present.cpu()
            n_cells = n_blocks * (int(present.max()) // n_blocks + 1) if len(present) else 0
            for (name, value), total in zip(wide.items(), totals.split(widths, dim=1), strict=True):
                into = self.of[grouping].get(name, torch.zeros(0, *value.shape[1:], dtype=torch.float64))
                into = _grown(into, n_cells)
                into[present] += total.reshape(len(present), *value.shape[1:])
                self.of[grouping][name] = into

    def merge(self, other: "Sums") -> None:
        """Add the tokens that `other` has seen. Where the two share no cell, no digit is rounded."""
        for grouping, sums in other.of.items():
            for name, value in sums.items():
                mine = self.of[grouping].get(name, value[:0])
                self.of[grouping][name] = _grown(mine, len(value)) + _grown(value, len(mine))

    def scalars(self, grouping: str, weights: Tensor) -> dict[str, Tensor]:
        """Weighted totals `[n_rows, r]` by name, weights `[r, n_blocks]` on the blocks of every row.

        Of a vector `v` the total is replaced by its squared norm, as `v_squared`.
        """
        n_rows, n_blocks = self.groupings[grouping]
        found = {}
        for name, value in self.of[grouping].items():
            by_row = value.reshape(-1, n_blocks, *value.shape[1:])
            if value.ndim == 1:
                total = by_row @ weights.T
            else:
                name = f"{name}_squared"
                # ‖w V‖² = w (V Vᵀ) wᵀ: the vectors are read once, however many weights there are.
                total = torch.stack([((weights @ (row @ row.T)) * weights).sum(1) for row in by_row])
            found[name] = _grown(total, n_rows)
        return found


def _grown(value: Tensor, n: int) -> Tensor:
    """With zeros at the end, to a length of at least n."""
    missing = n - len(value)
    return value if missing <= 0 else pad(value, (0, 0) * (value.ndim - 1) + (0, missing))


def metrics_of(total: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every metric from sums of one shape; NaN where it is undefined. Names and definitions: `Metrics`."""
    return reconstruction_of(total) | sparsity_of(total) | language_of(total)


def reconstruction_of(total: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Metrics of y and ŷ.

    `total` holds n, shift_squared and deviation (Σ of y - r, squared, and Σ‖y - r‖², for any r), energy (Σ‖y‖²), energy_out
    (Σ‖ŷ‖²), dot (Σ y·ŷ), error (Σ‖y - ŷ‖²), n_directed (tokens with y ≠ 0), and Σ of what else has a metric's name.
    """
    n = total["n"]
    spread = total["deviation"] - total["shift_squared"] / n
    least = torch.maximum(_ROUNDING * total["energy"], _CANCELLED * total["deviation"])
    spread = torch.where(spread > least, spread, _UNDEFINED)
    found = {
        "explained_variance": 1 - total["error"] / spread,
        "mse": total["error"] / n,
        "relative_reconstruction_bias": total["energy_out"] / total["dot"],
    }
    found |= {name: total[name] / n for name in ("norm_in", "norm_out")}
    return _defined(found | {name: total[name] / total["n_directed"] for name in ("cosine", "norm_ratio")})


def sparsity_of(total: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """l0 and l1, from their sums and n."""
    return _defined({name: total[name] / total["n"] for name in ("l0", "l1")})


def language_of(total: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cross entropy and KL: `total` holds n_predictions, nll_* and kl_* of the LM as it is, with the SAE and with ablations."""
    predictions = total["n_predictions"]
    ways = ("clean", "sae", "mean_ablation", "zero_ablation")
    found = {f"ce_{way}": total[f"nll_{way}"] / predictions for way in ways}
    found |= {f"kl_{way}": total[f"kl_{way}"] / predictions for way in ways[1:]}
    found["delta_ce"] = found["ce_sae"] - found["ce_clean"]
    for suffix, way in (("", "mean_ablation"), ("_zero", "zero_ablation")):
        gap = found[f"ce_{way}"] - found["ce_clean"]
        found[f"ce_recovered{suffix}"] = (found[f"ce_{way}"] - found["ce_sae"]) / gap
        found[f"kl_recovered{suffix}"] = 1 - found["kl_sae"] / found[f"kl_{way}"]
    return _defined(found)


def _defined(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.where(value.isfinite(), value, _UNDEFINED) for name, value in found.items()}
