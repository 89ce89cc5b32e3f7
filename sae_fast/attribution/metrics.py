"""What is attributed: a number per row of a batch, made from its logits. Any such function will do."""

from collections.abc import Callable

from torch import Tensor

Metric = Callable[[Tensor], Tensor]
"""Takes logits `[batch, pos, d_vocab]`, returns one number a row, `[batch]`, differentiable."""


def logit(token: int, position: int = -1) -> Metric:
    """The logit of a token id at a position."""
    return lambda logits: logits[:, position, token]


def logit_difference(token: int, other: int, position: int = -1) -> Metric:
    """The logit of one token id minus that of another, at a position."""
    return lambda logits: logits[:, position, token] - logits[:, position, other]


def log_probability(token: int, position: int = -1) -> Metric:
    """The log-probability of a token id at a position, in nats; the softmax is taken in float32."""
    return lambda logits: logits[:, position].float().log_softmax(-1)[:, token]
