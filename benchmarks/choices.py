"""Writes what was measured into the table by which encoder kernels choose their design and tile."""

import importlib
import json
from typing import Any

import torch

from benchmarks.measure import Budget
from benchmarks.operands import Operands, make
from benchmarks.sizes import Size
from benchmarks.timing import Function, time_in_turns

OPERATIONS = ("encode_topk", "encode_threshold")


def measure_choices(sizes: tuple[Size, ...], device: torch.device, budget: Budget) -> list[dict[str, Any]]:
    """The fastest design and tile of each operation, size and kind of weights, as entries of the table."""
    entries = []
    for size in sizes:
        for precision in ("bf16", "fp32"):
            operands = make(size, precision, device)  # type: ignore[arg-type]
            entries += [_fastest(operation, operands, budget) for operation in OPERATIONS if not budget.is_spent()]
    return entries


def update_table(measured: list[dict[str, Any]]) -> None:
    """Put the entries in place of those of the same operation, card, weights and size; keep the others."""
    from sae_fast.kernels import _choice

    table = json.loads(_choice.TABLE.read_text(encoding="utf-8"))
    replaced = {_key(entry) for entry in measured}
    entries = [entry for entry in table["entries"] if _key(entry) not in replaced] + measured
    lines = ",\n".join("    " + json.dumps(entry) for entry in sorted(entries, key=_key))
    _choice.TABLE.write_text('{\n  "entries": [\n' + lines + "\n  ]\n}\n", encoding="utf-8")


def _fastest(operation: str, o: Operands, budget: Budget) -> dict[str, Any]:
    from sae_fast.kernels._choice import Choice, configurations

    major, minor = torch.cuda.get_device_capability(o.rows.device)
    tiles = configurations(10 * major + minor)
    choices = [Choice("groups", tile) for tile in tiles] + [Choice("chunks", tiles[0])]
    functions = {str(place): _function(operation, o, choice) for place, choice in enumerate(choices)}
    with torch.no_grad():
        runnable = {name: function for name, function in functions.items() if _runs(function, o)}
        times = time_in_turns(runnable, o.x, budget.each / 2, budget.rounds)
    best = min(times, key=lambda name: times[name].median)
    choice = choices[int(best)]
    return {
        "operation": operation, "capability": 10 * major + minor, "screen": o.precision == "fp32",
        "d_in": o.size.d_in, "d_sae": o.size.d_sae, "n": o.size.tokens,
        "k": o.size.k if operation == "encode_topk" else None,
        "design": choice.design, "tile": list(choice.tile) if choice.design == "groups" else None,
        "status": "measured", "ms": round(times[best].median, 4),
    }  # fmt: skip


def _function(operation: str, o: Operands, choice: Any) -> Function:
    kernel = getattr(importlib.import_module(f"sae_fast.kernels.{operation}"), operation)
    if operation == "encode_topk":
        return lambda x: kernel(x, o.encoder, o.b_enc, o.size.k, choice=choice)
    return lambda x: kernel(x, o.encoder, o.b_enc, o.threshold, choice=choice)


def _runs(function: Function, o: Operands) -> bool:
    """Whether a configuration fits this card; compiles it."""
    try:
        function(o.x[0])
        torch.cuda.synchronize()
    except Exception as error:
        print(f"left out: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
        return False
    return True


def _key(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(str(entry[name]) for name in ("operation", "capability", "screen", "d_in", "d_sae", "n", "k"))
