"""Fixtures that every part shares: tiny models on disk and the demo site."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tiny

import sitegen
from sitegen.release import Release

DEMO_TOKENS = 8_000


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with byte-level BPE."""
    return tiny.gpt2(tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture(scope="session")
def neox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-NeoX whose embedding is wider than its tokenizer."""
    return tiny.neox(tmp_path_factory.mktemp("models") / "neox")


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a SentencePiece-style tokenizer and a chat template."""
    return tiny.llama(tmp_path_factory.mktemp("models") / "llama", chat=True)


@pytest.fixture(scope="session")
def gemma2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma 2 with post-norms and soft-capping."""
    return tiny.gemma2(tmp_path_factory.mktemp("models") / "gemma2")


@pytest.fixture(scope="session")
def wide_vocabulary_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer Gemma 2 of 256,000 tokens."""
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
    folder = tmp_path_factory.mktemp("demo")
    release = Release.load("demo")
    release = replace(
        release,
        corpus=replace(release.corpus, max_tokens=DEMO_TOKENS),
        evaluation=replace(release.evaluation, tokens=DEMO_TOKENS // 4),
    )
    sitegen.build(release, folder / "site", cache=folder / "cache", progress=False)
    return Demo(folder / "site", folder / "cache", release)
