"""Runs inside dictionary-learning's environment: `write FOLDER` or `read FOLDER`. See run_saelens.py.

The package imports nnsight and others for its buffers and trainers, in versions that exclude today's torch. Its dictionaries
need none of them, so that empty modules stand in.
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file


class Nothing(ModuleType):
    """A module of which every name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


for absent in ("nnsight", "datasets", "zstandard", "umap", "pandas", "plotly", "plotly.express", "wandb"):
    sys.modules[absent] = Nothing(absent)

from dictionary_learning import dictionary  # noqa: E402
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE  # noqa: E402
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE  # noqa: E402
from dictionary_learning.trainers.top_k import AutoEncoderTopK  # noqa: E402

D_IN, D_SAE = 12, 96
CLASSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "AutoEncoder": (dictionary.AutoEncoder, {}),
    "AutoEncoderNew": (dictionary.AutoEncoderNew, {}),
    "GatedAutoEncoder": (dictionary.GatedAutoEncoder, {}),
    "JumpReluAutoEncoder": (dictionary.JumpReluAutoEncoder, {}),
    "AutoEncoderTopK": (AutoEncoderTopK, {"k": 5}),
    "BatchTopKSAE": (BatchTopKSAE, {"k": 5}),
    "MatryoshkaBatchTopKSAE": (MatryoshkaBatchTopKSAE, {"k": 5, "group_sizes": [24, 24, 48]}),
}


def randomise(sae: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(sae.named_parameters()):
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(draw.abs() if name == "threshold" else draw * (0.3 if parameter.ndim == 1 else 0.4))
        if hasattr(sae, "k"):
            sae.threshold.fill_(0.7)


@torch.no_grad()
def expect(sae: Any, folder: Path, x: torch.Tensor, name: str) -> None:
    save_file({"x": x, "acts": sae.encode(x).contiguous(), "output": sae(x).contiguous()}, folder / f"{name}.safetensors")


def write(folder: Path) -> None:
    for seed, (name, (cls, changes)) in enumerate(CLASSES.items()):
        sae = cls(D_IN, D_SAE, **changes)
        randomise(sae, seed)
        here = folder / name
        here.mkdir(parents=True)
        torch.save(sae.state_dict(), here / "ae.pt")
        trainer = {"dict_class": name, "activation_dim": D_IN, "dict_size": D_SAE, "layer": 3, "lm_name": "tiny", **changes}
        (here / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 16}}))
        expect(sae, here, 2 * torch.randn(40, D_IN, generator=torch.Generator().manual_seed(seed)), "expected")


def read(folder: Path) -> None:
    for file in sorted(folder.rglob("x.safetensors")):
        name = json.loads((file.parent / "config.json").read_text())["trainer"]["dict_class"]
        # Decoder norms stay as they are: folding them would change the units of what is compared.
        options = {"normalize_decoder": False} if name == "AutoEncoder" else {}
        sae = CLASSES[name][0].from_pretrained(file.parent / "ae.pt", **options)
        expect(sae, file.parent, load_file(file)["x"], "got")


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
