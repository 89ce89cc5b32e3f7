import pytest
from peer.environments import DICTIONARY_LEARNING, SAELENS, SPARSIFY, Peer, ready


@pytest.fixture(scope="session")
def saelens() -> Peer:
    """sae-lens in its environment."""
    return ready(SAELENS)


@pytest.fixture(scope="session")
def sparsify() -> Peer:
    """eai-sparsify in its environment."""
    return ready(SPARSIFY)


@pytest.fixture(scope="session")
def dictionary_learning() -> Peer:
    """dictionary-learning in its environment."""
    return ready(DICTIONARY_LEARNING)
