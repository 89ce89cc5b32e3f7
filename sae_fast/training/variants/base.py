"""`Variant`: the weights of one SAE in training, its loss, and the SAE it becomes.

Everything a run needs to go on is in parameters and buffers, so that `state_dict` is the whole of a checkpoint. Inputs and
targets are scaled so that their mean norm is √d (SAELens's expected_average_only_in); `to_sae` folds the factors back, and the
SAE takes and gives activations in the LM's own units.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sae_fast import ops
from sae_fast.config import Architecture, SAEConfig
from sae_fast.errors import NonFiniteError
from sae_fast.sae import SAE
from sae_fast.sparse import SparseActs
from sae_fast.training.distributed import local
from sae_fast.training.layout import whole
from sae_fast.training.variants.loss import Loss, Moment, fired_counts, loss_of
from sae_fast.training.variants.options import SharedOptions, VariantOptions
from sae_fast.training.variants.start import Start, initial_rows

__all__ = ["HeldOut", "Loss", "Moment", "SharedOptions", "Start", "Variant", "VariantOptions", "fired_counts", "loss_of"]

HeldOut = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Gives batches `(x [n, d_in], y [n, d_out])` in the LM's units, anew at each call."""

DENSE_ABOVE = 0.05
"""Share of non-zero activations from which matrix products are faster than sums over entries."""


class Variant(nn.Module, ABC):
    """One SAE in training."""

    Options: ClassVar[type[SharedOptions]] = VariantOptions
    architecture: ClassVar[Architecture]
    by_feature: ClassVar[frozenset[str]] = frozenset({"W_enc", "W_dec", "b_enc", "tokens_since_active"})
    """parameters and buffers with a row for each feature"""
    why_whole: ClassVar[str | None] = None
    """why its features cannot be spread over processes, where they cannot"""

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
        self.d_sae, self.layout, self.widths = options.features(self.d_in), start.layout, start.widths
        self.own = self.layout.own_features(self.d_sae)
        self.n_own = self.own.stop - self.own.start
        """features of this process: all, as a rule"""
        self.is_transcoder = options.writes != options.reads
        W_enc, W_dec = initial_rows(self.own, self.d_sae, start, options, self.is_transcoder)
        self.W_enc = nn.Parameter(W_enc)
        self.W_dec = nn.Parameter(W_dec)
        mean = (start.y.double().mean(0) * start.scale_out).float()
        self.b_dec = nn.Parameter(mean if options.start_at_mean else torch.zeros_like(mean))
        self.b_enc = nn.Parameter(torch.zeros(self.n_own))
        has_skip = isinstance(options, VariantOptions) and options.skip
        self.W_skip = nn.Parameter(torch.zeros(self.d_out, self.d_in)) if has_skip else None
        self.register_buffer("tokens_since_active", torch.zeros(self.n_own, dtype=torch.int64))
        self.register_buffer("scale_in", torch.as_tensor(start.scale_in).double().expand(self.d_in).clone())
        self.register_buffer("scale_out", torch.as_tensor(start.scale_out).double().expand(self.d_out).clone())
        self.register_buffer("density", torch.tensor(1.0))

    def __getattr__(self, name: str) -> Any:
        """Parameters and buffers as kernels take them: of a dictionary in parts, the own part of a DTensor."""
        found = super().__getattr__(name)
        return local(found) if isinstance(found, Tensor) else found

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

    def distributed(self) -> "Variant":
        """Itself, with DTensors for its parameters where other processes hold other features; call it on its device."""
        self.layout.distribute(self, self.by_feature)
        return self

    def whole(self) -> "Variant | None":
        """With all features: itself, or where they are in parts, a copy in main memory in the first process alone.

        All processes must call it.
        """
        if self.layout.mesh is None:
            return self
        is_first = self.layout.everyone.is_first
        state = {name: _on_host(value, is_first) for name, value in self.state_dict().items()}
        if not is_first:
            return None
        nothing = Start(torch.zeros(1, self.d_in), torch.zeros(1, self.d_out), 1.0, 1.0, self.widths)
        copy = type(self)(self.options, nothing)
        copy.load_state_dict(state)
        return copy

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
        of_decoder = self._parameters["W_dec"]
        if self.options.unit_norm_decoder and of_decoder is not None and of_decoder.grad is not None:
            grad, rows = local(of_decoder.grad), self.W_dec
            grad -= (grad * rows).sum(-1, keepdim=True) * rows

    @torch.no_grad()
    def after_step(self, fired: Tensor, n: int) -> None:
        """Rescale the decoder and count the tokens since each feature was active. `fired` [n_own] and `n` are of the step."""
        if self.options.unit_norm_decoder:
            self.W_dec.div_(self.W_dec.norm(dim=-1, keepdim=True).clamp(min=1e-12))
        self.tokens_since_active.add_(n)[fired > 0] = 0
        self.density.fill_(float(self.layout.features.total(fired.sum())) / (n * self.d_sae))

    @property
    def dead(self) -> Tensor:
        """Bool [n_own]."""
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

    def inputs(self, x: Tensor) -> Tensor:
        """What the features of this process read, whose gradient is that of all features."""
        return self.layout.copied(self.centred(x))

    def decoder_norms(self) -> Tensor:
        """What a penalty weights activations by, [n_own]: norms of the decoder's rows."""
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

    def decoded(self, acts: SparseActs | Tensor, x: Tensor, frozen: bool = False) -> Tensor:
        """The output for scaled inputs `x`, skip term included, from sparse or dense activations.

        With `frozen`, the weights are constants.
        """
        W_dec, b_dec = (weights.detach() if frozen else weights for weights in (self.W_dec, self.b_dec))
        is_whole = self.layout.mesh is None
        bias = b_dec if is_whole else torch.zeros_like(b_dec)
        if isinstance(acts, SparseActs):
            y_hat = ops.decode(acts, self.narrowed(W_dec), bias)
        else:
            y_hat = self.product(acts, W_dec.T) + bias
        y_hat = y_hat if is_whole else self.layout.summed(y_hat) + b_dec
        if self.W_skip is None:
            return y_hat
        return y_hat + x @ (self.W_skip.detach() if frozen else self.W_skip).T

    def reconstruction(self, y: Tensor, y_hat: Tensor, acts: SparseActs | Tensor) -> Loss:
        """A loss of the mean squared error alone, `mean ‖y - ŷ‖²`, to which a variant adds its terms."""
        error = (y - y_hat).square().sum()
        return loss_of(error, fired_counts(acts, self.n_own), y, y_hat)


def _on_host(tensor: Tensor, keep: bool) -> Tensor:
    """A tensor of all features in main memory, or nothing of it; all processes must call this."""
    found = whole(tensor)
    return found.cpu() if keep else found.new_empty(0)
