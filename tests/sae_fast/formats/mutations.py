"""Mutated files of every published format, loaded one after another: what `test_fuzz.py` runs in processes of its own.

    MALLOC_ARENA_MAX=1 python mutations.py <folder to work in> <first seed> <number of cases>

Each case is announced before it runs, so that the last line of the output names the one that crashed or hung. The last line of
a good run begins with `done` and gives what was measured.
"""

import json
import random
import re
import resource
import shutil
import signal
import struct
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import published
import tiny
import torch

import sae_fast
from sae_fast.errors import SaeFastError
from sae_fast.formats import info
from sae_fast.sources.layout import LocalRanges
from sae_fast.sources.ranged import open_ranged
from sae_fast.sources.tensor_files import ENDINGS

SECONDS = 10
"""A case may take this long."""
MOST_MEMORY = 16 << 20
"""What loading may take beyond what loading the whole files takes, in bytes; the files have at most some 20 kB."""
ROOM = 4 << 30
"""A case that asks for more than this fails at once, instead of bringing the machine down."""

STRANGE = (
    None, True, -1, 0, 1, 3, 2**31, 2**63, 10**400, 1e308, 1e-320, 0.1,
    "", "nan", "gated", [], [[]], {}, {"in": 1e-320}, [10**9],
)  # fmt: skip
"""What a number or a text of a configuration may turn into."""


def saved(folder: Path, style: str) -> Path:
    """A folder of SAELens's, or of our own."""
    tiny.sae(folder, architecture="jumprelu")
    if style == "sae_fast":
        sae = sae_fast.load(folder)
        shutil.rmtree(folder)
        sae.save(folder, style)
    return folder


def other_layers(name: str) -> bool:
    """Files of a cross-layer transcoder that are not read along with layer 1."""
    return re.fullmatch(r"(params_layer|W_enc|W_dec)_[023]\.safetensors", name) is not None


def flip(data: bytes, rng: random.Random) -> bytes:
    """Some bits, mostly near the beginning, where headers are."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        place = rng.randrange(len(changed)) if rng.random() < 0.5 else rng.randrange(min(len(changed), 512))
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(data: bytes, rng: random.Random) -> bytes:
    """A download that broke off."""
    return data[: rng.choice((0, 1, 7, 8, 9, rng.randrange(len(data)), len(data) - 1))]


def splice(data: bytes, rng: random.Random) -> bytes:
    """A part copied over another, cut out, or repeated."""
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    part = data[a:b]
    at = rng.randrange(len(data))
    over, out, twice = data[:at] + part + data[at + len(part) :], data[:a] + data[b:], data[:at] + part + data[at:]
    return rng.choice((over, out, twice, b"\0" * len(data)))


def lie_about_length(data: bytes, rng: random.Random) -> bytes:
    """The first eight bytes, which are the length of a safetensors header."""
    length = rng.choice((0, 1, 2, len(data), 2**31, 2**62, 2**64 - 1, struct.unpack("<Q", data[:8])[0] + rng.choice((-1, 1))))
    return struct.pack("<Q", length % 2**64) + data[8:]


def edit_header(data: bytes, rng: random.Random) -> bytes:
    """Shape, dtype, offsets or key of a tensor in a safetensors header, its length kept right."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    key = rng.choice(sorted(header))
    entry = header[key]
    match rng.randrange(6):
        case 0:
            entry["shape"] = [rng.choice((0, 1, -1, 2**40, *entry["shape"])) for _ in range(rng.randrange(4))]
        case 1:
            entry["shape"] = [0, 2**40, 8]
            entry["data_offsets"] = [0, 0]
        case 2:
            entry["dtype"] = rng.choice(("F64", "I64", "F8_E4M3", "BOOL", "X", ""))
        case 3:
            entry["data_offsets"] = [rng.randrange(2**20), rng.randrange(2**40)]
        case 4:
            header[rng.choice(("W_enc", "b_dec", "noise", "__metadata__"))] = header.pop(key)
        case 5:
            header[key] = rng.choice(STRANGE)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def edit_json(data: bytes, rng: random.Random) -> bytes:
    """One value of a configuration, at any depth."""
    content = json.loads(data)
    here = content
    while nested := [value for value in here.values() if isinstance(value, dict) and value]:
        if rng.random() < 0.3:
            break
        here = rng.choice(nested)
    key = rng.choice(sorted(here))
    if rng.random() < 0.3:
        del here[key]
    else:
        here[key] = rng.choice(STRANGE)
    return json.dumps(content).encode()


def edit_text(data: bytes, rng: random.Random) -> bytes:
    """A line of YAML repeated, left out, indented, or given another value."""
    lines = data.decode().splitlines()
    at = rng.randrange(len(lines))
    line = lines[at]
    other = line.split(":")[0] + f": {rng.choice(STRANGE)}"
    lines[at] = rng.choice((line * 2, "", f"      {line}", other, "a: &a [*a, *a]", "{" * 2000, "- 1", "\t" + line))
    return "\n".join(lines).encode()


def edit_archive(data: bytes, rng: random.Random, folder: Path) -> bytes:
    """A member of a zip archive (npz, or what torch.save writes) mutated, its checksum made right again."""
    source, target = folder / "archive.in", folder / "archive.out"
    source.write_bytes(data)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        names = old.namelist()
        chosen = rng.choice([name for name in names if name.endswith(("data.pkl", ".npy"))] or names)
        for name in names:
            content = old.read(name)
            if name == chosen and content:
                content = rng.choice((flip, truncate, splice))(content, rng)
            if rng.random() < 0.02:
                continue
            new.writestr(name, content)
    return target.read_bytes()


def mutate(file: Path, rng: random.Random, folder: Path) -> str:
    """Change a file in place; returns what was done."""
    data = file.read_bytes()
    ways: dict[str, Callable[[], bytes]] = {
        "flip": lambda: flip(data, rng),
        "truncate": lambda: truncate(data, rng),
        "splice": lambda: splice(data, rng),
    }
    if file.suffix == ".json":
        ways |= {f"edit {n}": lambda: edit_json(data, rng) for n in range(4)}
    elif file.suffix == ".yaml":
        ways |= {f"edit {n}": lambda: edit_text(data, rng) for n in range(4)}
    elif file.suffix == ".safetensors":
        ways |= {"length": lambda: lie_about_length(data, rng)}
        ways |= {f"edit {n}": lambda: edit_header(data, rng) for n in range(4)}
    else:
        ways |= {f"edit {n}": lambda: edit_archive(data, rng, folder) for n in range(4)}
    way = rng.choice(sorted(ways))
    file.write_bytes(ways[way]())
    return way


def read_in_ranges(file: Path) -> None:
    """What a server would be asked for."""
    if file.suffix in ENDINGS and (opened := open_ranged(LocalRanges(file, str(file)))) is not None:
        for key in opened.shapes:
            opened.read(key)


def read(path: Path) -> str:
    """What became of an attempt to load."""
    try:
        for file in sorted((path.parent if path.is_file() else path).rglob("*")):
            read_in_ranges(file)
        info(path)
        sae = sae_fast.load(path)
    except SaeFastError as error:
        return type(error).__name__
    assert all(tensor.numel() for tensor in sae.tensors().values())
    return "loaded"


def memory(name: str) -> int:
    """Of this process, in bytes: VmRSS is what it holds, VmHWM the most it held, VmPeak the most it reserved."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{name}:")[1].split()[0]) << 10


def forget_peak() -> None:
    """Let VmHWM begin anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def say(line: str) -> None:
    """A line that is there even if the next thing is a crash."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """See the top of the file."""
    work, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    # Threads that read in ranges would each reserve a stack of several MiB.
    threading.stack_size(256 << 10)
    originals = {name: make().write(work / "originals" / name) for name, make in published.SAMPLES.items()}
    originals |= {name: saved(work / "originals" / name, name) for name in ("saelens", "sae_fast")}
    canary = work / "canary"
    for name, path in originals.items():
        assert read(path) == "loaded", name
    reserved = memory("VmPeak")
    resource.setrlimit(resource.RLIMIT_AS, (reserved + ROOM, reserved + ROOM))
    outcomes: dict[str, int] = {}
    most = 0
    for seed in range(first, first + count):
        rng = random.Random(seed)
        name = rng.choice(sorted(originals))
        shutil.rmtree(work / "case", ignore_errors=True)
        shutil.copytree(work / "originals" / name, work / "case")
        path = work / "case" / originals[name].relative_to(work / "originals" / name)
        beside = path.parent if path.is_file() else path
        files = sorted(file for file in beside.rglob("*") if file.is_file() and not other_layers(file.name))
        file = rng.choice(files)
        way = mutate(file, rng, work)
        say(f"{seed} {name} {file.name} {way}")
        forget_peak()
        held = memory("VmRSS")
        signal.alarm(SECONDS)
        outcome = read(path)
        signal.alarm(0)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        most = max(most, memory("VmHWM") - held, memory("VmPeak") - reserved)
        assert most <= MOST_MEMORY, f"took {most} bytes"
        assert not canary.exists(), "ran code"
    say("done " + json.dumps({"outcomes": outcomes, "memory": most}))


if __name__ == "__main__":
    main()
