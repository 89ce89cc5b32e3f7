"""The weights before the first step."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sae_fast.training.layout import ALONE, Layout
from sae_fast.training.variants.options import SharedOptions

FREE_NORM = 0.1
"""Of decoder rows at the start where their norms are free (Anthropic, April 2024 update)."""
DRAWN = 8192
"""Rows that are drawn at once; a multiple of 16, with which PyTorch draws what it would draw in one go."""


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
    layout: Layout = ALONE
    """which rows and features are this process's."""


def initial_rows(own: slice, d_sae: int, start: Start, options: SharedOptions, is_transcoder: bool) -> tuple[Tensor, Tensor]:
    """(encoder rows [n, d_in], decoder rows [n, d_out]) of the features `own` of `d_sae`; of an SAE they have one direction."""
    norm_in, norm_out = (0.5, 1.0) if options.unit_norm_decoder else (FREE_NORM, FREE_NORM)
    generator = torch.Generator().manual_seed(options.seed)
    rows_out = _directions(own, d_sae, start.y.shape[1], generator)
    tokens = torch.randint(0, len(start.y), (d_sae,), generator=generator)[own] if options.start_from_data else None
    rows_in = _directions(own, d_sae, start.x.shape[1], generator) if is_transcoder else rows_out
    if tokens is not None:
        rows_out = _leaning(rows_out, start.y * start.scale_out, tokens)
        rows_in = _leaning(rows_in, start.x * start.scale_in, tokens) if is_transcoder else rows_out
    return norm_in * rows_in, norm_out * rows_out


def _leaning(noise: Tensor, sample: Tensor, tokens: Tensor) -> Tensor:
    """Unit rows between the directions of `noise` and those of sampled activations from their mean, nearer to the latter."""
    chosen = sample[tokens].float() - sample.float().mean(0)
    return nn.functional.normalize(nn.functional.normalize(chosen, dim=1) + 0.5 * noise, dim=1)


def _directions(own: slice, d_sae: int, width: int, generator: torch.Generator) -> Tensor:
    """Rows `own` of `d_sae` random directions. All are drawn, a few at a time, so that parts are those of a whole."""
    found = []
    for first in range(0, d_sae, DRAWN):
        drawn = torch.randn(min(DRAWN, d_sae - first), width, generator=generator)
        found.append(drawn[max(0, own.start - first) : max(0, own.stop - first)])
    return nn.functional.normalize(torch.cat(found), dim=1)
