"""Headers of tensor files: what they promise is checked before anything is believed."""

import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae_fast.errors import FormatError
from sae_fast.sources.layout import LocalRanges, npz_layout, safetensors_layout
from sae_fast.sources.tensor_files import open_tensor_file
from sae_fast.sources.torch_layout import torch_layout

ROOT = Path(__file__).resolve().parents[3]
GOOD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def written(file: Path, header: object, n_data: int = 24, length: int | None = None) -> LocalRanges:
    """A safetensors file with that header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(n_data))
    return LocalRanges(file, "here/x.safetensors")


@pytest.mark.parametrize(
    ("header", "n_data", "message"),
    [
        (b"{", 24, "not a safetensors file"),
        (b"[1]", 24, "not a safetensors file"),
        ({"W": GOOD}, 23, "speaks of"),
        ({"W": GOOD}, 25, "speaks of"),
        ({"W": GOOD, "V": {**GOOD, "data_offsets": [12, 36]}}, 36, "a tensor begins at 12 where 24 is next"),
        ({"W": {**GOOD, "data_offsets": [4, 28]}}, 28, "a tensor begins at 4 where 0 is next"),
        ({"W": {**GOOD, "shape": [2, 4]}}, 24, r"W: F32 \[2, 4\] does not fit its 24 bytes"),
        ({"W": {**GOOD, "shape": [-2, -3]}}, 24, "W: shape"),
        ({"W": {**GOOD, "shape": [2, "3"]}}, 24, "W: shape"),
        ({"W": {**GOOD, "shape": [1 << 62, 6]}}, 24, "does not fit"),
        ({"W": {**GOOD, "dtype": "F8_E4M3"}}, 24, "dtype of W: F8_E4M3 is not one of"),
        ({"W": {"dtype": "F32"}}, 24, "not a safetensors file"),
        ({"W": 3}, 24, "not a safetensors file"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, header: object, n_data: int, message: str) -> None:
    """Shapes, dtypes, offsets and length must fit each other; the error names the file."""
    with pytest.raises(FormatError, match=f"here/x.safetensors: .*{message}"):
        safetensors_layout(written(tmp_path / "x.safetensors", header, n_data))


@pytest.mark.parametrize("length", [0, 1 << 20, 1 << 63, 101_000_000])
def test_lengths_of_headers_are_bounded(tmp_path: Path, length: int) -> None:
    """A header that is longer than the file is not read."""
    with pytest.raises(FormatError, match="a header of"):
        safetensors_layout(written(tmp_path / "x.safetensors", {"W": GOOD}, length=length))


def test_a_long_header_is_read_to_its_end(tmp_path: Path) -> None:
    """A header beyond the first block is completed by a second read."""
    tensors = {f"layer.{i}.weight": torch.full((2,), float(i)) for i in range(200)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"note": "text"})

    layout = safetensors_layout(LocalRanges(tmp_path / "x.safetensors", "x.safetensors"))

    assert set(layout) == set(tensors)
    content = (tmp_path / "x.safetensors").read_bytes()
    span = layout["layer.77.weight"]
    assert span.offset is not None
    assert np.frombuffer(content, np.float32, 2, span.offset).tolist() == [77.0, 77.0]


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    """An npz archive with a pickle in it is refused by its header."""
    np.savez(tmp_path / "x.npz", W=np.array([{"a": 1}, None], dtype=object))

    with pytest.raises(FormatError, match=r"not an npz file \(W.npy: object"):
        npz_layout(LocalRanges(tmp_path / "x.npz", "x.npz"))


def test_an_archive_that_states_other_sizes_is_refused(tmp_path: Path) -> None:
    """An array whose header promises more than the archive holds allocates nothing."""
    np.save(tmp_path / "W.npy", np.zeros((2, 3), np.float32))
    content = (tmp_path / "W.npy").read_bytes().replace(b"(2, 3)", b"(9, 9)")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("W.npy", content)

    with pytest.raises(FormatError, match=r"W.npy: float32 \[9, 9\] does not fit"):
        npz_layout(LocalRanges(tmp_path / "x.npz", "x.npz"))


@pytest.mark.parametrize("how", ["stored", "compressed"])
def test_an_archive_that_claims_more_than_it_holds_is_refused(tmp_path: Path, how: str) -> None:
    """Sizes in the directory that the file cannot hold are found before anything of that size is made."""
    (np.savez if how == "stored" else np.savez_compressed)(tmp_path / "x.npz", W=np.zeros((64, 64), np.float32))
    content = (tmp_path / "x.npz").read_bytes()
    lie = content.replace(b"(64, 64)", b"(9, 999)")
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        (member,) = archive.infolist()
    claimed = struct.pack("<I", member.header_offset + 128 + 4 * 9 * 999 if how == "stored" else 1 << 30)
    at = lie.rindex(b"PK\x01\x02")
    (tmp_path / "x.npz").write_bytes(lie[: at + 24] + claimed + lie[at + 28 :])

    with pytest.raises(FormatError, match=r"x.npz: not an npz file \(W.npy"):
        npz_layout(LocalRanges(tmp_path / "x.npz", "x.npz"))


def test_selections_of_local_archives_are_mapped(tmp_path: Path) -> None:
    """Rows and columns are right although an archive puts arrays at odd places."""
    W = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    np.savez(tmp_path / "x.npz", W=W)
    offset = npz_layout(LocalRanges(tmp_path / "x.npz", "x.npz"))["W"].offset
    found = open_tensor_file(tmp_path / "x.npz", "x.npz")

    assert offset is not None
    assert offset % 4 != 0
    for axis, picked in ((0, [39, 0]), (1, [4, 29, 4])):
        assert np.array_equal(found.read_along("W", axis, torch.tensor(picked)).numpy(), W.take(picked, axis))


class Evil:
    """A pickle that would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.target), "w")


def test_an_index_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    """Neither the index reader nor what reads the whole file runs anything."""
    torch.save({"W": torch.zeros(3), "evil": Evil(tmp_path / "ran")}, tmp_path / "x.pt")

    assert torch_layout(LocalRanges(tmp_path / "x.pt", "x.pt")) is None
    with pytest.raises(FormatError, match="holds more than tensors and plain values"):
        open_tensor_file(tmp_path / "x.pt", "x.pt")
    assert not (tmp_path / "ran").exists()


def test_rows_of_a_mapped_file_do_not_fill_memory(tmp_path: Path) -> None:
    """Ten rows of a file of 256 MB cost less than 32 MB of memory."""
    shape, header = [65536, 1024], tmp_path / "x.safetensors"
    written(header, {"W": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * 65536 * 1024]}}, 0)
    with header.open("r+b") as opened:
        opened.truncate(header.stat().st_size + 4 * 65536 * 1024)
    code = f"""
import resource, torch
from pathlib import Path
from sae_fast.sources import LocalFolder
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = LocalFolder(Path({str(tmp_path)!r})).tensors("x.safetensors").read_along("W", 0, torch.arange(0, 65536, 6554))
assert rows.shape == (10, 1024)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 32 << (10 if sys.platform == "linux" else 20)
