"""Runs in the environment that has sae-lens: the same SAE in both libraries, checked against each other, timed in turns."""

import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sae_lens
import torch
from torch import Tensor

import sae_fast
from benchmarks.operands import Operands, make
from benchmarks.results import PACKAGES
from benchmarks.sizes import PEER_SIZE
from benchmarks.timing import Function, Times, time_in_turns
from sae_fast.cpu import screen

ROUNDS = 5
BAND = 2e-5
"""Width of the band around a threshold or k-th value, relative to the token's largest |h|, as products round differently."""


def main(answer: Path) -> None:
    operands = make(PEER_SIZE, "fp32", torch.device("cpu"))
    entries: list[dict[str, Any]] = []
    with torch.no_grad():
        for architecture in ("topk", "jumprelu"):
            entries += _beside(architecture, operands)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)}
    answer.write_text(json.dumps({"entries": entries, "packages": versions}), encoding="utf-8")


def _beside(architecture: str, o: Operands) -> list[dict[str, Any]]:
    peer, ours = _peer(architecture, o), None
    with tempfile.TemporaryDirectory() as folder:
        peer.save_model(folder)
        ours = sae_fast.load(folder)
    checks = {"sae_fast": _difference(peer, ours, o)}
    with _mode("never"):
        checks["sae_fast, float32 only"] = _difference(peer, ours, o)
    functions: dict[str, Function] = {
        "sae-lens": lambda x: peer.decode(peer.encode(x)),
        "sae_fast": lambda x: ours.decode(ours.encode(x)),
        "sae_fast, float32 only": _in_mode("never", lambda x: ours.decode(ours.encode(x))),
        "sae-lens encode": peer.encode,
        "sae_fast encode": ours.encode,
        "sae_fast, float32 only encode": _in_mode("never", ours.encode),
    }
    times = time_in_turns(functions, o.x, seconds=float("inf"), rounds=ROUNDS)
    for name in ("sae_fast", "sae_fast, float32 only"):
        print(f"{architecture:9} {name:24} {times['sae-lens'].median / times[name].median:.2f} times sae-lens")
    return [_entry(architecture, name, one, checks.get(name.removesuffix(" encode"))) for name, one in times.items()]


def _peer(architecture: str, o: Operands) -> Any:
    common: dict[str, Any] = {"d_in": o.size.d_in, "d_sae": o.size.d_sae, "dtype": "float32", "device": "cpu"}
    if architecture == "topk":
        sae = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(k=o.size.k, **common))
    else:
        sae = sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(**common))
        sae.threshold.copy_(o.threshold)
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        getattr(sae, name).copy_(getattr(o, name))
    return sae.eval()


def _difference(peer: Any, ours: Any, o: Operands) -> dict[str, Any]:
    """Compare all activations and reconstructions; raises where a set differs outside the band."""
    x = o.x[0]
    theirs, sparse = peer.encode(x), ours.encode(x)
    dense = sparse.to_dense()
    h = (x - o.b_dec if peer.cfg.apply_b_dec_to_input else x) @ o.W_enc + o.b_enc
    scale = h.abs().amax(1, keepdim=True)
    border = o.threshold if hasattr(peer, "threshold") else theirs.where(theirs > 0, torch.inf).amin(1, keepdim=True)
    clear = (h - border).abs() > BAND * scale
    mismatches = int((((dense != 0) != (theirs != 0)) & clear).sum())
    both = (dense != 0) & (theirs != 0)
    error = float(((dense - theirs).abs() / scale)[both].max())
    rows = ~(((dense != 0) != (theirs != 0)).any(1))
    x_hat = peer.decode(theirs)
    off = float((ours.decode(sparse) - x_hat)[rows].abs().max() / x_hat.abs().max())
    assert mismatches == 0, f"{mismatches} activations differ outside the band"
    assert max(error, off) < BAND, f"activations differ by {error:.2g}, reconstructions by {off:.2g}"
    return {"checked": True, "error": max(error, off), "mismatches": mismatches, "recall": None, "l0": sparse.l0}


def _entry(architecture: str, name: str, times: Times, found: dict[str, Any] | None) -> dict[str, Any]:
    contender = name.removesuffix(" encode")
    operation = architecture if contender == name else f"{architecture} encode"
    entry: dict[str, Any] = {"size": PEER_SIZE.name, "precision": "fp32", "operation": operation, "contender": contender}
    entry |= {"ms": times.median, "ms_spread": times.spread, "runs": len(times.ms), "ms_of_runs": times.ms}
    entry["tokens_per_s"] = PEER_SIZE.tokens / times.median * 1e3
    return entry | (found or {"checked": False})


@contextmanager
def _mode(mode: str) -> Iterator[None]:
    """Screening as `mode` says."""
    before, screen.MODE = screen.MODE, mode
    try:
        yield
    finally:
        screen.MODE = before


def _in_mode(mode: str, function: Function) -> Function:
    def run(x: Tensor) -> object:
        with _mode(mode):
            return function(x)

    return run


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
