"""Fixtures that every part shares: tiny models on disk and the demo site.

On a machine that holds torch, Triton and pytest alone, such as a lent one with a GPU, only the tests that need no more are
collected: `python -m pytest -m gpu` runs there as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sitegen.release import Release

DEMO_TOKENS = 8_000
HERE = Path(__file__).parent
NEED_TORCH_ALONE = {HERE / "sae_fast" / "kernels", HERE / "sae_fast" / "architectures" / "test_on_gpu.py"}
IS_BARE = any(find_spec(name) is None for name in ("hypothesis", "pytest_timeout", "transformers"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Know the options of plugins that are not installed."""
    if find_spec("pytest_timeout") is None:
        parser.addini("timeout", "seconds; without the plugin, not heeded")


def pytest_configure(config: pytest.Config) -> None:
    """Likewise their markers."""
    if find_spec("pytest_timeout") is None:
        config.addinivalue_line("markers", "timeout: seconds; without the plugin, not heeded")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """On a bare machine, pass by what cannot be imported there."""
    if not IS_BARE or any(path == collection_path or path in collection_path.parents for path in NEED_TORCH_ALONE):
        return None
    return None if any(collection_path in path.parents for path in NEED_TORCH_ALONE) else True


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with byte-level BPE."""
    import tiny

    return tiny.gpt2(tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture(scope="session")
def neox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-NeoX whose embedding is wider than its tokenizer."""
    import tiny

    return tiny.neox(tmp_path_factory.mktemp("models") / "neox")


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a SentencePiece-style tokenizer and a chat template."""
    import tiny

    return tiny.llama(tmp_path_factory.mktemp("models") / "llama", chat=True)


@pytest.fixture(scope="session")
def gemma2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma 2 with post-norms and soft-capping."""
    import tiny

    return tiny.gemma2(tmp_path_factory.mktemp("models") / "gemma2")


@pytest.fixture(scope="session")
def wide_vocabulary_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer Gemma 2 of 256,000 tokens."""
    import tiny

    return tiny.wide_vocabulary(tmp_path_factory.mktemp("models") / "wide")


@dataclass(frozen=True)
class Demo:
    """The demo built over a part of its corpus."""

    site: Path
    cache: Path
    release: Release


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo's language model and SAEs, whole, over the first few thousand tokens of their corpus."""
    import sitegen
    from sitegen.release import Release

    folder = tmp_path_factory.mktemp("demo")
    release = Release.load("demo")
    release = replace(
        release,
        corpus=replace(release.corpus, max_tokens=DEMO_TOKENS),
        evaluation=replace(release.evaluation, tokens=DEMO_TOKENS // 4),
    )
    sitegen.build(release, folder / "site", cache=folder / "cache", progress=False)
    return Demo(folder / "site", folder / "cache", release)
