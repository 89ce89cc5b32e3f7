"""Runs inside eai-sparsify's environment: `write FOLDER` or `read FOLDER`. See run_saelens.py."""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sparsify import SparseCoder, SparseCoderConfig

D_IN, EXPANSION = 12, 8
KINDS: dict[str, dict[str, Any]] = {
    "topk": {"k": 5},
    "latents": {"k": 5, "num_latents": 60},
    "groupmax": {"k": 8, "activation": "groupmax"},
    "transcode": {"k": 5, "transcode": True},
    "skip": {"k": 5, "transcode": True, "skip_connection": True},
    "skip-sae": {"k": 5, "skip_connection": True},
    "groupmax-skip": {"k": 6, "activation": "groupmax", "transcode": True, "skip_connection": True},
}


def randomise(coder: SparseCoder, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.ndim == 1 else 0.4))


@torch.no_grad()
def expect(coder: SparseCoder, folder: Path, x: torch.Tensor, name: str) -> None:
    x = x.to(coder.dtype)
    encoded = coder.encode(x)
    acts = torch.zeros(len(x), coder.num_latents, dtype=coder.dtype).scatter(1, encoded.top_indices, encoded.top_acts)
    save_file({"x": x, "acts": acts, "output": coder(x).sae_out.contiguous()}, folder / f"{name}.safetensors")


def write(folder: Path) -> None:
    for seed, (name, changes) in enumerate(KINDS.items()):
        coder = SparseCoder(D_IN, SparseCoderConfig(expansion_factor=EXPANSION, **changes))
        randomise(coder, seed)
        coder.save_to_disk(folder / name)
        expect(coder, folder / name, 2 * torch.randn(40, D_IN, generator=torch.Generator().manual_seed(seed)), "expected")


def read(folder: Path) -> None:
    for file in sorted(folder.rglob("x.safetensors")):
        expect(SparseCoder.load_from_disk(file.parent), file.parent, load_file(file)["x"], "got")


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
