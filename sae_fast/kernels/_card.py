"""What a launch needs to know of the card that it runs on."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Card:
    """The two sizes that decide how work is cut."""

    n_multiprocessors: int
    l2_bytes: int


H200 = Card(n_multiprocessors=132, l2_bytes=50 << 20)
"""Assumed where there is no card: in Triton's interpreter."""


def card_of(tensor: Tensor) -> Card:
    """The card that holds `tensor`."""
    return _card(tensor.device) if tensor.is_cuda else H200


def on_card_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Launch where `tensor` lies, which need not be the current device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@cache
def _card(device: torch.device) -> Card:
    properties = torch.cuda.get_device_properties(device)
    return Card(properties.multi_processor_count, properties.L2_cache_size)
