"""What a decoder that writes at several hooks says at each of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sae_fast import SAEConfig
from sitegen.facts.rounding import significant

_STREAM = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")


def hooks_of(cfg: SAEConfig | None) -> tuple[str, ...]:
    """The hooks that each feature has a decoder row for; empty where there is one row for one hook."""
    return cfg.hooks_written if cfg is not None and len(cfg.hooks_written) > 1 else ()


def rows_by_hook(W_dec: Tensor, cfg: SAEConfig | None) -> tuple[Tensor, ...]:
    """`[d_sae, d_out]` for each hook that a decoder writes at."""
    if W_dec.ndim == 3:
        return W_dec.unbind(1)
    return W_dec.split(cfg.hook_widths, 1) if cfg is not None and cfg.crosscoder else (W_dec,)


def into_stream(W_dec: Tensor, cfg: SAEConfig | None, d_model: int) -> Tensor | None:
    """`[d_sae, d_model]`: what a feature adds to the residual stream in all; None where it does not write there.

    The layers of a cross-layer transcoder, and what a crosscoder says of MLP and attention outputs, add up there. What it says
    of the stream itself is the stream: the last hook has all of it.
    """
    rows = rows_by_hook(W_dec, cfg)
    names: Sequence[str | None] = hooks_of(cfg) or [None] * len(rows)
    fitting = [(name, row) for name, row in zip(names, rows, strict=True) if row.shape[1] == d_model]
    stream = [row for name, row in fitting if name is not None and name.endswith(_STREAM)]
    if not fitting:
        return None
    return stream[-1] if stream else torch.stack([row for _, row in fitting]).sum(0)


class DecoderNorms:
    """Norm of each feature's decoder row at each hook."""

    def __init__(self, W_dec: Tensor, cfg: SAEConfig | None) -> None:
        self.norms = torch.stack([row.float().norm(dim=1) for row in rows_by_hook(W_dec.detach(), cfg)], 1).cpu().numpy()

    def of(self, first: int, last: int) -> list[list[float]]:
        """Of the features `first … last - 1`."""
        return significant(self.norms[first:last]).tolist()
