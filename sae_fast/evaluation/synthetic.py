"""Ground truth: activations made of known features, and how well an SAE recovers them.

data = SyntheticData(SyntheticOptions(d=64, n_features=256))
x, codes = data.sample(4096, seed=1)
found = recovery(sae, data)
found.mean_max_cosine, found.recall, found.f1
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.evaluation.matching import best_pairs
from sae_fast.evaluation.metrics import ReconstructionStats
from sae_fast.sae import SAE

FOUND = 0.9
"""A true feature counts as found where the cosine with its partner is at least this."""


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions:
    """What the activations are made of. The same options give the same data."""

    d: int = 64
    """Width of the activations."""
    n_features: int = 128
    """True features; more than `d` of them are in superposition."""
    active: float = 8.0
    """How many features fire on a token, on average, before children wait for their parents."""
    zipf: float = 0.5
    """Firing probabilities fall with the rank of a feature to this power; 0: all alike."""
    children: int = 0
    """Of each parent. A child fires only where its parent does (with its own probability as the conditional one); parents are
    the most frequent features, each followed by its children."""
    exclusive_children: bool = True
    """Of siblings, at most one fires on a token."""
    correlation: float = 0.0
    """Share of the variance of the hidden Gaussians, whose excess over a threshold makes features fire, that a few common
    factors explain; from 0 to below 1. Firing probabilities stay as they are."""
    n_factors: int = 4
    """Common factors."""
    magnitude: float = 1.0
    """Mean activation of a firing feature."""
    spread: float = 0.2
    """Standard deviation of that activation, which is cut off at 0."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise added to every dimension."""
    bias: float = 0.0
    """Norm of a constant vector added to every token."""
    seed: int = 0
    """Of dictionary, factors and bias; `sample` has its own."""

    def __post_init__(self) -> None:
        for name in ("d", "n_features", "n_factors"):
            if getattr(self, name) < 1:
                raise ArgumentError(name, expected="a positive integer", got=getattr(self, name))
        if not 0 < self.active <= self.n_features:
            raise ArgumentError("active", expected=f"more than 0 and at most n_features = {self.n_features}", got=self.active)
        if not 0 <= self.correlation < 1:
            raise ArgumentError("correlation", expected="at least 0 and below 1", got=self.correlation)
        for name in ("zipf", "children", "spread", "noise", "bias"):
            if getattr(self, name) < 0:
                raise ArgumentError(name, expected="at least 0", got=getattr(self, name))


class SyntheticData:
    """A dictionary of true features, and samples of activations."""

    def __init__(self, options: SyntheticOptions | None = None) -> None:
        self.options = options = options or SyntheticOptions()
        generator = torch.Generator().manual_seed(options.seed)
        self.dictionary = _unit(torch.randn(options.n_features, options.d, generator=generator))
        """float32 [n_features, d], rows of norm one."""
        self.probability = _probabilities(options)
        """float64 [n_features]: how often each feature fires; of a child, on tokens where its parent does."""
        loadings = _unit(torch.randn(options.n_features, options.n_factors, generator=generator))
        self._loadings = loadings * math.sqrt(options.correlation)
        self.bias = options.bias * _unit(torch.randn(1, options.d, generator=generator))[0]
        """float32 [d]."""
        self.parent = _parents(options)
        """int64 [n_features]: the parent of each child, -1 of all others."""

    def sample(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """(activations `[n, d]`, activations of the true features `[n, n_features]`), float32; the same for the same seed."""
        options, generator = self.options, torch.Generator().manual_seed(seed)
        factors = torch.randn(n, options.n_factors, generator=generator)
        own = torch.randn(n, options.n_features, generator=generator) * math.sqrt(1 - options.correlation)
        fires = self._fires(factors @ self._loadings.T + own)
        sizes = options.magnitude + options.spread * torch.randn(n, options.n_features, generator=generator)
        codes = torch.where(fires, sizes.clamp(min=0), 0)
        x = codes @ self.dictionary + self.bias
        return x + options.noise * torch.randn(n, options.d, generator=generator), codes

    def batches(self, n_tokens: int, seed: int, batch_tokens: int = 4096) -> Iterator[tuple[Tensor, Tensor]]:
        """Samples of `n_tokens` tokens in all, a batch at a time."""
        for first in range(0, n_tokens, batch_tokens):
            yield self.sample(min(batch_tokens, n_tokens - first), seed * 1_000_003 + first)

    def _fires(self, hidden: Tensor) -> Tensor:
        """Which features fire, bool `[n, n_features]`, from Gaussians of variance one."""
        excess = hidden - torch.special.ndtri(1 - self.probability).to(hidden.dtype)
        fires = excess > 0
        has_parent = self.parent >= 0
        if not bool(has_parent.any()):
            return fires
        children, parents = has_parent.nonzero()[:, 0], self.parent[has_parent]
        if self.options.exclusive_children:
            families = excess[:, children].reshape(len(hidden), -1, self.options.children)
            first = torch.zeros_like(families, dtype=torch.bool).scatter_(2, families.argmax(2, keepdim=True), True)
            fires[:, children] &= first.reshape(len(hidden), -1)
        fires[:, children] &= fires[:, parents]
        return fires


@dataclass(frozen=True)
class Recovery:
    """How well an SAE recovers a known dictionary. Pairs: one to one, with the largest sum of cosines."""

    mean_max_cosine: float
    """Mean over true features of the largest cosine with any decoder row (MMCS; Sharkey, Braun and Millidge 2022)."""
    chance_cosine: float
    """What random decoder rows would have there."""
    matched_cosine: float
    """Mean over true features of the cosine with their partner, 0 for those without one."""
    recall: float
    """Share of true features whose partner has a cosine of at least `FOUND`."""
    precision: float
    """Share of the SAE's features, those that never fired left out, whose partner has such a cosine."""
    uniqueness: float
    """True features that are the nearest of some feature of the SAE, of min(n_features, live features)."""
    firing_recall: float
    """Over pairs with such a cosine: tokens where both fire / tokens where the true feature does."""
    firing_precision: float
    """The same / tokens where the SAE's feature does."""
    f1: float
    """Harmonic mean of the two, times recall: features that were not found count as 0."""
    explained_variance: float | None
    """On the same tokens."""
    l0: float
    """Of the SAE."""
    true_l0: float
    """Of the true features."""
    n_live: int
    """Features of the SAE that fired."""


@torch.no_grad()
def recovery(sae: SAE, data: SyntheticData, n_tokens: int = 32_768, seed: int = 1) -> Recovery:
    """Measure on `n_tokens` fresh tokens. Raises `ShapeError` where the SAE is of another width."""
    if sae.cfg.d_in != data.options.d or sae.W_dec is None or sae.W_dec.shape[1:] != (data.options.d,):
        raise ShapeError("sae", expected=f"an SAE that reads and writes {data.options.d} numbers", got=sae.cfg.d_in)
    stats, together = ReconstructionStats(data.options.d), torch.zeros(data.options.n_features, sae.cfg.d_sae)
    fired, true = torch.zeros(sae.cfg.d_sae), torch.zeros(data.options.n_features)
    for x, codes in data.batches(n_tokens, seed):
        x = x.to(sae.device, sae.dtype)
        acts = sae.encode(x)
        stats.update(x, sae.decode(acts))
        here = (acts.to_dense() != 0).float().cpu()
        truth = (codes != 0).float()
        together += truth.T @ here
        fired, true = fired + here.sum(0), true + truth.sum(0)
    live = fired > 0
    cosines = data.dictionary.double() @ _unit(sae.W_dec.double().cpu())[live].T
    return _summarised(cosines, together[:, live].double(), fired[live].double(), true.double(), stats, data.options.d)


def chance_cosine(d: int, n: int) -> float:
    """Expected largest of n cosines between a fixed and random directions in d dimensions."""
    t = torch.linspace(-1, 1, 40_001, dtype=torch.float64)
    density = (1 - t.square()).clamp(min=1e-300).pow((d - 3) / 2)
    below = density.cumsum(0) / density.sum()
    # E max = ∫ 1 - F(t)ⁿ over (-1, 1), minus 1.
    return float((1 - below.pow(n)).sum() * (t[1] - t[0]) - 1)


def _summarised(cosines: Tensor, together: Tensor, fired: Tensor, true: Tensor, stats: ReconstructionStats, d: int) -> Recovery:
    n_true, n_live = cosines.shape
    rows, columns = best_pairs(cosines)
    pairs = cosines[rows, columns]
    good = pairs >= FOUND
    both, theirs, ours = (t[good].sum() for t in (together[rows, columns], true[rows], fired[columns]))
    firing_recall, firing_precision = (float(both / max(float(t), 1.0)) for t in (theirs, ours))
    recall = int(good.sum()) / n_true
    harmonic = 2 * firing_recall * firing_precision / max(firing_recall + firing_precision, 1e-12)
    nearest = cosines.argmax(0) if n_live else torch.zeros(0)
    return Recovery(
        mean_max_cosine=float(cosines.max(1).values.mean()) if n_live else 0.0,
        chance_cosine=chance_cosine(d, n_live) if n_live else 0.0,
        matched_cosine=float(pairs.sum()) / n_true,
        recall=recall,
        precision=int(good.sum()) / max(n_live, 1),
        uniqueness=len(nearest.unique()) / max(min(n_true, n_live), 1),
        firing_recall=firing_recall,
        firing_precision=firing_precision,
        f1=harmonic * recall,
        explained_variance=stats.explained_variance,
        l0=float(fired.sum()) / stats.n_tokens,
        true_l0=float(true.sum()) / stats.n_tokens,
        n_live=n_live,
    )


def _probabilities(options: SyntheticOptions) -> Tensor:
    weight = torch.arange(1, options.n_features + 1, dtype=torch.float64).pow(-options.zipf)
    probability = weight / weight.sum() * options.active
    # What is cut off at the top goes to the others, so that `active` features fire all the same.
    for _ in range(100):
        excess = (probability - 0.95).clamp(min=0).sum()
        room = torch.where(probability < 0.95, weight, 0)
        if excess <= 1e-12 or not bool(room.sum() > 0):
            break
        probability = probability.clamp(max=0.95) + excess * room / room.sum()
    return probability.clamp(max=0.95)


def _parents(options: SyntheticOptions) -> Tensor:
    parent = torch.full((options.n_features,), -1)
    family = options.children + 1
    n_families = options.n_features // family if options.children else 0
    for first in range(n_families):
        parent[n_families + first * options.children : n_families + (first + 1) * options.children] = first
    return parent


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
