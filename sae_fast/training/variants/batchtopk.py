"""BatchTopK (Bussmann et al. 2024) and Matryoshka BatchTopK (Bussmann et al. 2025): k features to a token on average."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sae_fast import ops
from sae_fast.config import Architecture
from sae_fast.errors import ConfigError
from sae_fast.sparse import SparseActs
from sae_fast.tables import at_least
from sae_fast.training.calibration import threshold_for_l0
from sae_fast.training.selection import among_largest
from sae_fast.training.variants.base import HeldOut, Loss, Moment, SharedOptions, VariantOptions
from sae_fast.training.variants.topk import TopK

REACH = 1.5
"""What each of several processes looks at, as a multiple of its share of the k · n largest."""


@dataclass(frozen=True, kw_only=True)
class KOfBatch(SharedOptions):
    """What chooses the largest activations of a batch has, wherever it reads."""

    k: float
    """active features of a token on average"""
    aux_coefficient: float = 1 / 32
    """weight of the loss that revives dead features"""
    k_aux: int | None = None
    """dead features that reconstruct the error of a token; default: half the width of what it reads"""
    threshold_decay: float = 0.99
    """of the running estimate of the threshold, kept in the metadata"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("[[sae]]", "aux_coefficient", self.aux_coefficient, 0)
        if not self.k > 0:
            raise ConfigError(f"[[sae]] k: expected a positive number, got {self.k}")


@dataclass(frozen=True, kw_only=True)
class BatchTopKOptions(KOfBatch, VariantOptions):
    """`architecture = "batchtopk"`."""

    unit_norm_decoder: bool | None = None
    """keep decoder rows at norm one; default: of SAEs, not of transcoders, whose decoder begins unrelated to the encoder and
    turns faster with free norms"""
    start_from_data: bool | None = None
    """begin with rows that lean towards sampled activations; default: of SAEs, not of transcoders"""


@dataclass(frozen=True, kw_only=True)
class MatryoshkaOptions(BatchTopKOptions):
    """`architecture = "matryoshka"`."""

    group_sizes: tuple[float, ...]
    """sizes of the groups of features, in order: numbers of features, or shares that sum to one"""

    def sizes(self, d_sae: int) -> tuple[int, ...]:
        """Sizes that sum to `d_sae`. Raises `ConfigError` where those given do not."""
        given = self.group_sizes
        if given and all(0 < size <= 1 for size in given) and abs(sum(given) - 1) < 1e-6:
            ends = [round(d_sae * sum(given[: i + 1])) for i in range(len(given))]
            given = tuple(end - begin for begin, end in zip([0, *ends], ends, strict=False))
        if not given or sum(given) != d_sae or min(given) < 1 or any(size != int(size) for size in given):
            raise ConfigError(f"[[sae]] group_sizes: expected sizes that sum to d_sae = {d_sae}, or shares to 1; got {given}")
        return tuple(int(size) for size in given)


class BatchTopK(TopK):
    """The k · n largest positive pre-activations of a batch; one threshold for all features when training is over."""

    Options: ClassVar[type[SharedOptions]] = BatchTopKOptions
    architecture: ClassVar[Architecture] = "batchtopk"

    running_threshold: Tensor
    n_seen: Tensor

    def __init__(self, options: Any, start: Any) -> None:
        super().__init__(options, start)
        self.register_buffer("running_threshold", torch.zeros((), dtype=torch.float64))
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.int64))
        self.reach = REACH

    def select(self, x: Tensor) -> SparseActs:
        """Activations of centred inputs; follows the smallest that is kept."""
        k = min(self.options.k, self.d_sae)
        if self.layout.everyone.size > 1:
            acts, smallest = self._select_together(x, k)
        else:
            acts = ops.encode_batch_topk(x, self.encoder, self.b_enc, k)
            smallest = float(acts.values.detach().min()) if acts.nnz else 0.0
        if self.training and smallest:
            decay = self.options.threshold_decay
            self.running_threshold.mul_(decay).add_((1 - decay) * smallest)
            self.n_seen += 1
        return acts

    def _select_together(self, x: Tensor, k: float) -> tuple[SparseActs, float]:
        """(activations among the k · n largest of the tokens and features of all processes, the smallest of all).

        Each process looks at somewhat more than its share, and all again at twice as many where one may have missed some.
        """
        layout = self.layout
        wanted = int(k * int(layout.rows.total(torch.tensor(len(x), device=x.device))))
        while True:
            most = min(float(self.n_own), self.reach * k / layout.features.size)
            acts = ops.encode_batch_topk(x, self.encoder, self.b_enc, most)
            values = acts.values.detach()
            chosen, smallest = among_largest(values, wanted, layout.everyone)
            is_full = most < self.n_own and acts.nnz == int(most * len(x)) and acts.nnz > 0
            if not layout.everyone.any(is_full and float(values.min()) > smallest, x.device):
                return acts.kept(chosen), smallest
            self.reach *= 2

    def threshold_of(self, held_out: HeldOut) -> Tensor | None:
        """The value with which the mean L0 on held-out tokens is k."""
        level = threshold_for_l0(
            lambda: (self.centred(self.scaled(x)) for x, _ in held_out()), self.W_enc, self.b_enc, self.options.k
        )
        return torch.full_like(self.b_enc, level)

    def config_fields(self) -> dict[str, Any]:
        """The mean number of features, where it is whole."""
        return {"k": int(self.options.k)} if float(self.options.k).is_integer() else {}

    def about(self) -> dict[str, Any]:
        """The paper's running estimate, with the correction that a mean which begins at zero needs."""
        correction = 1 - self.options.threshold_decay ** int(self.n_seen)
        running = float(self.running_threshold) / correction if correction else None
        return {"k": self.options.k, "running_threshold": running}


class Matryoshka(BatchTopK):
    """BatchTopK whose first groups of features reconstruct on their own as well: the loss is the mean over all prefixes."""

    Options: ClassVar[type[SharedOptions]] = MatryoshkaOptions

    def __init__(self, options: Any, start: Any) -> None:
        super().__init__(options, start)
        self.group_sizes = options.sizes(self.d_sae)

    def objective(self, x: Tensor, y: Tensor, moment: Moment) -> Loss:
        """`mean over prefixes of mean ‖y - ŷ_prefix‖² + c · aux`."""
        inputs = self.inputs(x)
        acts = self.select(inputs)
        y_hat, errors, begin = self.decoded(acts.in_features(0, 0), x), [], -self.own.start
        nothing = torch.zeros_like(self.b_dec)
        for size in self.group_sizes:
            written = ops.decode(acts.in_features(begin, begin + size), self.narrowed(self.W_dec), nothing)
            y_hat = y_hat + self.layout.summed(written)
            errors.append((y - y_hat).square().sum() / len(y))
            begin += size
        loss = self.reconstruction(y, y_hat, acts)
        loss.total = torch.stack(errors).mean()
        loss.terms |= {f"mse_prefix_{i}": error.detach() for i, error in enumerate(errors[:-1], 1)}
        return self.with_auxiliary(loss, inputs, y - y_hat)

    def config_fields(self) -> dict[str, Any]:
        """The groups too."""
        return {**super().config_fields(), "group_sizes": self.group_sizes}

    def about(self) -> dict[str, Any]:
        """The name that SAELens has for it."""
        return {**super().about(), "training_architecture": "matryoshka_batchtopk"}
