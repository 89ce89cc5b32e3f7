"""Tiny language models and a prompt."""

from pathlib import Path

import pytest
import torch

import sae_fast
from sae_fast.lm import LanguageModel


@pytest.fixture(scope="session")
def gpt2(gpt2_folder: Path) -> LanguageModel:
    return sae_fast.lm.load(gpt2_folder, dtype="float32")


@pytest.fixture(scope="session")
def gemma2(gemma2_folder: Path) -> LanguageModel:
    return sae_fast.lm.load(gemma2_folder, dtype="float32")


@pytest.fixture
def token_ids() -> torch.Tensor:
    """int64 [1, 7]."""
    return torch.randint(3, 300, (1, 7), generator=torch.Generator().manual_seed(1))
