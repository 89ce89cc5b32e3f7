"""When two implementations agree: values to 1e-5 of the largest, and the same features outside a band around thresholds."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_fast.sae import SAE

TOLERANCE = 1e-5
"""Relative to the largest activation, or output: what float32 sums in another order may differ by."""


def assert_agree(sae: SAE, x: Tensor, acts: Tensor, output: Tensor) -> None:
    """`sae` encodes `x` to `acts` and writes `output`, both from a peer."""
    ours = sae.encode(x).to_dense()
    assert int((acts != 0).sum()) > 0, "a comparison of nothing"
    band = TOLERANCE * float(acts.abs().max())
    differ = (ours != 0) != (acts != 0)
    at_threshold = (torch.maximum(ours.abs(), acts.abs()) - _threshold(sae)).abs() <= band
    assert not bool((differ & ~at_threshold).any()), (
        f"{int((differ & ~at_threshold).sum())} features differ off their thresholds"
    )
    same = torch.where(differ, torch.zeros(()), (ours - acts).abs())
    assert float(same.max()) <= band, f"activations differ by {float(same.max()):.3g}, more than {band:.3g}"
    tokens = ~differ.flatten(0, -2).any(-1)
    assert bool(tokens.any())
    difference = (sae(x) - output).abs().reshape(len(tokens), -1)[tokens]
    allowed = TOLERANCE * float(output.abs().max())
    assert float(difference.max()) <= allowed, f"outputs differ by {float(difference.max()):.3g}, more than {allowed:.3g}"


def assert_read(sae: SAE, folder: Path) -> None:
    """A peer that loaded what `sae` saved in `folder` computed the same."""
    got = load_file(folder / "got.safetensors")
    assert_agree(sae, got["x"], got["acts"], got["output"])


def put_inputs(folder: Path, x: Tensor) -> None:
    """What the peer is to encode."""
    save_file({"x": x}, folder / "x.safetensors")


def _threshold(sae: SAE) -> Tensor:
    return torch.zeros(()) if sae.threshold is None else sae.threshold
