"""Sums of what is measured on tokens, kept apart by the cell that a token belongs to; every metric is a function of such sums.

A *grouping* says which cell a token belongs to: the block of documents it comes from (for intervals), the bucket of its
position, its class. Sums of all cells together are sums over all tokens, and sums of one cell what an evaluation of its tokens
alone would have found.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from sae_fast.evaluation.metrics import as_double

Cells = Mapping[str, Tensor]
"""int64 [n] by grouping: the cell of each of n tokens."""

_UNDEFINED = float("nan")
_ROUNDING = 2.0**-96
"""Spread below this share of Σ‖y‖² is what float64 leaves of data that do not vary."""


class Sums:
    """Sums by name, for each cell of each grouping: float64 `[n_cells]` or, of vectors, `[n_cells, d]`; on the CPU."""

    def __init__(self, n_cells: Mapping[str, int]) -> None:
        self.n_cells = dict(n_cells)
        self.of: dict[str, dict[str, Tensor]] = {grouping: {} for grouping in n_cells}

    def add(self, cells: Cells, **values: Tensor) -> None:
        """Add tokens: a number `[n]` or a vector `[n, d]` of each, by name."""
        wide = {name: as_double(value) for name, value in values.items()}
        widths = [1 if value.ndim == 1 else value.shape[1] for value in wide.values()]
        columns = torch.cat([value.reshape(len(value), -1) for value in wide.values()], dim=1)
        for grouping, n_cells in self.n_cells.items():
            present, index = cells[grouping].to(columns.device).unique(return_inverse=True)
            # A product adds in a fixed order, also on a GPU; index_add does not.
            members = torch.zeros(len(present), len(columns), dtype=torch.float64, device=columns.device)
            members[index, torch.arange(len(columns), device=columns.device)] = 1
            totals = (members @ columns).cpu().split(widths, dim=1)
            for (name, value), total in zip(wide.items(), totals, strict=True):
                into = self.of[grouping].setdefault(name, torch.zeros(n_cells, *value.shape[1:], dtype=torch.float64))
                into[present.cpu()] += total.reshape(len(present), *value.shape[1:])

    def merge(self, other: "Sums") -> None:
        """Add the tokens that `other` has seen. Where the two share no cell, no digit is rounded."""
        for grouping, sums in other.of.items():
            for name, value in sums.items():
                into = self.of[grouping]
                into[name] = into[name] + value if name in into else value.clone()

    def scalars(self, grouping: str, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Weighted totals `[r]` by name, weights `[r, n_cells]`; without, every cell for itself.

        Of a vector `v` the total is replaced by its squared norm, as `v_squared`.
        """
        found = {}
        for name, value in self.of[grouping].items():
            if value.ndim == 1:
                found[name] = value if weights is None else weights @ value
            elif weights is None:
                found[f"{name}_squared"] = value.square().sum(1)
            else:
                # ‖w V‖² = w (V Vᵀ) wᵀ: the vectors are read once, however many weights there are.
                found[f"{name}_squared"] = ((weights @ (value @ value.T)) * weights).sum(1)
        return found


def metrics_of(total: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every metric `[r]` from sums `[r]`; NaN where it is undefined. Names and definitions: `Metrics`.

    `total` holds n, shift_squared and deviation (Σ of y - r, squared, and Σ‖y - r‖², for any r), energy (Σ‖y‖²), energy_out
    (Σ‖ŷ‖²), dot (Σ y·ŷ), error (Σ‖y - ŷ‖²), n_directed (tokens with y ≠ 0), and Σ of what else has a metric's name; and for
    the LM as it is, with the SAE and with either ablation, n_predictions, nll_* and kl_*.
    """
    n, predictions = total["n"], total["n_predictions"]
    spread = total["deviation"] - total["shift_squared"] / n
    spread = torch.where(spread > _ROUNDING * total["energy"], spread, _UNDEFINED)
    found = {
        "explained_variance": 1 - total["error"] / spread,
        "mse": total["error"] / n,
        "relative_reconstruction_bias": total["energy_out"] / total["dot"],
    }
    found |= {name: total[name] / n for name in ("l0", "l1", "norm_in", "norm_out")}
    found |= {name: total[name] / total["n_directed"] for name in ("cosine", "norm_ratio")}
    ways = ("clean", "sae", "mean_ablation", "zero_ablation")
    found |= {f"ce_{way}": total[f"nll_{way}"] / predictions for way in ways}
    found |= {f"kl_{way}": total[f"kl_{way}"] / predictions for way in ways[1:]}
    found["delta_ce"] = found["ce_sae"] - found["ce_clean"]
    for suffix, way in (("", "mean_ablation"), ("_zero", "zero_ablation")):
        gap = found[f"ce_{way}"] - found["ce_clean"]
        found[f"ce_recovered{suffix}"] = (found[f"ce_{way}"] - found["ce_sae"]) / gap
        found[f"kl_recovered{suffix}"] = 1 - found["kl_sae"] / found[f"kl_{way}"]
    return {name: torch.where(value.isfinite(), value, _UNDEFINED) for name, value in found.items()}
