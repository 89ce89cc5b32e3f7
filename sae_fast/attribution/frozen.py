"""A model made linear between the hooks of its SAEs: attention patterns and the scales of norms held as the prompt has them.

Values stay as they are; only gradients change. In each norm the divisor is a constant, so that its output is linear in its
input (a LayerNorm still takes the mean away). In each attention the queries and keys are constants, so that its output is
linear in the values. MLPs are not touched: where a transcoder stands for one, nothing passes through it; elsewhere its slope
at the prompt counts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sae_fast.errors import ArgumentError
from sae_fast.lm import hooks
from sae_fast.lm.interface import LanguageModel


class Frozen:
    """What the norms of a pass have computed: values before weight and bias, linear in what the norms read."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self._kept: list[Tensor] = []

    def keep(self, value: Tensor) -> None:
        """Note that an edit has put this in the place of an output, so that it is not touched if it comes from a norm."""
        self._kept.append(value)  # Held on to, so that no other tensor can come to lie where it lies.

    def is_kept(self, output: Tensor) -> bool:
        """Whether an output is what an edit has put there."""
        return any(output.data_ptr() == kept.data_ptr() for kept in self._kept)

    def held(self, value: Tensor) -> Tensor:
        """The linear form of what a hook `….hook_normalized` has shown, found by its value.

        Backends differ in whether a hook is visited before or after the norm's own; norms with equal values read the same.

        Raises:
            ArgumentError: no norm of the pass has computed it.
        """
        for found in reversed(self.values):
            if found.shape == value.shape and torch.allclose(found.detach(), value.detach(), rtol=1e-3, atol=1e-4):
                return found
        raise ArgumentError(
            "freeze: a hook shows what no norm has computed", advice="freeze=False takes plain gradients instead"
        )


@contextmanager
def frozen(lm: LanguageModel) -> Iterator[Frozen]:
    """Hold attention patterns and norms in every pass inside the block.

    Raises:
        ArgumentError: the model does not run here as PyTorch modules with names known here.
    """
    model: Any = getattr(lm, "model", None)
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise _unknown(type(lm).__name__)
    state, handles, n_patterns = Frozen(), [], 0
    config: Any = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    try:
        for path, module in model.named_modules():
            if _is_norm(module):
                handles.append(module.register_forward_hook(_hold_norm(state), with_kwargs=True))
            hold = _pattern_hold(path.rpartition(".")[2], config)
            if hold is not None:
                handles.append(module.register_forward_hook(hold))
                n_patterns += 1
        if n_patterns < int(config.num_hidden_layers):
            raise _unknown(config.model_type)
        yield state
    finally:
        for handle in handles:
            handle.remove()


def _unknown(what: str) -> ArgumentError:
    return ArgumentError(
        f"freeze: where attention patterns of {what} come from is not known here",
        expected="a Hugging Face model with q_proj and k_proj, c_attn, or query_key_value",
        advice="freeze=False takes plain gradients instead",
    )


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) or (type(module).__name__.endswith("RMSNorm") and hasattr(module, "weight"))


def _hold_norm(state: Frozen) -> Callable[..., Tensor]:
    def hold(norm: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        if state.is_kept(output):
            return output
        x = args[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor))
        wide = x.float()
        if hooks.is_centred(norm):
            wide = wide - wide.mean(-1, keepdim=True)
        value = hooks.normalized(norm, x).detach().float()
        size = wide.detach().norm(dim=-1, keepdim=True)
        scaled = wide * torch.where(size > 0, value.norm(dim=-1, keepdim=True) / size, 0.0)
        change = scaled - scaled.detach()
        state.values.append((value + change).to(output.dtype))
        return output.detach() + (change * _multiplier(norm, value, output)).to(output.dtype)

    return hold


def _multiplier(norm: nn.Module, value: Tensor, output: Tensor) -> Tensor:
    """What the norm multiplies by: its weight, or one plus it, whichever gives its output."""
    weight: Any = getattr(norm, "weight", None)
    if weight is None:
        return torch.ones(())
    weight = weight.detach().float()
    bias: Any = getattr(norm, "bias", None)
    rest = output.detach().float() - (0.0 if bias is None else bias.detach().float())
    plain, plus_one = (rest - value * weight).norm(), (rest - value * (1 + weight)).norm()
    return weight if bool(plain <= plus_one) else 1 + weight


def _pattern_hold(name: str, config: Any) -> Callable[..., Tensor] | None:
    """What makes constants of queries and keys in the output of a module of this name; None for other modules."""
    if name in ("q_proj", "k_proj"):
        return lambda _module, _args, output: output.detach()
    if name == "c_attn":
        return lambda _module, _args, output: _keep_values(output, 1)
    if name == "query_key_value" and config.model_type == "gpt_neox":
        return lambda _module, _args, output: _keep_values(output, int(config.num_attention_heads))
    return None


def _keep_values(output: Tensor, n_heads: int) -> Tensor:
    """Queries, keys and values of each head side by side: the first two thirds become constants."""
    query, key, value = output.unflatten(-1, (n_heads, -1)).chunk(3, dim=-1)
    return torch.cat([query.detach(), key.detach(), value], dim=-1).flatten(-2)
