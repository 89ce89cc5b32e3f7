"""Times functions in turns: CUDA events with a cold L2 on a GPU, the wall clock on a CPU."""

import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

FLUSH_BYTES = 256 << 20
"""Written between runs, larger than any L2."""

Function = Callable[[Tensor], object]


@dataclass
class Times:
    """Milliseconds of one contender's runs."""

    ms: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    @property
    def spread(self) -> tuple[float, float]:
        """Lower and upper quartile; the extremes of fewer than four runs."""
        if len(self.ms) < 4:
            return min(self.ms), max(self.ms)
        low, _, high = statistics.quantiles(self.ms, n=4, method="inclusive")
        return low, high


def time_in_turns(functions: dict[str, Function], inputs: tuple[Tensor, ...], seconds: float, rounds: int) -> dict[str, Times]:
    """Each function on each input in turn, at least 3 and at most `rounds` times, until `seconds` are over.

    Turns keep a throttling or a busy machine from favouring one of them. Every function has run before.
    """
    device = inputs[0].device
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device) if device.type == "cuda" else None
    times: dict[str, Times] = {name: Times() for name in functions}
    end = time.perf_counter() + seconds
    for turn in range(rounds):
        if turn >= 3 and time.perf_counter() > end:
            break
        x = inputs[turn % len(inputs)]
        for name, function in functions.items():
            times[name].ms.append(_on_gpu(function, x, flush) if flush is not None else _on_cpu(function, x))
    return times


def _on_cpu(function: Function, x: Tensor) -> float:
    start = time.perf_counter()
    function(x)
    return (time.perf_counter() - start) * 1e3


def _on_gpu(function: Function, x: Tensor, flush: Tensor) -> float:
    flush.zero_()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function(x)
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop))


@contextmanager
def extra_memory(device: torch.device) -> Iterator[list[int]]:
    """A list that holds, after the block, the bytes by which its peak exceeded what was in use before; empty where unknown."""
    result: list[int] = []
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield result
        torch.cuda.synchronize()
        result.append(torch.cuda.max_memory_allocated() - before)
        return
    reset = _reset_peak()
    before = _resident("VmRSS")
    yield result
    if reset:
        result.append(max(0, _resident("VmHWM") - before))


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _resident(name: str) -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0
