"""JumpReLU (Rajamanoharan et al. 2024): a threshold to each feature, learned by straight-through estimators.

Only entries above `θ - ε/2` are ever needed: those above θ are the activations, and those within half a bandwidth of it carry
the thresholds' gradient. So a step costs one matrix product and what is proportional to the entries, once L0 is small.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sae_fast import ops
from sae_fast.config import Architecture
from sae_fast.errors import ConfigError
from sae_fast.sparse import SparseActs
from sae_fast.tables import at_least
from sae_fast.training import penalties
from sae_fast.training.variants.base import HeldOut, Loss, Moment, SharedOptions, Variant, VariantOptions


@dataclass(frozen=True, kw_only=True)
class JumpReLUOptions(VariantOptions):
    """`architecture = "jumprelu"`."""

    penalty: Literal["step", "tanh", "quadratic"] = "quadratic"
    """`step`: λ · L0; `tanh`: λ · Σ tanh(c a ‖d‖); `quadratic`: λ · (L0 / target_l0 - 1)²"""
    l0_coefficient: float = 32.0
    """λ"""
    target_l0: float | None = None
    """of the quadratic penalty"""
    l0_warmup: float = 0.3
    """share of the steps over which λ rises from zero"""
    tanh_scale: float = 4.0
    """c of the tanh penalty"""
    bandwidth: float = 0.1
    """ε, width of the straight-through window, in scaled units (mean norm √d)"""
    initial_threshold: float = 0.1
    """θ of all features at the start, in scaled units"""
    threshold_lr: float | None = None
    """peak learning rate of log θ; default: twenty times that of the weights"""
    dead_coefficient: float = 3e-3
    """weight of the pull on features that never fire"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.penalty == "quadratic" and not (self.target_l0 or 0) > 0:
            raise ConfigError('[[sae]] target_l0: expected a positive number with penalty = "quadratic"')
        for name in ("bandwidth", "initial_threshold"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"[[sae]] {name}: expected a positive number, got {getattr(self, name)}")
        at_least("[[sae]]", "l0_coefficient", self.l0_coefficient, 0)


class JumpReLU(Variant):
    """`h · 1[h > θ]`."""

    Options: ClassVar[type[SharedOptions]] = JumpReLUOptions
    architecture: ClassVar[Architecture] = "jumprelu"
    by_feature: ClassVar[frozenset[str]] = Variant.by_feature | {"log_threshold"}

    def __init__(self, options: Any, start: Any) -> None:
        super().__init__(options, start)
        self.log_threshold = nn.Parameter(torch.full((self.n_own,), options.initial_threshold).log())

    def objective(self, x: Tensor, y: Tensor, moment: Moment) -> Loss:
        """`mean ‖y - ŷ‖² + λ(t) · penalty + c · pull on dead features`."""
        inputs, threshold = self.inputs(x), self.log_threshold.exp()
        near, entry_threshold, features = self.near(inputs, threshold)
        values = penalties.JumpReLU.apply(near, entry_threshold, self.options.bandwidth)
        acts = values if features is None else with_values(features, values)
        loss = self.reconstruction(y, self.decoded(acts, x), acts)
        penalty = self.penalty(near, values, entry_threshold, features, len(x))
        loss.terms["sparsity"] = penalty.detach()
        loss.total = loss.total + self.options.l0_coefficient * moment.risen(self.options.l0_warmup) * penalty
        return self.with_pull(loss, inputs, threshold)

    def near(self, inputs: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, SparseActs | None]:
        """(pre-activations, their thresholds, entries): all [n, n_own], or [nnz] of those above θ - ε/2 with their entries."""
        if self.is_dense:
            pre_acts = self.pre_acts(inputs)
            return pre_acts, threshold.expand_as(pre_acts), None
        lowest = (threshold - self.options.bandwidth / 2).detach()
        entries = ops.encode_threshold(inputs, self.encoder, self.b_enc, lowest)
        return entries.values, threshold[entries.col_indices.long()], entries

    def penalty(self, near: Tensor, values: Tensor, threshold: Tensor, entries: SparseActs | None, n: int) -> Tensor:
        """The sparsity term, of entries or dense values as `near` gives them."""
        options = self.options
        if options.penalty == "tanh":
            norms = self.decoder_norms()
            norms = norms if entries is None else norms[entries.col_indices.long()]
            return self.layout.summed(penalties.tanh_l0(values, norms, n, options.tanh_scale))
        l0 = self.layout.summed(penalties.Step.apply(near, threshold, options.bandwidth).sum() / n)
        return l0 if options.penalty == "step" else penalties.quadratic_l0(self.layout.rows.mean(l0, n), options.target_l0)

    def with_pull(self, loss: Loss, inputs: Tensor, threshold: Tensor) -> Loss:
        """Add the term of features that never fire. `inputs` are centred, `threshold` [n_own]."""
        dead, coefficient = self.dead, self.options.dead_coefficient
        if coefficient and int(self.layout.features.total(dead.sum())):
            norms = self.W_dec[dead].norm(dim=1)
            pull = self.layout.summed(penalties.dead_pre_activation(self.pre_acts(inputs, dead), threshold[dead], norms))
            loss.total = loss.total + coefficient * pull
            loss.terms["dead"] = pull.detach()
        return loss

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The thresholds have a learning rate of their own."""
        lr, weights = self.options.lr or lr, dict(self.named_parameters())
        log_threshold = weights.pop("log_threshold")
        return [
            {"params": list(weights.values()), "peak_lr": lr},
            {"params": [log_threshold], "peak_lr": self.options.threshold_lr or 20 * lr},
        ]

    def threshold_of(self, held_out: HeldOut) -> Tensor | None:
        """What was learned; never set anew."""
        return self.log_threshold.exp()

    def about(self) -> dict[str, Any]:
        """The target, where there is one."""
        return {} if self.options.target_l0 is None else {"target_l0": self.options.target_l0}


def with_values(entries: SparseActs, values: Tensor) -> SparseActs:
    """The same entries with other values."""
    return SparseActs(entries.crow_indices, entries.col_indices, values, entries.shape)
