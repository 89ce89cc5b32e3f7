"""The loop: several SAEs over one stream of activations, each with its own optimizer, and everything needed to go on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, ConfigError
from sae_fast.tables import at_least
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
    """largest norm of a step's gradient, in units of the gradient of the mean loss per dimension; none: no clipping"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """of the products; weights, sums and the optimizer are float32 either way"""
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

    def __init__(self, variants: Mapping[str, Variant], options: TrainOptions) -> None:
        if not variants:
            raise ArgumentError("variants", expected="at least one SAE to train", got="none")
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
        for batch in batches(self.step):
            if self.step >= end:
                return
            metrics = {name: self._train(name, variant, batch) for name, variant in self.variants.items()}
            self.step += 1
            if report is not None:
                report(metrics)

    def hooks(self) -> list[str]:
        """Every hook that a variant reads or writes at."""
        options = [variant.options for variant in self.variants.values()]
        return list(dict.fromkeys(hook for o in options for hook in (o.hook_name, o.hook_name_out) if hook is not None))

    def state(self) -> dict[str, Tensor]:
        """All that a run needs to go on, by name."""
        tensors = {"step": torch.tensor(self.step)}
        for name, variant in self.variants.items():
            tensors |= {f"{name}/weights/{key}": value for key, value in variant.state_dict().items()}
            for number, state in self.optimizers[name].state_dict()["state"].items():
                tensors |= {f"{name}/adam/{number}/{key}": torch.as_tensor(value) for key, value in state.items()}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a run where `state` left it."""
        self.step = int(tensors["step"])
        for name, variant in self.variants.items():
            variant.load_state_dict(_below(tensors, f"{name}/weights/"))
            adam: dict[int, dict[str, Tensor]] = {}
            for key, value in _below(tensors, f"{name}/adam/").items():
                number, _, field = key.partition("/")
                adam.setdefault(int(number), {})[field] = value
            optimizer = self.optimizers[name]
            optimizer.load_state_dict({**optimizer.state_dict(), "state": adam})

    def _train(self, name: str, variant: Variant, batch: Mapping[str, Tensor]) -> StepMetrics:
        options, optimizer = self.options, self.optimizers[name]
        factor = lr_factor(self.step, options.n_steps, options.warmup, options.decay, options.schedule)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        x = batch[variant.options.hook_name]
        y = x if variant.options.hook_name_out is None else batch[variant.options.hook_name_out]
        moment = Moment(self.step, options.n_steps)
        losses = []
        variant.train()
        for x_part, y_part in zip(x.chunk(options.accumulate), y.chunk(options.accumulate), strict=True):
            losses.append(variant.loss(x_part, y_part, moment))
            (losses[-1].total * (len(x_part) / len(x))).backward()
        variant.after_backward()
        if options.clip_norm is not None:
            # The loss sums over the width and its gradient grows with it; SAEs of all widths are clipped alike.
            torch.nn.utils.clip_grad_norm_(variant.parameters(), options.clip_norm * variant.d_out)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        fired = torch.stack([loss.fired for loss in losses]).sum(0)
        variant.after_step(fired, len(x))
        return self._metrics(variant, losses, fired, optimizer.param_groups[0]["lr"])

    def _metrics(self, variant: Variant, losses: list[Loss], fired: Tensor, lr: float) -> StepMetrics:
        n = sum(loss.n for loss in losses)

        def mean(values: list[Tensor]) -> float:
            return sum(float(value) * loss.n for value, loss in zip(values, losses, strict=True)) / n

        terms = {name: mean([loss.terms[name] for loss in losses if name in loss.terms]) for name in losses[-1].terms}
        error = sum(float(loss.squared_error) for loss in losses)
        deviation = sum(float(loss.squared_deviation) for loss in losses)
        return StepMetrics(
            step=self.step + 1,
            tokens=(self.step + 1) * self.options.batch_tokens,
            loss=mean([loss.total.detach() for loss in losses]),
            terms=terms,
            explained_variance=1 - error / max(deviation, 1e-30),
            l0=float(fired.sum()) / n,
            n_dead=int(variant.dead.sum()),
            lr=lr,
        )


def _optimizer(variant: Variant, options: TrainOptions) -> torch.optim.Adam:
    groups: Any = variant.parameter_groups(options.lr)
    return torch.optim.Adam(groups, lr=options.lr, betas=(options.beta1, options.beta2), fused=True)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
