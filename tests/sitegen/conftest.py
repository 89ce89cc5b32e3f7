"""Release files on tiny models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from sitegen.release import Release

Write = Callable[..., Path]


@pytest.fixture
def write_release(tmp_path: Path, gpt2_folder: Path) -> Write:
    """Write a release of a tiny GPT-2, one SAE and a few documents; keywords replace or extend its tables."""

    def write(name: str = "release.toml", **tables: Any) -> Path:
        tiny.jsonl(tmp_path / "documents.jsonl", tiny.texts(16))
        tiny.sae(tmp_path / "sae") if not (tmp_path / "sae").exists() else None
        content = {
            "model": {"source": str(gpt2_folder)},
            "corpus": {"source": "documents.jsonl", "context_length": 32},
            "sae": [{"source": "sae"}],
            "evaluation": {"tokens": 0},
            "build": {"batch_size": 8, "part_tokens": 1024},
        }
        for key, table in tables.items():
            content[key] = content.get(key, {}) | table if isinstance(table, dict) else table
        path = tmp_path / name
        path.write_text(toml(content), encoding="utf-8")
        return path

    return write


def toml(content: dict[str, Any]) -> str:
    """Two levels of tables as TOML; JSON's strings, numbers, booleans and arrays are TOML's too."""
    lines = []
    for key, value in content.items():
        for table in value if isinstance(value, list) else [value]:
            lines.append(f"[[{key}]]" if isinstance(value, list) else f"[{key}]")
            lines += [f"{name} = {json.dumps(entry)}" for name, entry in table.items()]
    return "\n".join(lines) + "\n"


@pytest.fixture
def release(write_release: Write) -> Release:
    """The release of `write_release`, read."""
    return Release.load(write_release())
