from pathlib import Path

import pytest
import torch
from file_server import FileServer
from safetensors.torch import save_file
from torch import Tensor

FOLDER = "owner/repo/layer_3/sae"


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """Tensors of a file, of several dtypes."""
    generator = torch.Generator().manual_seed(0)
    return {
        "W_enc": torch.randn(48, 64, generator=generator),
        "W_dec": torch.randn(64, 48, generator=generator).bfloat16(),
        "b_enc": torch.randn(64, generator=generator, dtype=torch.float64),
        "k": torch.tensor(5, dtype=torch.int32),
    }


@pytest.fixture
def folder(hub: FileServer, weights: dict[str, Tensor]) -> Path:
    """The folder on the server that `hf://owner/repo/layer_3/sae` names."""
    place = hub.root / FOLDER
    place.mkdir(parents=True)
    save_file(weights, place / "weights.safetensors")
    (place / "cfg.json").write_text('{"k": 5}')
    (place.parent / "notes.txt").write_text("one level up")
    return place
