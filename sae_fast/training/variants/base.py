"""`Variant`: the weights of one SAE in training, its loss, and the SAE it becomes.

Everything a run needs to go on is in parameters and buffers, so that `state_dict` is the whole of a checkpoint. Inputs and
targets are scaled so that their mean norm is √d (SAELens's expected_average_only_in); `to_sae` folds the factors back, and the
SAE takes and gives activations in the LM's own units.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sae_fast import ops
from sae_fast.config import Architecture, SAEConfig
from sae_fast.errors import ConfigError, NonFiniteError
from sae_fast.sae import SAE
from sae_fast.sparse import SparseActs
from sae_fast.tables import at_least

HeldOut = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Gives batches `(x [n, d_in], y [n, d_out])` in the LM's units, anew at each call."""

FREE_NORM = 0.1
"""Of decoder rows at the start where their norms are free (Anthropic, April 2024 update)."""
DENSE_ABOVE = 0.05
"""Share of non-zero activations from which matrix products are faster than sums over entries."""


@dataclass(frozen=True, kw_only=True)
class SharedOptions(ABC):
    """What every SAE in training has, wherever it reads and writes."""

    d_sae: int | None = None
    """number of features; give this or `expansion`"""
    expansion: float | None = None
    """number of features as a multiple of the width that it reads"""
    unit_norm_decoder: bool = True
    """keep decoder rows at norm one: their gradient turns them only, and they are rescaled after each step"""
    start_from_data: bool = False
    """begin with decoder rows that lean towards sampled activations: fewer dead features where these are many, but planted
    dictionaries are recovered better from random directions"""
    dead_after_tokens: int = 10_000_000
    """a feature counts as dead when it was not active on so many tokens in a row"""
    lr: float | None = None
    """peak learning rate; default: that of `[train]`"""
    seed: int = 0
    """of the initial weights"""
    name: str | None = None
    """its name in reports and folders; default: from hook, variant and options"""

    def __post_init__(self) -> None:
        if (self.d_sae is None) == (self.expansion is None):
            raise ConfigError("[[sae]]: expected d_sae or expansion, and not both")
        at_least("[[sae]]", "d_sae", self.d_sae, 1)
        at_least("[[sae]]", "dead_after_tokens", self.dead_after_tokens, 1)

    def features(self, d_in: int) -> int:
        """Number of features for inputs of width `d_in`."""
        return self.d_sae if self.d_sae is not None else max(1, round(d_in * (self.expansion or 1)))

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Hooks whose activations, side by side, are the input."""

    @property
    @abstractmethod
    def writes(self) -> tuple[str, ...]:
        """Hooks whose activations, side by side, are the target."""


@dataclass(frozen=True, kw_only=True)
class VariantOptions(SharedOptions):
    """What every SAE that reads one hook and writes one has."""

    hook_name: str
    """where in the LM it reads"""
    hook_name_out: str | None = None
    """where it writes, for a transcoder; default: it reconstructs what it reads"""
    skip: bool = False
    """a linear term beside the features (transcoders)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.skip and self.hook_name_out is None:
            raise ConfigError("[[sae]] skip: only a transcoder has a skip term; give hook_name_out")

    @property
    def reads(self) -> tuple[str, ...]:
        """The one hook."""
        return (self.hook_name,)

    @property
    def writes(self) -> tuple[str, ...]:
        """The one hook."""
        return (self.hook_name_out or self.hook_name,)


@dataclass(frozen=True)
class Start:
    """What is known of the activations before training, in the LM's units."""

    x: Tensor
    """`[n, d_in]`, a sample of what is read."""
    y: Tensor
    """`[n, d_out]`, what is written at the same tokens."""
    scale_in: float | Tensor
    """√d_in / mean norm of what is read; of several hooks [d_in], each dimension that of its hook."""
    scale_out: float | Tensor
    """√d_out / mean norm of what is written, or [d_out]."""
    widths: tuple[int, ...] = ()
    """of the hooks that are written at, where there are several."""


@dataclass(frozen=True)
class Moment:
    """Where a run is, for schedules of a loss."""

    step: int
    n_steps: int

    def risen(self, share: float) -> float:
        """From 0 to 1 over the first `share` of the steps, then 1."""
        return min(1.0, self.step / max(1.0, share * self.n_steps))


@dataclass
class Loss:
    """What one batch gave."""

    total: Tensor
    """scalar, to be minimised"""
    fired: Tensor
    """int64 [d_sae], on how many of the batch's tokens each feature was active"""
    squared_error: Tensor
    """scalar, summed over tokens and dimensions, in scaled units"""
    squared_deviation: Tensor
    """the same of the batch's mean as the reconstruction"""
    mean: Tensor
    """[d_out] that mean"""
    n: int
    """tokens"""
    terms: dict[str, Tensor] = field(default_factory=dict)
    """parts of the total, unweighted, by name"""
    y_hat: Tensor | None = None
    """[n, d_out] the reconstruction in scaled units, with its gradient"""

    def release(self) -> None:
        """Let go of everything that holds the batch in memory."""
        self.total, self.y_hat = self.total.detach(), None

    @property
    def l0(self) -> float:
        """Mean number of active features."""
        return int(self.fired.sum()) / self.n

    @property
    def explained_variance(self) -> float:
        """Of this batch: 1 - error / deviation from its mean."""
        return 1 - float(self.squared_error) / max(float(self.squared_deviation), 1e-30)


class Variant(nn.Module, ABC):
    """One SAE in training."""

    Options: ClassVar[type[SharedOptions]] = VariantOptions
    architecture: ClassVar[Architecture]

    tokens_since_active: Tensor
    scale_in: Tensor
    scale_out: Tensor
    density: Tensor

    def __init__(self, options: Any, start: Start) -> None:
        super().__init__()
        self.options = options
        self.compute_dtype = torch.float32
        """dtype in which inputs and weights are multiplied; sums, weights and gradients are float32 or wider"""
        self.d_in, self.d_out = start.x.shape[1], start.y.shape[1]
        self.d_sae = options.features(self.d_in)
        self.is_transcoder = options.writes != options.reads
        generator = torch.Generator().manual_seed(options.seed)
        W_enc, W_dec = initial_rows(self.d_sae, start, options, self.is_transcoder, generator)
        self.W_enc = nn.Parameter(W_enc)
        self.W_dec = nn.Parameter(W_dec)
        self.b_dec = nn.Parameter((start.y.double().mean(0) * start.scale_out).float())
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        has_skip = isinstance(options, VariantOptions) and options.skip
        self.W_skip = nn.Parameter(torch.zeros(self.d_out, self.d_in)) if has_skip else None
        self.register_buffer("tokens_since_active", torch.zeros(self.d_sae, dtype=torch.int64))
        self.register_buffer("scale_in", torch.as_tensor(start.scale_in).double().expand(self.d_in).clone())
        self.register_buffer("scale_out", torch.as_tensor(start.scale_out).double().expand(self.d_out).clone())
        self.register_buffer("density", torch.tensor(1.0))

    @abstractmethod
    def objective(self, x: Tensor, y: Tensor, moment: Moment) -> Loss:
        """The loss of scaled inputs and targets."""

    @abstractmethod
    def threshold_of(self, held_out: HeldOut) -> Tensor | None:
        """[d_sae] what pre-activations are compared with in the finished SAE, or None where it has none."""

    def loss(self, x: Tensor, y: Tensor, moment: Moment) -> Loss:
        """The loss of a batch `x` [n, d_in], `y` [n, d_out] in the LM's units.

        Raises `NonFiniteError` where it is NaN or infinite: the trainer stops at the last good checkpoint.
        """
        loss = self.objective(self.scaled(x), self.scaled_target(y), moment)
        if not bool(torch.isfinite(loss.total)):
            total = float(loss.total.detach())
            raise NonFiniteError(f"the loss of step {moment.step} is {total}", advice="Lower the learning rate")
        return loss

    def clip_gradients(self, largest: float) -> None:
        """Scale all gradients down together where their norm is above `largest`."""
        nn.utils.clip_grad_norm_(self.parameters(), largest)

    def totalled(self, counts: Tensor) -> Tensor:
        """The sum of counts over all parts of the dictionary; they are here as a rule (see `sharded`)."""
        return counts.sum()

    def gathered(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of the state, by the name of its parameter or buffer, with the parts that other processes hold."""
        return tensor

    def whole(self) -> "Variant":
        """With all features."""
        return self

    def own_part(self, name: str, tensor: Tensor) -> Tensor:
        """Of a gathered tensor what this process holds."""
        return tensor

    def scaled(self, x: Tensor) -> Tensor:
        """Inputs in the units of training."""
        return x.float() * self.scale_in.float()

    def scaled_target(self, y: Tensor) -> Tensor:
        """Targets in the units of training."""
        return y.float() * self.scale_out.float()

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """For the optimizer; every group names its peak learning rate."""
        return [{"params": list(self.parameters()), "peak_lr": self.options.lr or lr}]

    @torch.no_grad()
    def after_backward(self) -> None:
        """Remove the part of the decoder's gradient along its rows, where they keep norm one."""
        if self.options.unit_norm_decoder and self.W_dec.grad is not None:
            grad, rows = self.W_dec.grad, self.W_dec
            grad -= (grad * rows).sum(-1, keepdim=True) * rows

    @torch.no_grad()
    def after_step(self, fired: Tensor, n: int) -> None:
        """Rescale the decoder and count the tokens since each feature was active. `fired` [d_sae] and `n` are of the step."""
        if self.options.unit_norm_decoder:
            self.W_dec.div_(self.W_dec.norm(dim=-1, keepdim=True).clamp(min=1e-12))
        self.tokens_since_active += n
        self.tokens_since_active[fired > 0] = 0
        self.density.fill_(float(fired.sum()) / (n * self.d_sae))

    @property
    def dead(self) -> Tensor:
        """Bool [d_sae]."""
        return self.tokens_since_active >= self.options.dead_after_tokens

    @property
    def is_dense(self) -> bool:
        """Whether the last step's activations were so many that dense products are faster."""
        return float(self.density) > DENSE_ABOVE

    @torch.no_grad()
    def to_saes(self, held_out: HeldOut, dtype: torch.dtype = torch.float32) -> dict[str, SAE]:
        """What it becomes, by what is appended to its name: one SAE, or one for each layer."""
        return {"": self.to_sae(held_out, dtype)}

    @torch.no_grad()
    def to_sae(self, held_out: HeldOut, dtype: torch.dtype = torch.float32) -> SAE:
        """The SAE in the LM's units, weights in `dtype`, biases and thresholds in float32.

        Features are left in scaled units (scaled encoder, divided decoder), as SAELens folds its factor.
        """
        tensors = self.tensors(dtype)
        threshold = self.threshold_of(held_out)
        if threshold is not None:
            tensors["threshold"] = threshold.detach().clone()
        return SAE(self.config(), **tensors)

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Those of the finished SAE, but its threshold."""
        scale_in, scale_out = self.scale_in, self.scale_out
        tensors = {
            "W_enc": (self.W_enc.double() * scale_in).to(dtype).T,
            "W_dec": (self.W_dec.double() / scale_out).to(dtype),
            "b_dec": (self.b_dec.double() / scale_out).float(),
            "b_enc": self.b_enc.detach().clone(),
        }
        if self.W_skip is not None:
            tensors["W_skip"] = (self.W_skip.double() * scale_in / scale_out[:, None]).to(dtype)
        return tensors

    def config(self) -> SAEConfig:
        """Of the SAE it becomes; the trainer adds the model's name and the contexts'."""
        return SAEConfig(
            architecture=self.architecture,
            d_in=self.d_in,
            d_sae=self.d_sae,
            d_out=self.d_out,
            hook_name=self.options.hook_name,
            hook_name_out=self.options.hook_name_out,
            transcoder=self.is_transcoder,
            skip=self.options.skip,
            apply_b_dec_to_input=not self.is_transcoder,
            metadata={"training_architecture": self.architecture, **self.about()},
            **self.config_fields(),
        )

    def config_fields(self) -> dict[str, Any]:
        """Further fields of the configuration."""
        return {}

    def about(self) -> dict[str, Any]:
        """For the metadata."""
        return {}

    def centred(self, x: Tensor) -> Tensor:
        """What is encoded: `x - b_dec` for an SAE, `x` for a transcoder."""
        return x if self.is_transcoder else x - self.b_dec

    def decoder_norms(self) -> Tensor:
        """What a penalty weights activations by, [d_sae]: norms of the decoder's rows."""
        return self.W_dec.norm(dim=1)

    def narrowed(self, weights: Tensor) -> Tensor:
        """Weights as they enter a product."""
        is_wide = self.compute_dtype == torch.float32
        return weights if is_wide else weights.to(self.compute_dtype)

    @property
    def encoder(self) -> Tensor:
        """`W_enc.T` [d_in, d_sae] as `ops` take it."""
        return self.narrowed(self.W_enc).T

    def product(self, x: Tensor, rows: Tensor) -> Tensor:
        """`x @ rows.T` of narrowed operands, in the dtype of `x`."""
        return (self.narrowed(x) @ self.narrowed(rows).T).to(x.dtype)

    def pre_acts(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """Dense pre-activations of centred inputs, of all features or some (a boolean mask)."""
        rows, bias = (self.W_enc, self.b_enc) if features is None else (self.W_enc[features], self.b_enc[features])
        return self.product(x, rows) + bias

    def decoded(self, acts: SparseActs | Tensor, x: Tensor) -> Tensor:
        """The output for scaled inputs `x`, skip term included, from sparse or dense activations."""
        y_hat = (
            ops.decode(acts, self.narrowed(self.W_dec), self.b_dec)
            if isinstance(acts, SparseActs)
            else self.product(acts, self.W_dec.T) + self.b_dec
        )
        return y_hat if self.W_skip is None else y_hat + x @ self.W_skip.T

    def reconstruction(self, y: Tensor, y_hat: Tensor, acts: SparseActs | Tensor) -> Loss:
        """A loss of the mean squared error alone, `mean ‖y - ŷ‖²`, to which a variant adds its terms."""
        error = (y - y_hat).square().sum()
        return loss_of(error, fired_counts(acts, self.d_sae), y, y_hat)


def loss_of(error: Tensor, fired: Tensor, y: Tensor, y_hat: Tensor) -> Loss:
    """A loss of the mean squared error alone; `error` is summed over tokens and dimensions."""
    mse, mean = error / len(y), y.detach().mean(0)
    deviation = (y.detach() - mean).square().sum()
    return Loss(mse, fired, error.detach(), deviation, mean, len(y), {"mse": mse.detach()}, y_hat)


def fired_counts(acts: SparseActs | Tensor, d_sae: int) -> Tensor:
    """int64 [d_sae], the number of tokens on which each feature is not zero."""
    if isinstance(acts, SparseActs):
        return torch.bincount(acts.col_indices[acts.values.detach() != 0], minlength=d_sae)
    return (acts.detach() != 0).sum(0)


def initial_rows(
    d_sae: int, start: Start, options: SharedOptions, is_transcoder: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(encoder rows [d_sae, d_in], decoder rows [d_sae, d_out]); of an SAE they have one direction."""
    norm_in, norm_out = (0.5, 1.0) if options.unit_norm_decoder else (FREE_NORM, FREE_NORM)
    noise = nn.functional.normalize(torch.randn(d_sae, start.y.shape[1], generator=generator), dim=1)
    if options.start_from_data:
        y = (start.y * start.scale_out).float()
        chosen = y[torch.randint(0, len(y), (d_sae,), generator=generator)] - y.mean(0)
        noise = nn.functional.normalize(nn.functional.normalize(chosen, dim=1) + 0.5 * noise, dim=1)
    if not is_transcoder:
        return norm_in * noise, norm_out * noise
    rows = nn.functional.normalize(torch.randn(d_sae, start.x.shape[1], generator=generator), dim=1)
    return norm_in * rows, norm_out * noise
