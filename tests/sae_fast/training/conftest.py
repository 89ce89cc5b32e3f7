"""A tiny run: one language model and corpus for all tests of training, and configurations over them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from sae_fast.training import RunConfig

HOOK = "blocks.1.hook_resid_post"
Configure = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def training_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty short documents."""
    return tiny.jsonl(tmp_path_factory.mktemp("corpus") / "texts.jsonl", tiny.texts(60))


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs over the same hooks keep one store."""
    return tmp_path_factory.mktemp("stores")


@pytest.fixture
def configure(gpt2_folder: Path, training_texts: Path, shared_store: Path, tmp_path: Path) -> Configure:
    """Make a configuration from tables; what is not given is small."""

    def make(*saes: dict[str, Any], folder: str = "run", **tables: dict[str, Any]) -> RunConfig:
        chosen = saes or ({"architecture": "topk", "k": 4},)
        content: dict[str, Any] = {
            "model": {"source": str(gpt2_folder)},
            "corpus": {"source": str(training_texts), "context_length": 32, "prepend_bos": False},
            "train": {"tokens": 20 * 128, "batch_tokens": 128, "lr": 1e-3},
            "activations": {"held_out": 0.2},
            "output": {"folder": str(tmp_path / folder), "checkpoint_tokens": 5 * 128, "log_steps": 5},
            "sae": [({"hook_name": HOOK} if "hook_names" not in sae else {}) | {"d_sae": 48} | sae for sae in chosen],
        }
        if all(sae.get("hook_name", HOOK) == HOOK and not {"hook_name_out", "hook_names"} & sae.keys() for sae in chosen):
            content["activations"]["folder"] = str(shared_store / "resid")
        for name, table in tables.items():
            content[name] = content.get(name, {}) | table
        return RunConfig.from_dict(content)

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they bring at these sizes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
