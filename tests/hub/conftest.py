"""Tests against the real hub: only where there is a network."""

import pytest

from sae_fast.errors import SourceError
from sae_fast.sources.http import read_all
from sae_fast.sources.token import hub_address, is_offline


@pytest.fixture(scope="session", autouse=True)
def network() -> None:
    """Skip, saying why, where the hub does not answer."""
    if is_offline():
        pytest.skip("HF_HUB_OFFLINE is set")
    try:
        read_all(f"{hub_address()}/api/models/openai-community/gpt2")
    except SourceError as error:
        pytest.skip(f"no network: {error}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs the hub."""
    for item in items:
        if "tests/hub" in item.path.as_posix():
            item.add_marker(pytest.mark.hub)
