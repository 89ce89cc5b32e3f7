"""Reading and replacing the activation at one place of a PyTorch module tree.

A layer may return a tensor (transformers 5) or a tuple (transformers 4, and attention modules to this day): both are met by
testing for it, since a blind `output[0]` would silently take the first item of the batch.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sae_fast.errors import HookNotFoundError, ShapeError
from sae_fast.lm.families import HookPoint

Visitor = Callable[[str, Tensor], Tensor | None]
"""Called with a hook's name and activation; returns the replacement, or None to leave the activation as it is."""

_OLMO_NORM = "OlmoLayerNorm"
"""A LayerNorm without weight and bias, and with its epsilon in its code."""


class AllFoundError(Exception):
    """Leaves a pass once every activation that was asked for is there."""


@contextmanager
def visiting(model: nn.Module, points: Mapping[str, HookPoint], visit: Visitor, norm_offset: float = 0.0) -> Iterator[None]:
    """Call `visit` at every named place of each pass made inside the block; the model is as before when it ends.

    Args:
        model: the module that the points' paths are relative to.
        points: place of each hook name.
        visit: see `Visitor`.
        norm_offset: what the model's norms add to their weight before they multiply by it (1 for Gemma).
    """
    handles = []
    try:
        for name, point in points.items():
            module = model.get_submodule(point.module)
            handles.append(_register(module, point, name, visit, norm_offset))
        yield
    finally:
        for handle in handles:
            handle.remove()


def require_reached(points: Mapping[str, HookPoint], reached: Container[str], names: Iterable[str] | None = None) -> None:
    """Raise `HookNotFoundError` for the first of the names (all points if not given) that a pass did not reach."""
    for name in points if names is None else names:
        if name not in reached:
            raise HookNotFoundError(f"hook {name!r}: the module {points[name].module} does not run in a forward pass")


def normalized(norm: nn.Module, x: Tensor) -> Tensor:
    """`x` as a LayerNorm or an RMSNorm module normalises it, without the module's weight and bias, in the dtype of `x`."""
    epsilon = _epsilon(norm)
    if is_centred(norm):
        return functional.layer_norm(x.float(), x.shape[-1:], eps=epsilon).to(x.dtype)
    x_float = x.float()
    return (x_float * torch.rsqrt(x_float.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def norm_weight(norm: nn.Module, norm_offset: float, width: int) -> Tensor:
    """What a norm module multiplies by, `[width]`; ones where it has no weight."""
    weight = getattr(norm, "weight", None)
    if weight is None:
        return torch.ones(width)
    return weight.detach() + norm_offset if norm_offset else weight.detach()


def is_centred(norm: nn.Module) -> bool:
    """True for LayerNorm, False for RMSNorm."""
    return isinstance(norm, nn.LayerNorm) or type(norm).__name__ == _OLMO_NORM


def checked(name: str, new: Any, activation: Tensor) -> Tensor:
    """What an edit returned, in the activation's dtype and on its device; `ShapeError` where it is not of its shape."""
    if new is activation:
        return activation
    if not isinstance(new, Tensor) or new.shape != activation.shape:
        expected = f"a tensor of shape {tuple(activation.shape)}"
        got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
        raise ShapeError(f"what the edit at {name!r} returns", expected=expected, got="None" if new is None else got)
    return new.to(activation)


def _epsilon(norm: nn.Module) -> float:
    for attribute in ("eps", "variance_epsilon"):
        if isinstance(value := getattr(norm, attribute, None), float):
            return value
    if type(norm).__name__ == _OLMO_NORM:
        return 1e-5
    raise HookNotFoundError(f"epsilon of the norm {norm}", expected="an attribute eps or variance_epsilon", got="neither")


def _register(module: nn.Module, point: HookPoint, name: str, visit: Visitor, norm_offset: float) -> Any:
    checked = partial(visit_checked, visit, name)
    match point.kind:
        case "input":
            return module.register_forward_pre_hook(partial(on_input, name, checked), with_kwargs=True)
        case "stream":
            return module.register_forward_pre_hook(partial(on_stream, name, checked), with_kwargs=True)
        case "output":
            return module.register_forward_hook(partial(on_output, name, checked))
        case "normalized":
            return module.register_forward_hook(partial(on_normalized, name, checked, norm_offset), with_kwargs=True)


def visit_checked(visit: Visitor, name: str, activation: Tensor) -> Tensor | None:
    new = visit(name, activation)
    return None if new is None else checked(name, new, activation)


def on_input(name: str, visit: Callable[[Tensor], Tensor | None], _: nn.Module, args: tuple, kwargs: dict) -> Any:
    key, activation = first_argument(name, args, kwargs)
    new = visit(activation)
    if new is None:
        return None
    if isinstance(key, int):
        return (*args[:key], new, *args[key + 1 :]), kwargs
    return args, {**kwargs, key: new}


def on_stream(name: str, visit: Callable[[Tensor], Tensor | None], _: nn.Module, args: tuple, kwargs: dict) -> None:
    activation = first_argument(name, args, kwargs)[1]
    new = visit(activation)
    if new is not None and new is not activation:
        # The block adds this very tensor to the norm's branch further on: writing into it reaches both readers.
        activation.copy_(new)


def on_output(name: str, visit: Callable[[Tensor], Tensor | None], _: nn.Module, __: tuple, output: Any) -> Any:
    if isinstance(output, Tensor):
        return visit(output)
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        new = visit(output[0])
        return None if new is None else (new, *output[1:])
    raise HookNotFoundError(
        f"output of the module of {name!r}",
        expected="a tensor or a tuple that begins with one",
        got=type(output).__name__,
        advice="Name a module inside it or around it",
    )


def on_normalized(
    name: str,
    visit: Callable[[Tensor], Tensor | None],
    norm_offset: float,
    norm: nn.Module,
    args: tuple,
    kwargs: dict,
    output: Tensor,
) -> Tensor | None:
    value = normalized(norm, first_argument(name, args, kwargs)[1])
    new = visit(value.clone())
    if new is None:
        return None
    # As a difference, so that an edit that changes nothing leaves the output bitwise as it is.
    weight = norm_weight(norm, norm_offset, value.shape[-1]).to(value.device)
    return (output + (new - value) * weight).to(output.dtype)


def first_argument(name: str, args: tuple, kwargs: dict) -> tuple[int | str, Tensor]:
    """Position or keyword of the first tensor that a module is called with, and the tensor."""
    if args and isinstance(args[0], Tensor):
        return 0, args[0]
    for key in ("hidden_states", *kwargs):
        if isinstance(value := kwargs.get(key), Tensor):
            return key, value
    raise HookNotFoundError(
        f"input of the module of {name!r}",
        expected="a tensor",
        got="none among its arguments",
        advice="Hook its output instead",
    )
