"""Fixtures that every part shares: tiny models on disk and the demo site."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "sitegen" / "demo"


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


@pytest.fixture(scope="session")
def demo_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site that `sitegen build demo` writes: the one named by SITEGEN_DEMO_SITE, else built once for the session."""
    built = os.environ.get("SITEGEN_DEMO_SITE")
    if built:
        site = Path(built).resolve()
        assert (site / "data" / "manifest.json").is_file(), f"SITEGEN_DEMO_SITE={built} holds no site; `make site` builds one"
        return site
    if not (DEMO / "lm" / "config.json").is_file() or not (DEMO / "saes").is_dir():
        pytest.skip("the demo's language model and SAEs are not in sitegen/demo")
    site = tmp_path_factory.mktemp("demo") / "site"
    command = [sys.executable, "-m", "sitegen", "build", "demo", "--out", str(site)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return site
