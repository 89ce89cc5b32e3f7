import pytest
from peer.environments import DICTIONARY_LEARNING, SAEBENCH, SAELENS, SINKS, SPARSIFY, Peer, ready


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


@pytest.fixture(scope="session")
def saebench() -> Peer:
    """The result classes of sae-bench in their environment."""
    return ready(SAEBENCH)


@pytest.fixture(scope="session")
def sinks() -> Peer:
    """tensorboard, wandb and trackio in one environment, with what training needs."""
    return ready(SINKS)
