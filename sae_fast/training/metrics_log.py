"""Metrics of a run as JSON lines: always there, cut back to the step a run goes on from."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sae_fast.errors import StoreError
from sae_fast.files import reported_full, write_whole
from sae_fast.training.trainer import StepMetrics


class MetricsLog:
    """`metrics.jsonl`: a line for each logged step and SAE, `{"sae": name, "step": 50, "loss": …}`."""

    def __init__(self, file: Path, from_step: int = 0) -> None:
        """Open for appending; lines of steps after `from_step`, which will be taken again, are removed."""
        self.file = file
        kept = [line for line in read_metrics(file) if line["step"] <= from_step] if file.exists() else []
        write_whole(file, b"".join(_line(line) for line in kept))

    def write(self, metrics: Mapping[str, StepMetrics]) -> None:
        """Append a line for each SAE. Raises `DiskFullError`."""
        with reported_full(self.file), self.file.open("ab") as opened:
            for name, found in metrics.items():
                opened.write(_line({"sae": name, **asdict(found)}))


def read_metrics(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log; one that a kill has cut short at the end is left out. Raises `StoreError` for other damage."""
    lines = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            yield json.loads(line)
        except ValueError as error:
            if number >= len(lines) - 1:
                return
            raise StoreError(f"{file}: line {number} is not JSON ({error})") from error


def _line(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, separators=(",", ":")) + "\n").encode()
