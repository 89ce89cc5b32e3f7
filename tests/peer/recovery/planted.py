"""Planted dictionaries: activations at one or several hooks, all made from the same codes of known features."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from sae_fast.evaluation.metrics import ReconstructionStats
from sae_fast.evaluation.synthetic import SyntheticData, SyntheticOptions

STEPS, BATCH, LR = 1000, 1024, 1e-3
DEAD_STEPS = 100
SEEDS = (11, 12, 13, 14, 15, 16, 17, 18)
"""Not those of the planted dictionaries: random directions from the same seed would be the answer."""
NOISE = 0.02
N_SCORED = 32_768

Activations = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Planted:
    """Codes of known features, and the direction that each has at each hook."""

    name: str
    data: SyntheticData
    directions: Activations
    """by hook, [n_features, d]; zeros where a feature is not there"""
    reads: tuple[str, ...] = ("x",)
    writes: tuple[str, ...] = ("x",)
    steps: int = STEPS

    @property
    def n_features(self) -> int:
        """True features."""
        return self.data.options.n_features

    def sample(self, n: int, seed: int) -> Activations:
        """Activations [n, d] at all hooks, scaled so that their mean norm is √d."""
        return {hook: rows * self.scales[hook] for hook, rows in self._unscaled(n, seed).items()}

    @lru_cache(maxsize=1)  # noqa: B019 - one run's data, for all that are trained on it
    def stream(self, seed: int) -> tuple[Activations, ...]:
        """The batches of a run; the same for both libraries."""
        return tuple(self.sample(BATCH, 1 + step + seed * self.steps) for step in range(self.steps))

    @cached_property
    def scales(self) -> dict[str, float]:
        """√d / mean norm at each hook."""
        return {
            hook: rows.shape[1] ** 0.5 / float(rows.norm(dim=1).mean()) for hook, rows in self._unscaled(8192, 10**6).items()
        }

    def _unscaled(self, n: int, seed: int) -> Activations:
        codes, generator = self.data.sample(n, seed)[1], torch.Generator().manual_seed(seed)
        return {
            hook: codes @ rows + NOISE * torch.randn(n, rows.shape[1], generator=generator)
            for hook, rows in self.directions.items()
        }

    def rows(self, hooks: tuple[str, ...]) -> Tensor:
        """Directions in scaled units at some hooks side by side."""
        return torch.cat([self.directions[hook] * self.scales[hook] for hook in hooks], dim=1)


@dataclass(frozen=True)
class Trained:
    """An SAE of either library: what it makes of activations side by side, and its decoder."""

    run: Callable[[Tensor], tuple[Tensor, Tensor]]
    """`x` [n, d_in] to (dense activations [n, d_sae], output [n, d_out])"""
    W_dec: Tensor
    """[d_sae, d_out]"""
    W_skip: Tensor | None = None
    """[d_out, d_in]"""


@torch.no_grad()
def score(trained: Trained, planted: Planted, n: int = N_SCORED) -> dict[str, float]:
    """Mean max cosine with the true directions, L0, explained variance and dead features, on `n` fresh tokens (4096s)."""
    stats, fired = ReconstructionStats(trained.W_dec.shape[1]), torch.zeros(len(trained.W_dec))
    for x, y in _pairs(planted, n):
        acts, y_hat = trained.run(x)
        stats.update(y, y_hat)
        fired += (acts != 0).sum(0)
    live = trained.W_dec[fired > 0]
    # A skip term carries a share of every feature: the decoder is to hold the rest.
    carried = planted.rows(planted.reads) @ trained.W_skip.T if trained.W_skip is not None else 0
    cosines = _unit(planted.rows(planted.writes) - carried) @ _unit(live).T
    return {
        "mean_max_cosine": float(cosines.max(1).values.mean()) if len(live) else 0.0,
        "l0": float(fired.sum()) / n,
        "explained_variance": float(stats.explained_variance or 0.0),
        "n_dead": float((fired == 0).sum()),
    }


def side_by_side(activations: Activations, hooks: tuple[str, ...]) -> Tensor:
    """[n, sum of widths]."""
    return torch.cat([activations[hook] for hook in hooks], dim=1)


def _pairs(planted: Planted, n: int) -> Iterator[tuple[Tensor, Tensor]]:
    for first in range(0, n, 4096):
        fresh = planted.sample(4096, 10**8 + first)
        yield side_by_side(fresh, planted.reads), side_by_side(fresh, planted.writes)


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows.float(), dim=1)


def _directions(n: int, d: int, seed: int) -> Tensor:
    return _unit(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def autoencoder(name: str, steps: int = STEPS, **options: float) -> Planted:
    """Features with one direction each, reconstructed at the hook that is read."""
    data = SyntheticData(SyntheticOptions(**options))  # type: ignore[arg-type]
    return Planted(name, data, {"x": data.dictionary}, steps=steps)


def _of_hooks(name: str, reads: tuple[str, ...], writes: tuple[str, ...]) -> Planted:
    """Each feature has a direction of its own at each hook."""
    data = SyntheticData(SyntheticOptions(d=48, n_features=128, active=6.0))
    hooks = sorted({*reads, *writes})
    return Planted(name, data, {hook: _directions(128, 48, 100 + i) for i, hook in enumerate(hooks)}, reads, writes)


def _layers() -> Planted:
    """Two layers: the features of the first write at both outputs, those of the second at the second output."""
    data = SyntheticData(SyntheticOptions(d=48, n_features=128, active=6.0, zipf=0.0))
    first = (torch.arange(128) % 2 == 0)[:, None]
    directions = {hook: _directions(128, 48, 200 + i) for i, hook in enumerate(("x0", "x1", "y0", "y1"))}
    directions |= {"x0": directions["x0"] * first, "x1": directions["x1"] * ~first, "y0": directions["y0"] * first}
    return Planted("layers", data, directions, ("x0", "x1"), ("y0", "y1"))


@lru_cache(maxsize=1)
def planted(name: str) -> Planted:
    """By name: `flat`, `hierarchical`, `mixed`, `large`, `transcoder`, `crosscoder` or `layers`."""
    match name:
        case "flat":
            return autoencoder(name, d=48, n_features=128, active=6.0)
        case "hierarchical":
            return autoencoder(name, d=48, n_features=128, active=10.0, children=3)
        case "mixed":
            return autoencoder(name, d=48, n_features=128, active=10.0, children=3, correlation=0.3)
        case "large":
            return autoencoder(name, steps=600, d=256, n_features=2048, active=24.0, children=3, correlation=0.3)
        case "transcoder":
            return _of_hooks(name, ("x",), ("y",))
        case "crosscoder":
            return _of_hooks(name, ("x0", "x1"), ("x0", "x1"))
        case "layers":
            return _layers()
    raise ValueError(name)
