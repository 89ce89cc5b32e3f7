"""Who computes an operation: the choice behind `impl`, and the reasons for a refusal."""

import importlib.util
import logging
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sae_fast import cpu, reference
from sae_fast.errors import ArgumentError, ImplementationUnavailableError

Impl = Literal["auto", "triton", "torch", "reference"]
"""Names of the implementations."""

Operation = Callable[..., Any]

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes of weights that kernels take."""

logger = logging.getLogger("sae_fast.ops")


def choose(operation: str, impl: Impl, *tensors: Tensor, weights: Tensor | None = None) -> ModuleType:
    """The module whose function `operation` computes it for these operands, `weights` among them where there are any."""
    if impl not in get_args(Impl):
        raise ArgumentError("impl", expected=f"one of {', '.join(get_args(Impl))}", got=repr(impl))
    operands = tensors if weights is None else (*tensors, weights)
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in operands)
    chosen = _automatic(operation, operands, weights, needs_grad) if impl == "auto" else impl
    if impl == "auto":
        logger.debug("%s: auto chose %s", operation, chosen)
    if chosen == "reference":
        return reference
    if needs_grad:
        raise ImplementationUnavailableError(
            f"{operation}: impl={impl!r} computes no gradients and an argument requires them",
            advice="Call it under torch.no_grad(), or use impl='auto' or impl='reference'",
        )
    if chosen == "torch":
        return cpu
    reason = why_not_triton(operation, operands, weights)
    if reason:
        raise ImplementationUnavailableError(f"{operation}: {reason}", advice="Use impl='auto' or impl='torch'")
    return _kernel(operation)


def why_not_triton(operation: str, operands: tuple[Tensor, ...], weights: Tensor | None) -> str | None:
    """What keeps a kernel from computing `operation` for these operands; None if nothing does."""
    if not _has_triton():
        return "Triton is not installed; the extra is sae-fast[triton]"
    devices = {tensor.device for tensor in operands}
    if len(devices) > 1:
        return f"the operands lie on different devices: {', '.join(sorted(map(str, devices)))}"
    if not operands[0].is_cuda and not _interprets():
        return f"kernels need tensors on a CUDA device, or TRITON_INTERPRET=1; these are on {operands[0].device}"
    if weights is not None and weights.dtype not in KERNEL_DTYPES:
        return f"kernels take weights in float32, bfloat16 or float16, not {weights.dtype}"
    if not _has_kernel(operation):
        return "there is no Triton kernel for it"
    return None


def _automatic(
    operation: str, operands: tuple[Tensor, ...], weights: Tensor | None, needs_grad: bool
) -> Literal["triton", "torch", "reference"]:
    if needs_grad:
        return "reference"
    if operands[0].is_cuda and why_not_triton(operation, operands, weights) is None:
        return "triton"
    return "torch"


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@cache
def _has_kernel(operation: str) -> bool:
    return importlib.util.find_spec(f"sae_fast.kernels.{operation}") is not None


def _kernel(operation: str) -> ModuleType:
    return importlib.import_module(f"sae_fast.kernels.{operation}")


def _interprets() -> bool:
    import triton

    return bool(triton.knobs.runtime.interpret)
