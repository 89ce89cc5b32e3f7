"""The loop: several SAEs over one stream of activations, each with its own optimizer, and everything needed to go on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, ConfigError
from sae_fast.tables import at_least
from sae_fast.training.distributed import Ranks
from sae_fast.training.schedules import Schedule, check_schedule, lr_factor
from sae_fast.training.variants import Loss, Moment, Variant

Batches = Callable[[int], Iterator[Mapping[str, Tensor]]]
"""Gives the batches {hook: [batch_tokens, d]} of a run from a step on, the same ones every time."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """`[train]`: how long and how fast. Tokens count activation vectors."""

    tokens: int = 50_000_000
    """length of the run; an epoch that ends is followed by the next one in another order"""
    batch_tokens: int = 4096
    """activation vectors of a step"""
    accumulate: int = 1
    """parts that a batch is cut into, whose gradients are summed before a step: for less memory, or the sparsity of smaller
    batches"""
    lr: float = 3e-4
    """peak learning rate of Adam; a `[[sae]]` table may give its own"""
    warmup: float = 0.02
    """share of the steps over which the learning rate rises"""
    decay: float = 0.2
    """share of the steps over which it falls at the end (`linear`)"""
    schedule: Schedule = "linear"
    """`linear`, `cosine` or `constant`"""
    beta1: float = 0.9
    """of Adam"""
    beta2: float = 0.999
    """of Adam"""
    clip_norm: float | None = 1.0
    """largest norm of a step's gradient; nearly always reached, so that large early gradients do not slow Adam later"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """of the products; weights, sums and the optimizer are float32 either way"""
    shard_features: bool = False
    """with torchrun: each process holds a part of the features and sees every batch, instead of the other way round (topk)"""
    seed: int = 0
    """of the order of the activations"""

    def __post_init__(self) -> None:
        check_schedule(self.schedule)
        for name in ("tokens", "batch_tokens", "accumulate"):
            at_least("[train]", name, getattr(self, name), 1)
        if self.batch_tokens % self.accumulate:
            raise ConfigError(f"[train] accumulate: expected a divisor of batch_tokens = {self.batch_tokens}")
        if not self.lr > 0:
            raise ConfigError(f"[train] lr: expected a positive number, got {self.lr}")
        if self.warmup + self.decay > 1:
            raise ConfigError(f"[train] warmup + decay: expected at most 1, got {self.warmup + self.decay}")

    @property
    def n_steps(self) -> int:
        """Steps of the run, the last one rounded up."""
        return -(-self.tokens // self.batch_tokens)


@dataclass(frozen=True)
class StepMetrics:
    """What one step of one SAE saw."""

    step: int
    """steps done, from 1"""
    tokens: int
    """activation vectors seen"""
    loss: float
    terms: Mapping[str, float]
    """parts of the loss, unweighted"""
    explained_variance: float
    """of this batch, before the step"""
    l0: float
    n_dead: int
    lr: float


class Trainer:
    """The variants, their optimizers, and the step that comes next."""

    def __init__(self, variants: Mapping[str, Variant], options: TrainOptions, ranks: Ranks | None = None) -> None:
        """With `ranks`, batches are this process's rows, or whole ones where the features are sharded."""
        if not variants:
            raise ArgumentError("variants", expected="at least one SAE to train", got="none")
        self.ranks = ranks or Ranks()
        self.data_ranks = Ranks() if options.shard_features else self.ranks
        self.variants, self.options = dict(variants), options
        self.optimizers = {name: _optimizer(variant, options) for name, variant in variants.items()}
        for variant in variants.values():
            variant.compute_dtype = getattr(torch, options.precision)
        self.step = 0

    def run(
        self,
        batches: Batches,
        until: int | None = None,
        report: Callable[[Mapping[str, StepMetrics]], None] | None = None,
    ) -> None:
        """Go on from `step` to the end, or to step `until`; `report` gets the metrics of every step, by name."""
        end = self.options.n_steps if until is None else min(until, self.options.n_steps)
        stream = batches(self.step)
        while self.step < end:
            batch = next(stream)
            metrics = {name: self._train(name, variant, batch) for name, variant in self.variants.items()}
            self.step += 1
            if report is not None:
                report(metrics)

    def state(self) -> dict[str, Tensor]:
        """All that a run needs to go on, by name; the same whatever the number of processes."""
        tensors = {"step": torch.tensor(self.step)}
        for name, variant in self.variants.items():
            for key, value in variant.state_dict().items():
                tensors[f"{name}/weights/{key}"] = variant.gathered(key, value)
            moments = self.optimizers[name].state_dict()["state"]
            for number, key in enumerate(self._numbered(name)):
                for kind, value in moments.get(number, {}).items():
                    tensors[f"{name}/adam/{key}/{kind}"] = variant.gathered(key, torch.as_tensor(value))
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a run where `state` left it."""
        for name, variant in self.variants.items():
            weights = _below(tensors, f"{name}/weights/")
            variant.load_state_dict({key: variant.own_part(key, value) for key, value in weights.items()})
            adam: dict[int, dict[str, Tensor]] = {}
            for number, key in enumerate(self._numbered(name)):
                moments = _below(tensors, f"{name}/adam/{key}/")
                if moments:
                    adam[number] = {kind: variant.own_part(key, value) for kind, value in moments.items()}
            optimizer = self.optimizers[name]
            optimizer.load_state_dict({**optimizer.state_dict(), "state": adam})
        self.step = int(tensors["step"])

    def _numbered(self, name: str) -> list[str]:
        """Names of the parameters in the order in which the optimizer counts them."""
        names = {id(parameter): key for key, parameter in self.variants[name].named_parameters()}
        return [names[id(parameter)] for group in self.optimizers[name].param_groups for parameter in group["params"]]

    def _train(self, name: str, variant: Variant, batch: Mapping[str, Tensor]) -> StepMetrics:
        options, moment = self.options, Moment(self.step, self.options.n_steps)
        x = side_by_side(batch, variant.options.reads)
        y = x if variant.options.writes == variant.options.reads else side_by_side(batch, variant.options.writes)
        losses = []
        variant.train()
        for x_part, y_part in zip(x.chunk(options.accumulate), y.chunk(options.accumulate), strict=True):
            losses.append(variant.loss(x_part, y_part, moment))
            (losses[-1].total * (len(x_part) / len(x))).backward()
            losses[-1].release()
        fired = torch.stack([loss.fired for loss in losses]).sum(0)
        self.take_step(name, self.data_ranks.total(fired), len(x) * self.data_ranks.size)
        return self._metrics(name, losses, fired)

    def take_step(self, name: str, fired: Tensor, n: int) -> None:
        """A step of the optimizer, from the gradients that are there. `fired` [d_sae] and `n` tokens are of all processes."""
        variant, optimizer, options = self.variants[name], self.optimizers[name], self.options
        factor = lr_factor(self.step, options.n_steps, options.warmup, options.decay, options.schedule)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self.data_ranks.average_gradients(variant)
        variant.after_backward()
        if options.clip_norm is not None:
            variant.clip_gradients(options.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        variant.after_step(fired, n)

    def _metrics(self, name: str, losses: list[Loss], fired: Tensor) -> StepMetrics:
        """Of the whole batch; `fired` is summed over processes already."""
        variant, n_parts = self.variants[name], len(losses) * self.data_ranks.size
        terms = list(losses[-1].terms)
        means = torch.stack([torch.stack([loss.total.detach(), *(loss.terms[term] for term in terms)]) for loss in losses])
        sums = torch.stack([_sums(loss) for loss in losses])
        totals = self.data_ranks.total(torch.cat([means.double().sum(0) / n_parts, sums.sum(0)]))
        loss, *of_terms, error, squares = totals[: len(terms) + 3].tolist()
        n = sum(loss.n for loss in losses) * self.data_ranks.size
        deviation = squares - float(totals[len(terms) + 3 :].square().sum()) / n
        return StepMetrics(
            step=self.step + 1,
            tokens=(self.step + 1) * self.options.batch_tokens,
            loss=loss,
            terms=dict(zip(terms, of_terms, strict=True)),
            explained_variance=1 - error / max(deviation, 1e-30),
            l0=float(variant.totalled(fired)) / n,
            n_dead=int(variant.totalled(variant.dead)),
            lr=self.optimizers[name].param_groups[0]["lr"],
        )


def _sums(loss: Loss) -> Tensor:
    """Squared error, sum of squares and sum of the targets of one part of a batch, float64 [2 + d_out]."""
    mean = loss.mean.double()
    squares = loss.squared_deviation.double() + loss.n * mean.square().sum()
    return torch.cat([torch.stack([loss.squared_error.double(), squares]), loss.n * mean])


def side_by_side(batch: Mapping[str, Tensor], hooks: tuple[str, ...]) -> Tensor:
    """The activations at some hooks as one tensor [n, sum of widths]."""
    return batch[hooks[0]] if len(hooks) == 1 else torch.cat([batch[hook] for hook in hooks], dim=1)


def _optimizer(variant: Variant, options: TrainOptions) -> torch.optim.Adam:
    groups: Any = variant.parameter_groups(options.lr)
    return torch.optim.Adam(groups, lr=options.lr, betas=(options.beta1, options.beta2), fused=True)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
