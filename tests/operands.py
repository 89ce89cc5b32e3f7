"""Random operands of tests, the same for the same seed."""

import torch
from torch import Tensor


def integers(seed: int, *shape: int) -> Tensor:
    """Small integers: sums of their products are exact in every dtype, in any order, and ties abound."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal, float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
