"""Nearest features by the cosine of their decoder rows, exact."""

import numpy as np
import torch

from sitegen.facts.blocks import by_block
from sitegen.facts.ranking import largest
from sitegen.facts.rounding import significant


class Neighbours:
    """Cosines of decoder rows by block of features: `d_sae² · d_out` multiply-adds in fp32 for all of them."""

    def __init__(self, W_dec: torch.Tensor, k: int) -> None:
        """`W_dec [d_sae, d_out]`; a row of norm 0 has no direction, and so is no one's neighbour and has none."""
        rows = W_dec.detach().float()
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        self.directions = rows / torch.where(norms > 0, norms, torch.ones_like(norms))
        self.has_direction = (norms[:, 0] > 0).cpu().numpy()
        self.k = k

    def of(self, first: int, last: int) -> list[list[tuple[int, float]]]:
        """Return `(feature, cosine)` of the nearest other features, nearest first, for the features `first … last - 1`."""
        return by_block(self._block, first, last, len(self.directions), len(self.directions))

    def _block(self, first: int, last: int) -> list[list[tuple[int, float]]]:
        cosines = (self.directions[first:last] @ self.directions.T).cpu().numpy()
        cosines[:, ~self.has_direction] = -np.inf
        cosines[~self.has_direction[first:last]] = -np.inf
        cosines[np.arange(last - first), np.arange(first, last)] = -np.inf
        nearest, values = largest(cosines, self.k)
        listed = np.isfinite(values)
        rounded = significant(np.where(listed, values, 0.0))
        return [
            list(zip(nearest[row, listed[row]].tolist(), rounded[row, listed[row]].tolist(), strict=True))
            for row in range(last - first)
        ]
