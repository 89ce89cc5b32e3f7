"""Effects of active features on a metric: gradient × activation, integrated gradients, exact ablation.

Each compares what is there with a baseline: everything that the SAE wrote and its error gone (the default), or what another
prompt of the same length has in its place. An effect is positive where the metric is higher with the feature than with the
baseline. Effects go through everything downstream, later SAEs' hooks included: they are total, not direct.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sae_fast.attribution.metrics import Metric
from sae_fast.attribution.passes import Runner
from sae_fast.attribution.prompt import Active, Prompt, read, write_vectors
from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.lm.interface import LanguageModel
from sae_fast.lm.places import SAEs
from sae_fast.progress import step

Method = Literal["gradient", "integrated", "ablation"]


@dataclass(frozen=True, eq=False)
class Effects:
    """The effects of one SAE's features and of its error on a metric, by position, then feature."""

    hook_name: str
    """Where the SAE writes (a layer of a cross-layer transcoder: reads)."""
    method: Method
    position: Tensor
    """int64 `[n]`."""
    feature: Tensor
    """int64 `[n]`."""
    activation: Tensor
    """`[n]`."""
    effect: Tensor
    """`[n]`, in units of the metric; NaN where it was not asked for (`top`)."""
    error: Tensor
    """`[pos]`: of what the SAE does not explain at each token. Zero for a layer of a cross-layer transcoder, whose hooks are
    written by others as well."""

    @property
    def total(self) -> float:
        """Sum of all effects, errors included: by integrated gradients the metric minus that of the baseline."""
        return float(self.effect.nansum() + self.error.sum())

    def top(self, n: int = 10) -> list[tuple[int, int, float, float]]:
        """`(position, feature, activation, effect)` of the n largest effects by size."""
        order = self.effect.nan_to_num(0.0).abs().argsort(descending=True, stable=True)[:n]
        columns = (self.position, self.feature, self.activation, self.effect)
        return list(zip(*(column[order].tolist() for column in columns), strict=True))

    def by_feature(self) -> dict[int, float]:
        """Effects summed over positions, largest size first."""
        features, place = self.feature.unique(return_inverse=True)
        sums = self.effect.new_zeros(features.numel()).index_add(0, place, self.effect.nan_to_num(0.0))
        order = sums.abs().argsort(descending=True, stable=True)
        return dict(zip(features[order].tolist(), sums[order].tolist(), strict=True))


def attribute(
    lm: LanguageModel,
    saes: SAEs,
    token_ids: Tensor,
    metric: Metric,
    method: Method = "gradient",
    *,
    baseline: Tensor | None = None,
    positions: Tensor | None = None,
    steps: int = 16,
    top: int | None = None,
    batch_size: int = 16,
    progress: bool = False,
) -> dict[str, Effects]:
    """Effect of each active feature on a metric, by the hook of its SAE.

    Args:
        lm: the language model.
        saes: one SAE, several, or a mapping from the hooks where they read; transcoders and skip transcoders too.
        token_ids: int64 `[pos]` or `[1, pos]`, one prompt.
        metric: see `Metric`; `logit`, `logit_difference` and `log_probability` make one.
        method: `gradient`: difference to the baseline times the gradient where the prompt is, one backward pass for all SAEs.
            `integrated`: times the gradient averaged on the way from the baseline, features and error moving together, by
            Gauss-Legendre quadrature, SAE by SAE. `ablation`: metric minus metric with this one feature at its baseline.
        baseline: token ids of another prompt of the same length, whose activations take the place of zero.
        positions: boolean `[pos]`, tokens that are attributed; all if None.
        steps: points of the quadrature.
        top: ablation: only the so many features of an SAE with the largest gradient × activation; all if None.
        batch_size: copies of the prompt that the LM reads at once.
        progress: show progress on standard error.

    Raises:
        ShapeError: `token_ids`, `baseline` or `positions` is not as described, or what the metric gives is not `[batch]`.
        ArgumentError: an unknown method, or `steps`, `top` or `batch_size` not positive; SAEs as for `run_with_saes`.
        HookNotFoundError: the LM has no such hook.
    """
    if method not in get_args(Method):
        raise ArgumentError("method", expected=f"one of {', '.join(get_args(Method))}", got=repr(method))
    for name, number in (("steps", steps), ("top", top), ("batch_size", batch_size)):
        if number is not None and number < 1:
            raise ArgumentError(name, expected="a positive integer", got=number)
    prompt = read(lm, saes, token_ids)
    changes = _changes(prompt, None if baseline is None else read(lm, saes, baseline), positions)
    runner = Runner(lm, prompt, metric, batch_size)
    slopes = runner.gradients({}, 1)
    found = {}
    for change in changes:
        effect, error = change.along(slopes, 0)
        if method == "integrated":
            effect, error = _integrated(runner, change, steps, progress)
        elif method == "ablation":
            effect, error = _ablated(runner, change, effect, top, progress)
        active = change.active
        found[active.place.name] = Effects(
            active.place.name, method, active.position, active.feature, change.activation, effect, error
        )
    return found


@dataclass(frozen=True, eq=False)
class _Change:
    """What goes from the baseline to the prompt at the hooks of one SAE."""

    active: Active
    """Features that are active in either; `value` is the difference of their activations."""
    activation: Tensor
    """`[n]`: in the prompt."""
    error: dict[str, Tensor]
    """`[pos, d_out]` by hook; none for a layer of a cross-layer transcoder."""
    n_pos: int

    def whole(self) -> dict[str, Tensor]:
        """`[pos, d_out]` by hook: features and error together."""
        written = self.active.written(self.active.value, self.n_pos)
        return {hook: value + self.error.get(hook, 0.0) for hook, value in written.items()}

    def along(self, gradients: Mapping[str, Tensor], row: int) -> tuple[Tensor, Tensor]:
        """(effects `[n]`, effects of errors `[pos]`) to first order, from gradients `[batch, pos, d_out]` by hook."""
        here = {hook: gradients[hook][row].float() for hook in self.active.place.writes}
        effect = self.active.value * self.active.project(here)
        error = effect.new_zeros(self.n_pos)
        for hook, value in self.error.items():
            error = error + (here[hook].to(value) * value).sum(-1)
        return effect, error


def _changes(prompt: Prompt, baseline: Prompt | None, positions: Tensor | None) -> list[_Change]:
    n_pos = prompt.n_pos
    if baseline is not None and baseline.n_pos != n_pos:
        raise ShapeError("baseline", expected=f"{n_pos} tokens, as many as the prompt", got=baseline.n_pos)
    if positions is not None and (positions.dtype != torch.bool or tuple(positions.shape) != (n_pos,)):
        raise ShapeError("positions", expected=f"bool [{n_pos}]", got=f"{positions.dtype} {list(positions.shape)}")
    changes = []
    for index, site in enumerate(prompt.sites):
        own = {hook: prompt.error[hook] for hook in site.place.writes if not site.place.cross_layer}
        if baseline is None:
            change = _Change(site, site.value, own, n_pos)
        else:
            change = _between(site, baseline.sites[index], prompt, baseline, own)
        changes.append(change if positions is None else _restricted(change, positions))
    return changes


def _between(site: Active, other: Active, prompt: Prompt, baseline: Prompt, own: dict[str, Tensor]) -> _Change:
    """Features active in either prompt; whatever else differs at the hook (error, skip term, scale) counts as error."""
    d_sae, n_pos = site.place.sae.cfg.d_sae, prompt.n_pos
    keys = torch.cat([site.position * d_sae + site.feature, other.position * d_sae + other.feature])
    cells, cell = keys.unique(return_inverse=True)
    here = site.value.new_zeros(cells.numel()).index_add(0, cell[: site.n], site.value)
    there = site.value.new_zeros(cells.numel()).index_add(0, cell[site.n :], other.value)
    position, feature = cells // d_sae, cells % d_sae
    scales = [None if s.scale is None else s.scale for s in (site, other)]
    scale = None
    if scales[0] is not None and scales[1] is not None:
        scale = scales[0].new_zeros(cells.numel(), 1)
        scale[cell[site.n :]] = scales[1]
        scale[cell[: site.n]] = scales[0]
    vector = write_vectors(site.place.sae, feature, scale)
    active = Active(site.place, position, feature, here - there, vector, scale)
    written = active.written(active.value, n_pos)
    error = {hook: prompt.output[hook] - baseline.output[hook] - written[hook] for hook in own}
    return _Change(active, here, error, n_pos)


def _restricted(change: _Change, positions: Tensor) -> _Change:
    active = change.active
    keep = positions.to(active.position.device)[active.position]
    error = {hook: value * positions.to(value.device)[:, None] for hook, value in change.error.items()}
    return _Change(active.only(keep), change.activation[keep], error, change.n_pos)


def _integrated(runner: Runner, change: _Change, steps: int, progress: bool) -> tuple[Tensor, Tensor]:
    points, weights = np.polynomial.legendre.leggauss(steps)
    alphas, shares = torch.from_numpy((points + 1) / 2), torch.from_numpy(weights / 2)
    whole = change.whole()
    averages = {hook: torch.zeros_like(value) for hook, value in whole.items()}
    with step(f"integrated gradients at {change.active.place.name}", steps, "steps", progress) as advance:
        for first in range(0, steps, runner.batch_size):
            alpha = alphas[first : first + runner.batch_size]
            less = {hook: (1 - alpha).to(value)[:, None, None] * value for hook, value in whole.items()}
            gradients = runner.gradients(less, len(alpha))
            for hook, average in averages.items():
                share = shares[first : first + len(alpha)].to(average)
                average += torch.einsum("b,bpd->pd", share, gradients[hook].to(average))
            advance(len(alpha))
    return change.along({hook: average[None] for hook, average in averages.items()}, 0)


def _ablated(runner: Runner, change: _Change, slope: Tensor, top: int | None, progress: bool) -> tuple[Tensor, Tensor]:
    """Effects of single features, and of the errors at single tokens, each by a pass without it."""
    active = change.active
    order = slope.abs().argsort(descending=True, stable=True)[:top].sort().values
    tokens = sorted({p for error in change.error.values() for p in error.abs().sum(-1).nonzero()[:, 0].tolist()})
    effect, error = torch.full_like(slope, float("nan")), slope.new_zeros(change.n_pos)
    clean = runner.values({}, 1)[0]
    with step(f"ablation at {active.place.name}", len(order) + len(tokens), "passes", progress) as advance:
        for chunk in order.split(runner.batch_size):
            less = {hook: torch.zeros(len(chunk), *value.shape).to(value) for hook, value in runner.prompt.output.items()
                    if hook in active.place.writes}  # fmt: skip
            rows = torch.arange(len(chunk), device=chunk.device)
            for index, hook in enumerate(active.place.writes):
                less[hook][rows, active.position[chunk]] = active.value[chunk, None] * active.vector[chunk, index]
            effect[chunk] = (clean - runner.values(less, len(chunk))).to(effect)
            advance(len(chunk))
        for first in range(0, len(tokens), runner.batch_size):
            some = tokens[first : first + runner.batch_size]
            less = {hook: torch.zeros(len(some), *value.shape).to(value) for hook, value in change.error.items()}
            for hook, value in change.error.items():
                less[hook][range(len(some)), some] = value[some]
            error[some] = (clean - runner.values(less, len(some))).to(error)
            advance(len(some))
    return effect, error
