"""Compile a Triton kernel to machine code for a card that is not here, and read off what the card would need.

    report = compile_kernel(_decode, {"values": "*fp32", "d_out": "i32"}, {"BLOCK_D": 256}, capability=90)
    report.registers, report.stack, report.shared, report.count("HGMMA")

`assert_fits(report)` is what every kernel must pass. All reports of a session are printed at its end (`conftest.py`).
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""Most shared memory of a thread block in bytes, by compute capability. The compiler itself does not check it."""

CAPABILITIES = tuple(SHARED_MEMORY)
"""A100, RTX 30, RTX 40 and L4, H100 and H200, B200, RTX 50."""


@dataclass(frozen=True)
class Report:
    """What one compiled kernel needs, and the machine instructions it consists of."""

    name: str
    capability: int
    registers: int
    """Per thread."""
    stack: int
    """Bytes per thread; anything above 0 is spilled registers."""
    shared: int
    """Bytes per thread block."""
    opcodes: Counter[str]
    """Instructions by name with modifiers, such as `LDG.E.128`; static counts."""
    configuration: str
    """Constants and options, to tell reports apart."""

    def count(self, opcode: str) -> int:
        """Number of instructions of that name, with any modifiers."""
        return sum(n for name, n in self.opcodes.items() if name.split(".")[0] == opcode or name.startswith(f"{opcode}."))

    def __str__(self) -> str:
        return (
            f"{self.name:24} sm_{self.capability:<4} {self.registers:3} registers {self.stack:4} stack "
            f"{self.shared:6} shared {self.opcodes.total():5} instructions  {self.configuration}"
        )


REPORTS: list[Report] = []
"""Everything that this session compiled."""


def compile_kernel(
    fn: Any,
    signature: Mapping[str, str],
    constexprs: Mapping[str, object],
    capability: int,
    num_warps: int = 4,
    num_stages: int = 3,
    divisible: Collection[str] = (),
    **options: object,
) -> Report:
    """Compile the `triton.jit` function `fn` for `sm_<capability>`.

    `signature` gives the types of the ordinary arguments (`"*bf16"`, `"i32"`, `"i64"`), `constexprs` the values of the others.
    Pointers count as 16-byte aligned, as torch's are, and of the integers those named in `divisible` as multiples of 16: at a
    launch Triton finds out for itself. Raises `triton.CompilationError` and the like where compilation fails.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {name: signature.get(name, "constexpr") for name in fn.arg_names}
    unknown = set(signature) | set(constexprs)
    assert unknown == set(fn.arg_names), f"arguments named wrongly: {sorted(unknown ^ set(fn.arg_names))}"
    even = [i for i, name in enumerate(fn.arg_names) if types[name].startswith("*") or name in divisible]
    attrs = {(i,): [["tt.divisibility", 16]] for i in even}
    source = ASTSource(fn, types, constexprs=dict(constexprs), attrs=attrs)
    options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True, **options}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    registers, stack, opcodes = _inspect(compiled.asm["cubin"])
    configuration = ", ".join(f"{name}={value}" for name, value in {**constexprs, **options}.items())
    report = Report(fn.__name__, capability, registers, stack, compiled.metadata.shared, opcodes, configuration)
    REPORTS.append(report)
    return report


def assert_fits(report: Report, stack: int = 0) -> None:
    """No spilled registers beyond `stack` bytes, and shared memory within what the card has."""
    assert report.stack <= stack, f"spills registers: {report}"
    assert report.shared <= SHARED_MEMORY[report.capability], f"more shared memory than the card has: {report}"


def _inspect(cubin: bytes) -> tuple[int, int, Counter[str]]:
    """(registers, stack, opcodes) by the tools that ship inside Triton."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        usage = _output(tools / "cuobjdump", "-res-usage", file)
        listing = _output(tools / "nvdisasm", "-c", file)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, f"cuobjdump wrote something else: {usage}"
    opcodes = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", listing, flags=re.MULTILINE)
    return int(found[1]), int(found[2]), Counter(opcodes)


def _output(tool: Path, *arguments: object) -> str:
    return subprocess.run([tool, *map(str, arguments)], check=True, capture_output=True, text=True).stdout
