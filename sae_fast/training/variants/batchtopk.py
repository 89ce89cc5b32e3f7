"""BatchTopK (Bussmann et al. 2024) and Matryoshka BatchTopK (Bussmann et al. 2025): k features to a token on average."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sae_fast import ops
from sae_fast.config import Architecture
from sae_fast.errors import ConfigError
from sae_fast.sparse import SparseActs, row_pointer
from sae_fast.tables import at_least
from sae_fast.training.calibration import threshold_for_l0
from sae_fast.training.variants.base import HeldOut, Loss, Moment, SharedOptions, VariantOptions
from sae_fast.training.variants.topk import TopK


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

    def select(self, x: Tensor) -> SparseActs:
        """Activations of centred inputs; follows the smallest that is kept."""
        acts = ops.encode_batch_topk(x, self.encoder, self.b_enc, min(self.options.k, self.d_sae))
        if self.training and acts.nnz:
            decay = self.options.threshold_decay
            self.running_threshold.mul_(decay).add_((1 - decay) * float(acts.values.detach().min()))
            self.n_seen += 1
        return acts

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
        inputs = self.centred(x)
        acts = self.select(inputs)
        y_hat, errors, begin = self.decoded(_of_features(acts, 0, 0), x), [], 0
        nothing = torch.zeros_like(self.b_dec)
        for size in self.group_sizes:
            y_hat = y_hat + ops.decode(_of_features(acts, begin, begin + size), self.narrowed(self.W_dec), nothing)
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


def _of_features(acts: SparseActs, first: int, last: int) -> SparseActs:
    """The entries of the features from `first` to `last`, of the same tokens."""
    chosen = (acts.col_indices >= first) & (acts.col_indices < last)
    counts = torch.bincount(acts.row_indices()[chosen], minlength=acts.shape[0])
    return SparseActs(row_pointer(counts), acts.col_indices[chosen], acts.values[chosen], acts.shape)
