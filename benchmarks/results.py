"""What the times depend on, and where they are kept: one folder to a device, one JSON file to a set."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

PACKAGES = ("torch", "triton", "numpy", "sae-lens", "eai-sparsify", "flashinfer-python")


def write(
    name: str,
    device: torch.device,
    entries: list[dict[str, Any]],
    packages: dict[str, str] | None = None,
    folder: Path = RESULTS,
) -> Path:
    """Keep the entries of a set as `folder/<device>/<name>.json`; `packages` are those of another environment."""
    machine = describe(device)
    machine["packages"] = packages or machine["packages"]
    path = folder / slug(machine["device"]) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"set": name, "machine": machine, "entries": entries}, indent=1) + "\n", encoding="utf-8")
    return path


def read_all(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All sets, GPUs first, then by device and name."""
    sets = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/*.json"))]
    return sorted(sets, key=lambda one: (one["machine"]["kind"] != "cuda", one["machine"]["device"], one["set"]))


def describe(device: torch.device) -> dict[str, Any]:
    """The machine, the versions and the commit."""
    return {
        "kind": device.type,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "features": _features(device),
        "threads": torch.get_num_threads(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def slug(name: str) -> str:
    """A device's name as a folder's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _processor() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    model = re.search(r"model name\s*:\s*(.+)", info)
    family = re.search(r"cpu family\s*:\s*(\d+)", info)
    name = model[1].strip() if model else platform.machine()
    return f"{name} family {family[1]}" if family else name


def _features(device: torch.device) -> str:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"compute capability {major}.{minor}"
    level = torch.backends.cpu.get_cpu_capability()
    bf16 = any(getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return f"{level}{', bfloat16 products' if bf16 else ''}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit, and a plus sign where the package differs from it; None outside a repository."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "sae_fast"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}{'+' if changed else ''}"
