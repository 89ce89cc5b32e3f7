"""A hub of our own for tests of what lies elsewhere."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from file_server import FileServer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[FileServer]":
    """A server that is the hub, with an empty cache, no token, short waits, and ranges worth asking for in small files."""
    from file_server import serving

    from sae_fast.sources import http, ranged, remote

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "SAE_FAST_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SAE_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-home"))
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(remote, "FETCHED_WHOLE", 0)
    monkeypatch.setattr(ranged, "GAP", 64)
    root = tmp_path / "served"
    root.mkdir()
    with serving(root) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server
