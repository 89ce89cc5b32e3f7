"""What a build did: the closing table of stages, times and sizes."""

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from sae_fast.progress import duration, size
from sitegen.stages import StageReport


@dataclass(frozen=True)
class BuildReport:
    """The result of `sitegen.build`."""

    out: Path
    """the site"""
    build_id: str
    stages: tuple[StageReport, ...]
    """in the order in which they ran; empty where there was nothing to do"""
    seconds: float
    peak_memory_bytes: int
    n_files: int = 0
    """files of the site"""
    n_bytes: int = 0
    """of the site"""
    cache: Path | None = None
    cache_bytes: int = 0
    cache_unused_bytes: int = 0
    """of stages in the cache that this build did not use: made with other settings"""

    def table(self) -> str:
        """Return the closing table, and the command that serves the site."""
        serve = f"Look at it with: sitegen serve {self.out}"
        if not self.stages:
            return f"{self.out} is up to date ({duration(self.seconds)}).\n{serve}"
        rows = [("stage", "time", "on disk", "")]
        for stage in self.stages:
            time = "done before" if stage.skipped else duration(stage.seconds)
            rows.append((stage.name, time, size(stage.n_bytes) if stage.n_bytes else "", stage.detail))
        rows.append(("together", duration(self.seconds), size(self.n_bytes), f"peak memory {size(self.peak_memory_bytes)}"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip() for row in rows]
        lines.append(f"\nThe site is in {self.out} ({self.n_files:,} files). {serve}")
        if self.cache is not None and self.cache_unused_bytes:
            lines.append(
                f"The cache {self.cache} holds {size(self.cache_bytes)}, {size(self.cache_unused_bytes)} of it for other "
                "settings; delete the folder to free them."
            )
        return "\n".join(lines)


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
