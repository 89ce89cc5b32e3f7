"""A small model and batches of uneven texts, for tests that do not bring their own."""

import pytest
from small_evaluation import small_lm, uneven_batches

from sae_fast.evaluation import Batch
from sae_fast.lm.transformers import TransformersLM


@pytest.fixture(scope="module")
def lm() -> TransformersLM:
    return small_lm()


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    return uneven_batches()
