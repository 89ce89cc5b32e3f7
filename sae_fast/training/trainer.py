"""The loop: several SAEs over one stream of activations, each with its own optimizer, and everything needed to go on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, ConfigError
from sae_fast.tables import at_least
from sae_fast.training.layout import part_like, whole
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
    shard_features: bool | int = False
    """with torchrun: each process holds a part of the features and sees every batch, instead of the other way round; a number:
    so many share the features of an SAE, and the groups of so many share the batch"""
    seed: int = 0
    """of the order of the activations"""

    def __post_init__(self) -> None:
        check_schedule(self.schedule)
        for name in ("tokens", "batch_tokens", "accumulate"):
            at_least("[train]", name, getattr(self, name), 1)
        at_least("[train]", "shard_features", self.shard_features, 0)
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

    def __init__(self, variants: Mapping[str, Variant], options: TrainOptions) -> None:
        """Under torchrun, batches are the rows of this process, as the layout of the variants has it."""
        if not variants:
            raise ArgumentError("variants", expected="at least one SAE to train", got="none")
        self.layout = next(iter(variants.values())).layout
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
        """All that a run needs to go on, by name; the same whatever the number of processes, all of which must call it."""
        return dict(self.each_state())

    def each_state(self) -> Iterator[tuple[str, Tensor]]:
        """One tensor of `state` after another, so that not all need be held where features are in parts."""
        yield "step", torch.tensor(self.step)
        for name, variant in self.variants.items():
            for key, value in variant.state_dict().items():
                yield f"{name}/weights/{key}", whole(value)
            moments = self.optimizers[name].state_dict()["state"]
            for number, key in enumerate(self._numbered(name)):
                for kind, value in moments.get(number, {}).items():
                    yield f"{name}/adam/{key}/{kind}", whole(torch.as_tensor(value))

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a run where `state` left it."""
        for name, variant in self.variants.items():
            own = variant.state_dict()
            variant.load_state_dict({key: part_like(tensors[f"{name}/weights/{key}"], like) for key, like in own.items()})
            adam: dict[int, dict[str, Tensor]] = {}
            for number, key in enumerate(self._numbered(name)):
                prefix = f"{name}/adam/{key}/"
                moments = [full for full in tensors if full.startswith(prefix)]
                if moments:
                    adam[number] = {full.removeprefix(prefix): part_like(tensors[full], own[key]) for full in moments}
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
        n = len(x) * self.layout.rows.size
        self.take_step(name, self.layout.rows.total(fired), n)
        return self._metrics(name, losses, fired, n)

    def take_step(self, name: str, fired: Tensor, n: int) -> None:
        """A step of the optimizer, from the gradients that are there. `fired` [n_own] and `n` tokens are of the whole batch."""
        variant, optimizer, options = self.variants[name], self.optimizers[name], self.options
        factor = lr_factor(self.step, options.n_steps, options.warmup, options.decay, options.schedule)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self.layout.rows.average_gradients(variant)
        variant.after_backward()
        if options.clip_norm is not None:
            variant.clip_gradients(options.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        variant.after_step(fired, n)

    def _metrics(self, name: str, losses: list[Loss], fired: Tensor, n: int) -> StepMetrics:
        """Of the whole batch of `n` tokens; `fired` is summed over its rows already."""
        variant, rows, features = self.variants[name], self.layout.rows, self.layout.features
        terms = list(losses[-1].terms)
        sums = rows.total(torch.stack([_sums(loss, terms) for loss in losses]).sum(0))
        loss, *of_terms, error, squares = sums[: len(terms) + 3].tolist()
        deviation = squares - float(sums[len(terms) + 3 :].square().sum()) / n
        return StepMetrics(
            step=self.step + 1,
            tokens=(self.step + 1) * self.options.batch_tokens,
            loss=loss / n,
            terms={term: value / n for term, value in zip(terms, of_terms, strict=True)},
            explained_variance=1 - error / max(deviation, 1e-30),
            l0=float(features.total(fired.sum())) / n,
            n_dead=int(features.total(variant.dead.sum())),
            lr=self.optimizers[name].param_groups[0]["lr"],
        )


def _sums(loss: Loss, terms: list[str]) -> Tensor:
    """Sums over the tokens of a part of a batch, float64 [n_terms + 3 + d_out]: loss, terms, squared error, squares, y."""
    mean = loss.mean.double()
    squares = loss.squared_deviation.double() + loss.n * mean.square().sum()
    of_loss = torch.stack([loss.total.detach(), *(loss.terms[term] for term in terms)]).double() * loss.n
    return torch.cat([of_loss, torch.stack([loss.squared_error.double(), squares]), loss.n * mean])


def side_by_side(batch: Mapping[str, Tensor], hooks: tuple[str, ...]) -> Tensor:
    """The activations at some hooks as one tensor [n, sum of widths]."""
    return batch[hooks[0]] if len(hooks) == 1 else torch.cat([batch[hook] for hook in hooks], dim=1)


def _optimizer(variant: Variant, options: TrainOptions) -> torch.optim.Adam:
    groups: Any = variant.parameter_groups(options.lr)
    return torch.optim.Adam(groups, lr=options.lr, betas=(options.beta1, options.beta2), fused=True)
