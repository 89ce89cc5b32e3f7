"""The activation index: all non-zero feature activations of one SAE over one TokenDataset, sorted by feature, on disk.

A folder of `index.json` and `part-00000.safetensors`, … with one part per range of positions. A *position* is
`context * context_length + offset` into the TokenDataset. Each part is the CSC matrix (rows: positions, columns: features) of
its range; a range of features is read from all parts by slicing, without touching the rest.

A part is written under another name and renamed, and carries its own numbers in its header: a part that is there is whole,
and an interrupted index continues at the first missing part. `index.json` is written last.
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from safetensors.numpy import save as to_safetensors

from sae_fast.files import write_whole
from sitegen.errors import CacheError

INDEX_VERSION = 1
INDEX_FILE = "index.json"


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the index: the positions `first_position … first_position + n_positions - 1`."""

    file: str
    first_position: int
    n_positions: int
    n_counted: int
    """Counted tokens among these positions, active or not."""
    nnz: int


@dataclass(frozen=True, slots=True)
class FeatureSlice:
    """All activations of a range of features, sorted by feature, then position."""

    feature_ptr: NDArray[np.int64]
    """`[n_features + 1]`: feature `first + i` holds entries `feature_ptr[i]:feature_ptr[i + 1]`."""
    positions: NDArray[np.int64]
    """`[nnz]`"""
    values: NDArray[np.float32]
    """`[nnz]`, never 0"""


@dataclass(frozen=True)
class ActivationIndex:
    """A finished index, opened for reading. Parts are memory-mapped: opening costs nothing."""

    folder: Path
    d_sae: int
    context_length: int
    n_positions: int
    """Positions of the TokenDataset: `n_contexts * context_length`, padding included."""
    n_counted: int
    """Counted tokens: what a density is a share of."""
    parts: tuple[Part, ...]
    fingerprint: str

    @classmethod
    def open(cls, folder: Path | str) -> "ActivationIndex":
        """Open the index in `folder`; CacheError where it is missing, unfinished, or of another version."""
        folder = Path(folder)
        try:
            content = json.loads((folder / INDEX_FILE).read_text())
        except FileNotFoundError:
            raise CacheError(
                f"No activation index in {folder}: {INDEX_FILE} is missing (not started, or unfinished)."
            ) from None
        if content["version"] != INDEX_VERSION:
            raise CacheError(
                f"The activation index in {folder} has version {content['version']}, expected {INDEX_VERSION}: build it anew."
            )
        parts = tuple(Part(**part) for part in content["parts"])
        missing = [part.file for part in parts if not (folder / part.file).is_file()]
        if missing:
            raise CacheError(
                f"The activation index in {folder} lacks {', '.join(missing)}: delete the folder and build it anew."
            )
        return cls(
            folder=folder,
            d_sae=content["d_sae"],
            context_length=content["context_length"],
            n_positions=content["n_positions"],
            n_counted=content["n_counted"],
            parts=parts,
            fingerprint=content["fingerprint"],
        )

    @property
    def nnz(self) -> int:
        return sum(part.nnz for part in self.parts)

    @cached_property
    def n_active(self) -> NDArray[np.int64]:
        """`[d_sae]`: counted tokens on which each feature is active."""
        total = np.zeros(self.d_sae, dtype=np.int64)
        for arrays in self._arrays:
            total += np.diff(arrays["feature_ptr"])
        return total

    def features(self, first: int, last: int) -> FeatureSlice:
        """Return all activations of the features `first … last - 1`."""
        if not 0 <= first <= last <= self.d_sae:
            raise ValueError(f"features({first}, {last}): expected 0 <= first <= last <= {self.d_sae}")
        pointers = [arrays["feature_ptr"][first : last + 1] for arrays in self._arrays]
        counts = np.array([np.diff(pointer) for pointer in pointers], dtype=np.int64).reshape(len(pointers), last - first)
        feature_ptr = np.concatenate([[0], np.cumsum(counts.sum(axis=0))]).astype(np.int64)
        positions = np.empty(feature_ptr[-1], dtype=np.int64)
        values = np.empty(feature_ptr[-1], dtype=np.float32)
        # Where part p's entries of each feature begin: behind the same feature's entries of the parts before it.
        starts = feature_ptr[:-1] + np.cumsum(counts, axis=0) - counts
        for part, arrays, pointer, count, start in zip(self.parts, self._arrays, pointers, counts, starts, strict=True):
            entries = slice(int(pointer[0]), int(pointer[-1]))
            target = np.repeat(start - (pointer[:-1] - pointer[0]), count) + np.arange(count.sum())
            positions[target] = arrays["positions"][entries].astype(np.int64) + part.first_position
            values[target] = arrays["values"][entries]
        return FeatureSlice(feature_ptr, positions, values)

    def tokens(self, part: int) -> scipy.sparse.csr_matrix:
        """Return one part by token: CSR float32 `[n_positions of the part, d_sae]`, features ascending within a row."""
        arrays, numbers = self._arrays[part], self.parts[part]
        columns = scipy.sparse.csc_matrix(
            (arrays["values"], arrays["positions"], arrays["feature_ptr"]), shape=(numbers.n_positions, self.d_sae)
        )
        return columns.tocsr()

    @cached_property
    def _arrays(self) -> list[dict[str, NDArray]]:
        return [read_part(self.folder / part.file)[1] for part in self.parts]


class ActivationIndexWriter:
    """Write an index part by part; parts that an earlier run finished are kept, whatever their order."""

    def __init__(self, folder: Path | str, d_sae: int, context_length: int, n_positions: int, fingerprint: str) -> None:
        self.folder = Path(folder)
        self.d_sae, self.context_length, self.n_positions = d_sae, context_length, n_positions
        self.fingerprint = fingerprint
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.new"):
            leftover.unlink()
        self.parts: dict[int, Part] = {}
        for path in sorted(self.folder.glob("part-*.safetensors")):
            self.parts[int(path.stem.removeprefix("part-"))] = read_part(path)[0]

    def write_part(
        self,
        number: int,
        first_position: int,
        n_positions: int,
        n_counted: int,
        feature_ptr: NDArray[np.int64],
        positions: NDArray[np.int32],
        values: NDArray[np.float32],
    ) -> Part:
        """Write part `number`: `feature_ptr [d_sae + 1]`, `positions [nnz]` relative to `first_position`, `values [nnz]`."""
        name = f"part-{number:05d}.safetensors"
        part = Part(name, first_position, n_positions, n_counted, len(values))
        arrays: dict[str, NDArray] = {
            "feature_ptr": np.ascontiguousarray(feature_ptr, dtype=np.int64),
            "positions": np.ascontiguousarray(positions, dtype=np.int32),
            "values": np.ascontiguousarray(values, dtype=np.float32),
        }
        # One metadata key: the order of several would differ from run to run.
        write_whole(self.folder / name, to_safetensors(arrays, {"part": json.dumps(asdict(part))}))
        self.parts[number] = part
        return part

    def finish(self) -> ActivationIndex:
        """Write `index.json` and return the index."""
        parts = [self.parts[number] for number in sorted(self.parts)]
        content = {
            "version": INDEX_VERSION,
            "d_sae": self.d_sae,
            "context_length": self.context_length,
            "n_positions": self.n_positions,
            "n_counted": sum(part.n_counted for part in parts),
            "parts": [asdict(part) for part in parts],
            "fingerprint": self.fingerprint,
        }
        write_whole(self.folder / INDEX_FILE, (json.dumps(content, indent=1) + "\n").encode())
        return ActivationIndex.open(self.folder)


def read_part(path: Path) -> tuple[Part, dict[str, NDArray]]:
    """Memory-map a part's tensors: its numbers, and `feature_ptr`, `positions`, `values` as read-only arrays."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    start = 8 + int(data[:8].view(np.int64)[0])
    header = json.loads(data[8:start].tobytes())
    part = Part(**json.loads(header.pop("__metadata__")["part"]))
    dtypes = {"I64": np.int64, "I32": np.int32, "F32": np.float32}
    arrays = {}
    for name, tensor in header.items():
        first, last = tensor["data_offsets"]
        arrays[name] = np.frombuffer(data[start + first : start + last], dtype=dtypes[tensor["dtype"]])
    return part, arrays
