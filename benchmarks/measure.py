"""Measures a set of sizes: checks each contender, times all of one operation in turns, and lists what was left out and why."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.contenders import CONTENDERS, Contender, arithmetic, compiled
from benchmarks.correct import Check, WrongResultError, check
from benchmarks.operands import Operands, Precision, make
from benchmarks.sizes import COMPILED, Size
from benchmarks.timing import Function, Times, extra_memory, time_in_turns

Entry = dict[str, Any]
Report = Callable[[str], None]

DENSE_SHARE = 0.2
"""A contender that forms the dense matrix is left out where that would take a greater share of the memory."""


@dataclass
class Budget:
    """Seconds for all, and for the runs of one operation at one size."""

    total: float
    each: float
    rounds: int
    began: float = field(default_factory=time.perf_counter)

    def is_spent(self) -> bool:
        return time.perf_counter() - self.began > self.total


def measure(sizes: tuple[Size, ...], device: torch.device, budget: Budget, report: Report = print) -> list[Entry]:
    """One entry for each size, precision, operation and contender; those not measured say why (`left_out`)."""
    precisions: tuple[Precision, ...] = ("bf16", "fp32", "tf32") if device.type == "cuda" else ("fp32", "bf16")
    entries: list[Entry] = []
    for size in sizes:
        for precision in precisions:
            if budget.is_spent():
                entries.append({"size": size.name, "precision": precision, "left_out": "out of time"})
                continue
            try:
                entries += _one_size(size, precision, device, budget, report)
            except torch.OutOfMemoryError:
                entries.append({"size": size.name, "precision": precision, "left_out": "out of memory"})
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return entries


def _one_size(size: Size, precision: Precision, device: torch.device, budget: Budget, report: Report) -> Iterator[Entry]:
    operands = make(size, precision, device)
    for operation in dict.fromkeys(contender.operation for contender in CONTENDERS):
        contenders = [c for c in _all_of(operation, size, device) if precision in c.precisions]
        if contenders and not budget.is_spent():
            with arithmetic(precision), torch.no_grad():
                yield from _one_operation(contenders, operands, budget, report)


def _all_of(operation: str, size: Size, device: torch.device) -> list[Contender]:
    chosen = [c for c in CONTENDERS if c.operation == operation and c.available(device)]
    if device.type == "cuda" and size.name in COMPILED:
        chosen += [compiled(c) for c in chosen if c.name == "eager"]
    return chosen


def _one_operation(contenders: list[Contender], o: Operands, budget: Budget, report: Report) -> Iterator[Entry]:
    ready: dict[str, Function] = {}
    entries: dict[str, Entry] = {}
    for contender in contenders:
        entry = {"size": o.size.name, "precision": o.precision, "operation": contender.operation, "contender": contender.name}
        try:
            function, found, extra = _prepared(contender, o)
        except (WrongResultError, RuntimeError, NotImplementedError, ImportError, TypeError) as error:
            if contender.name.startswith("sae_fast"):
                raise
            yield entry | {"left_out": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
            continue
        ready[contender.name] = function
        entries[contender.name] = entry | _checked(found) | {"extra_bytes": extra}
    times = time_in_turns(ready, o.x, budget.each, budget.rounds)
    for name, entry in entries.items():
        entry |= _rates(entry["operation"], times[name], times.get("addmm"), o)
        report(f"{o.size.name:22} {o.precision:5} {entry['operation']:18} {name:22} {entry['ms']:10.3f} ms")
        yield entry


def _prepared(contender: Contender, o: Operands) -> tuple[Function, Check | None, int | None]:
    """The function, once run and found right, and the memory its second run took beyond what it started from."""
    device = o.rows.device
    if contender.dense and _dense_bytes(o) > DENSE_SHARE * _memory(device):
        raise WrongResultError(f"the dense matrix takes {_dense_bytes(o) / 1e9:.0f} GB")
    function = contender.build(o)
    found = check(contender, function(o.x[0]), o)
    with extra_memory(device) as extra:
        function(o.x[0])
    return function, found, extra[0] if extra else None


def _checked(found: Check | None) -> Entry:
    if found is None:
        return {"checked": False}
    return {"checked": True, "error": found.error, "mismatches": found.mismatches, "recall": found.recall}


def _rates(operation: str, times: Times, floor: Times | None, o: Operands) -> Entry:
    size, ms = o.size, times.median
    entry: Entry = {"ms": ms, "ms_spread": times.spread, "runs": len(times.ms), "tokens_per_s": size.tokens / ms * 1e3}
    if operation.startswith("encode") or operation == "reconstruct":
        entry["tflops"] = 2 * size.tokens * size.d_in * size.d_sae / ms / 1e9
        entry["share_of_addmm"] = floor.median / ms if floor is not None else None
    else:
        entries = size.tokens * size.k
        moved = entries * (8 if operation == "transpose" else size.d_in * o.dtype.itemsize) + size.tokens * size.d_in * 4
        entry["gb_per_s"] = moved / ms / 1e6
    return entry


def _dense_bytes(o: Operands) -> int:
    return o.size.tokens * o.size.d_sae * o.dtype.itemsize


def _memory(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 8 << 30
