"""Whom the hub is told we are: address of the hub and the access token of its user."""

import os
from pathlib import Path
from urllib.parse import urlsplit


def hub_address() -> str:
    """Where the hub is: `HF_ENDPOINT`, or huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def is_offline() -> bool:
    """Whether the user forbids the hub: `HF_HUB_OFFLINE`."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def is_hub(url: str) -> bool:
    """Whether an address is the hub's."""
    return urlsplit(url).netloc == urlsplit(hub_address()).netloc


def hub_home() -> Path:
    """Where the hub's own tools keep token and cache: `HF_HOME`."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(os.environ.get("HF_HOME", default)).expanduser()


def token_for(url: str) -> str | None:
    """The user's token if `url` is the hub's: `HF_TOKEN`, or the file that the hub's tools keep it in."""
    if not is_hub(url):
        return None
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(name, "").strip():
            return token
    file = Path(os.environ.get("HF_TOKEN_PATH", hub_home() / "token")).expanduser()
    return file.read_text(encoding="utf-8").strip() or None if file.is_file() else None
