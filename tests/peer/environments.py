"""Environments of other packages, one each under `.venv-peers`, because they pin versions that exclude one another.

An environment is made when a test first needs it (minutes) and kept. Where it cannot be made, the tests are skipped with pip's
reason. torch is asked for by its exact version: any other request would bring gigabytes of CUDA libraries.
"""

import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TORCH = "torch==2.13.0"
PATIENCE_S = 1800
"""How long pip may take."""


@dataclass(frozen=True)
class Peer:
    """Another package, and what its environment holds."""

    name: str
    requirements: tuple[str, ...]
    without_dependencies: tuple[str, ...] = ()
    """Installed last and alone, where their own requirements would replace torch."""

    @property
    def folder(self) -> Path:
        """The environment."""
        return ROOT / ".venv-peers" / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def make(self) -> None:
        """Make the environment unless it is there already. Skips the test where that fails."""
        stamp, wanted = self.folder / "requirements.txt", "\n".join((*self.requirements, *self.without_dependencies))
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
            return
        venv.create(self.folder, clear=True, symlinks=True, with_pip=True)
        self._install(*self.requirements)
        if self.without_dependencies:
            self._install("--no-deps", *self.without_dependencies)
        stamp.write_text(wanted, encoding="utf-8")

    def run(self, *arguments: str | Path) -> None:
        """Run a script of this folder in the environment; its standard error is the message if it fails."""
        command = [self.python, *map(str, arguments)]
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, f"{self.name}: {result.stderr[-4000:]}"

    def _install(self, *arguments: str) -> None:
        command = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{self.name} could not be installed within {PATIENCE_S} s")
        if result.returncode:
            reason = next((line for line in result.stderr.splitlines() if line.startswith("ERROR")), result.stderr[-300:])
            pytest.skip(f"{self.name} could not be installed: {reason}")


SAELENS = Peer("sae-lens", (TORCH, "sae-lens==6.54.12"))
SPARSIFY = Peer("sparsify", (TORCH, "eai-sparsify==1.3.3"))
DICTIONARY_LEARNING = Peer(
    "dictionary-learning",
    (TORCH, "numpy", "einops", "tqdm", "safetensors"),
    without_dependencies=("dictionary-learning==0.1.0",),
)
SAEBENCH = Peer("sae-bench", ("pydantic",), without_dependencies=("sae-bench==0.6.0",))

SINKS = Peer(
    "sinks",
    (TORCH, "transformers==5.23.0", "datasets==5.2.0", "tensorboard==2.21.0", "wandb==0.31.0", "trackio==0.43.0"),
)


def ready(peer: Peer) -> Peer:
    """The peer with its environment made. Skips on platforms that it does not run on."""
    if sys.platform == "win32":
        pytest.skip("peers are compared on Linux and macOS")
    peer.make()
    return peer
