"""Cross-layer transcoders (Ameisen et al. 2025): features read at one layer and write to it and to all later ones.

All layers are trained together, since each output is the sum of what the features of its and all earlier layers write there.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sae_fast import ops
from sae_fast.config import Architecture, SAEConfig
from sae_fast.errors import ArgumentError, ConfigError
from sae_fast.sae import SAE
from sae_fast.sparse import SparseActs
from sae_fast.training import penalties
from sae_fast.training.variants.base import HeldOut, Loss, Moment, SharedOptions, Start, Variant, fired_counts, loss_of
from sae_fast.training.variants.jumprelu import JumpReLU, JumpReLUOptions, with_values


@dataclass(frozen=True, kw_only=True)
class CLTOptions(SharedOptions):
    """`architecture = "clt"`. `d_sae` or `expansion` are of each layer."""

    hook_names: tuple[str, ...]
    """where each layer reads, in order"""
    hook_names_out: tuple[str, ...]
    """where each layer writes, in order; a layer writes at its own hook and at all that follow"""
    penalty: Literal["step", "tanh", "quadratic"] = "tanh"
    """as of `jumprelu`, for each layer; norms are those of a feature's rows of all layers together"""
    l0_coefficient: float = 2.0
    """λ"""
    target_l0: float | None = None
    """of each layer, for the quadratic penalty"""
    l0_warmup: float = 0.3
    """share of the steps over which λ rises from zero"""
    tanh_scale: float = 4.0
    """c of the tanh penalty"""
    bandwidth: float = 0.1
    """ε, width of the straight-through window, in scaled units"""
    initial_threshold: float = 0.1
    """θ of all features at the start, in scaled units"""
    threshold_lr: float | None = None
    """peak learning rate of log θ; default: twenty times that of the weights"""
    dead_coefficient: float = 3e-3
    """weight of the pull on features that never fire"""
    unit_norm_decoder: bool = False
    """keep decoder rows, of all layers together, at norm one"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.hook_names) != len(self.hook_names_out) or not self.hook_names:
            raise ConfigError("[[sae]] hook_names_out: expected as many hooks as in hook_names, at least one")
        if any(read == write for read, write in zip(self.hook_names, self.hook_names_out, strict=True)):
            raise ConfigError("[[sae]] hook_names_out: expected another hook than that at which the layer reads")
        self.of_layer(0)

    @property
    def reads(self) -> tuple[str, ...]:
        """One hook for each layer."""
        return self.hook_names

    @property
    def writes(self) -> tuple[str, ...]:
        """One hook for each layer."""
        return self.hook_names_out

    def of_layer(self, layer: int) -> JumpReLUOptions:
        """Options of one layer's features."""
        given = {option.name: getattr(self, option.name) for option in fields(self)}
        del given["hook_names"], given["hook_names_out"]
        given |= {"hook_name": self.hook_names[layer], "hook_name_out": self.hook_names_out[layer], "seed": self.seed + layer}
        return JumpReLUOptions(**given)


class CLTLayer(JumpReLU):
    """The features of one layer: [d_sae, n_out * d_out] decoder rows, and the bias of its own output."""

    def __init__(self, options: Any, start: Start, names_out: tuple[str, ...]) -> None:
        super().__init__(options, start)
        self.names_out, self.width = names_out, self.d_out // len(names_out)
        self.b_dec = nn.Parameter(self.b_dec.detach()[: self.width].clone())

    def written(self, x: Tensor) -> tuple[Tensor, SparseActs | Tensor, Tensor]:
        """(what it writes [n, n_out * d_out] but its bias, activations, penalty) for scaled inputs."""
        near, threshold, entries = self.near(x, self.log_threshold.exp())
        values = penalties.JumpReLU.apply(near, threshold, self.options.bandwidth)
        penalty = self.penalty(near, values, threshold, entries, len(x))
        if entries is None:
            return self.product(values, self.W_dec.T), values, penalty
        acts = with_values(entries, values)
        return ops.decode(acts, self.narrowed(self.W_dec), self.W_dec.new_zeros(self.d_out)), acts, penalty

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Decoder [d_sae, n_out, d_out]; the bias stands at the layer's own output, so that layers can be added up."""
        b_dec, scale_out = self.b_dec, self.scale_out[: self.width]
        bias = torch.zeros(len(self.names_out), self.width, device=b_dec.device)
        bias[0] = (b_dec.double() / scale_out).float()
        return {
            "W_enc": (self.W_enc.double() * self.scale_in).to(dtype).T,
            "W_dec": (self.W_dec.double() / self.scale_out).to(dtype).unflatten(1, bias.shape),
            "b_dec": bias,
            "b_enc": self.b_enc.detach().clone(),
        }

    def config(self) -> SAEConfig:
        """One layer of a cross-layer transcoder."""
        return SAEConfig(
            architecture="jumprelu",
            d_in=self.d_in,
            d_sae=self.d_sae,
            d_out=self.width,
            hook_name=self.options.hook_name,
            hook_names_out=self.names_out,
            transcoder=True,
            metadata={"training_architecture": "clt"},
        )


class CLT(Variant):
    """Layers that share their outputs. Features are counted through all layers."""

    Options: ClassVar[type[SharedOptions]] = CLTOptions
    architecture: ClassVar[Architecture] = "jumprelu"

    def __init__(self, options: Any, start: Start) -> None:
        nn.Module.__init__(self)
        n = len(options.hook_names)
        self.options, self.layout, self.widths = options, start.layout, start.widths
        self.d_in, self.d_out = start.x.shape[1], start.y.shape[1]
        if self.d_in % n or self.d_out % n or len(set(start.widths)) > 1:
            raise ArgumentError("clt", expected="hooks of one width", got=f"widths {list(start.widths)}")
        self.width_in, self.width_out = self.d_in // n, self.d_out // n
        self.is_transcoder, self.W_skip = True, None
        self.register_buffer("scale_in", torch.as_tensor(start.scale_in).double().expand(self.d_in).clone())
        self.register_buffer("scale_out", torch.as_tensor(start.scale_out).double().expand(self.d_out).clone())
        self.layers = nn.ModuleList(self._layer(layer, start) for layer in range(n))
        self.d_sae = sum(layer.d_sae for layer in self.each)
        self.compute_dtype = torch.float32

    @property
    def each(self) -> list[CLTLayer]:
        """The layers."""
        return [layer for layer in self.layers if isinstance(layer, CLTLayer)]

    def _layer(self, layer: int, start: Start) -> CLTLayer:
        own, later = slice(layer * self.width_in, (layer + 1) * self.width_in), slice(layer * self.width_out, None)
        part = Start(start.x[:, own], start.y[:, later], self.scale_in[own], self.scale_out[later], layout=self.layout)
        return CLTLayer(self.options.of_layer(layer), part, self.options.hook_names_out[layer:])

    def objective(self, x: Tensor, y: Tensor, moment: Moment) -> Loss:
        """`Σ_layers mean ‖y - ŷ‖² + λ(t) · Σ_layers penalty + c · pull on dead features`."""
        total, penalty, fired = torch.zeros_like(y), x.new_zeros(()), []
        inputs = x.split(self.width_in, dim=1)
        for number, (layer, own) in enumerate(zip(self.each, inputs, strict=True)):
            layer.compute_dtype = self.compute_dtype
            written, acts, one = layer.written(own)
            total = total + nn.functional.pad(written, (number * self.width_out, 0))
            penalty = penalty + one
            fired.append(fired_counts(acts, layer.n_own))
        y_hat = self.layout.summed(total) + torch.cat([layer.b_dec for layer in self.each])
        error = (y - y_hat).square().sum()
        loss = loss_of(error, torch.cat(fired), y, y_hat)
        loss.terms["sparsity"] = penalty.detach()
        loss.total = loss.total + self.options.l0_coefficient * moment.risen(self.options.l0_warmup) * penalty
        for layer, own in zip(self.each, inputs, strict=True):
            loss = layer.with_pull(loss, own, layer.log_threshold.exp())
        return loss

    def distributed(self) -> "CLT":
        """As each layer."""
        for layer in self.each:
            layer.distributed()
        return self

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Those of all layers."""
        return [group for layer in self.each for group in layer.parameter_groups(lr)]

    def after_backward(self) -> None:
        """As each layer does."""
        for layer in self.each:
            layer.after_backward()

    def after_step(self, fired: Tensor, n: int) -> None:
        """As each layer does."""
        for layer, own in zip(self.each, fired.split([layer.n_own for layer in self.each]), strict=True):
            layer.after_step(own, n)

    @property
    def dead(self) -> Tensor:
        """Bool [n_own of all layers], in order."""
        return torch.cat([layer.dead for layer in self.each])

    def threshold_of(self, held_out: HeldOut) -> Tensor | None:
        """What was learned, of all layers."""
        return torch.cat([layer.log_threshold.exp() for layer in self.each])

    def to_sae(self, held_out: HeldOut, dtype: torch.dtype = torch.float32) -> SAE:
        """Refused: a cross-layer transcoder is one SAE for each layer."""
        raise ArgumentError("to_sae", expected="a variant that becomes one SAE; take to_saes", got="clt")

    def to_saes(self, held_out: HeldOut, dtype: torch.dtype = torch.float32) -> dict[str, SAE]:
        """`layer-0`, `layer-1`, …; what they write at a hook is to be added up."""
        return {f"layer-{number}": layer.to_sae(held_out, dtype) for number, layer in enumerate(self.each)}
