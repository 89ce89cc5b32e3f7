"""The weights before the first step."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sae_fast.training.variants.options import SharedOptions

FREE_NORM = 0.1
"""Of decoder rows at the start where their norms are free (Anthropic, April 2024 update)."""


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
