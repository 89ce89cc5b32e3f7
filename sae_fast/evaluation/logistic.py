"""Logistic regression with an L2 penalty in float64: by Newton's method, or by L-BFGS where there are many columns."""

from dataclasses import dataclass

import torch
from torch import Tensor

STRENGTHS = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
"""Penalties that `choose` tries."""
FOLDS = 5
_MAX_NEWTON_COLUMNS = 256
"""Newton's method needs the square of the columns for each text, L-BFGS the columns."""
_MAX_STEPS = 50
_TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class Logistic:
    """`p(y = 1) = sigmoid((x - mean) / scale @ weight + bias)`."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def score(self, x: Tensor) -> Tensor:
        """The log-odds float64 `[n]` of `x [n, d]`."""
        return (x.double() - self.mean) / self.scale @ self.weight + self.bias


def fit(x: Tensor, y: Tensor, strength: float = 1.0) -> Logistic:
    """Minimise `Σ log loss + strength / 2 ‖weight‖²` over columns of mean 0 and deviation 1; the bias goes unpunished.

    Args:
        x: `[n, d]`. Columns that do not vary get weight 0.
        y: bool `[n]`.
        strength: of the penalty.
    """
    x = x.double()
    mean, deviation = x.mean(0), x.std(0, correction=0)
    scale = torch.where(deviation > 1e-12 * (1 + mean.abs()), deviation, torch.inf)
    columns = torch.cat([(x - mean) / scale, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    penalty = torch.full((columns.shape[1],), strength, dtype=torch.float64)
    penalty[-1] = 1e-9
    solve = _newton if columns.shape[1] <= _MAX_NEWTON_COLUMNS else _quasi_newton
    found = solve(columns, y.double(), penalty)
    return Logistic(mean, scale, found[:-1], found[-1])


def choose(x: Tensor, y: Tensor, seed: int = 0) -> float:
    """The penalty, of `STRENGTHS`, with the least log loss in cross-validation over `FOLDS` parts with both classes."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    fold = torch.zeros(len(y), dtype=torch.int64)
    for value in (False, True):
        members = order[y[order] == value]
        fold[members] = torch.arange(len(members)) % FOLDS
    losses = dict.fromkeys(STRENGTHS, 0.0)
    for part in range(FOLDS):
        held = fold == part
        if not bool(held.any()) or len(y[~held].unique()) < 2:
            continue
        for strength in STRENGTHS:
            score = fit(x[~held], y[~held], strength).score(x[held])
            losses[strength] += float(_loss(score, y[held].double()))
    return min(losses, key=lambda strength: losses[strength])


def area_under_curve(score: Tensor, y: Tensor) -> float | None:
    """Share of pairs of a true and a false one in which the true one scores higher, ties half; None without such pairs."""
    ranks = torch.searchsorted(score.sort().values, score, right=False) + torch.searchsorted(
        score.sort().values, score, right=True
    )
    n_true, n_false = int(y.sum()), int((~y).sum())
    if not n_true or not n_false:
        return None
    # Twice the mid-rank counted from 0, less the pairs of true ones among themselves.
    return (float(ranks[y].double().sum()) / 2 - n_true**2 / 2) / (n_true * n_false)


def _newton(x: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
    weight = torch.zeros(x.shape[1], dtype=torch.float64)
    objective = _objective(x, y, penalty, weight)
    for _ in range(_MAX_STEPS):
        p = (x @ weight).sigmoid()
        gradient = x.T @ (p - y) + penalty * weight
        hessian = (x * (p * (1 - p)).clamp(min=1e-12)[:, None]).T @ x + penalty.diag()
        step = torch.cholesky_solve(gradient[:, None], torch.linalg.cholesky(hessian))[:, 0]
        size = 1.0
        while size > 1e-6 and (new := _objective(x, y, penalty, weight - size * step)) > objective:
            size /= 2
        weight = weight - size * step
        if objective - new <= _TOLERANCE * (1 + abs(objective)):
            break
        objective = new
    return weight


def _quasi_newton(x: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
    weight = torch.zeros(x.shape[1], dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=500, max_eval=1000, history_size=20, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        score = x @ weight
        weight.grad = x.T @ (score.sigmoid() - y) + penalty * weight
        return float(_loss(score, y) + (penalty * weight.square()).sum() / 2)

    optimizer.step(closure)
    return weight


def _objective(x: Tensor, y: Tensor, penalty: Tensor, weight: Tensor) -> float:
    return float(_loss(x @ weight, y) + (penalty * weight.square()).sum() / 2)


def _loss(score: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(score, y, reduction="sum")
