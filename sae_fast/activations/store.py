"""`ActivationStore`: rows of activations on disk, one for each counted token of a TokenDataset, at one or more hooks.

A folder of

    store.json              version, hooks with their widths, dtype, shards, what it was made from
    statistics.safetensors  sums over all rows, float64, of each hook: `<hook>.sum` [d], `<hook>.sum_of_squares`, `<hook>.norm`
    positions.npy           int64 [n_rows]: which position of the dataset a row is (context * context_length + offset)
    hook-0/shard-00000.bin  rows of the first hook, as `codec.file_dtype` says

Row `i` of every hook is the same token, and rows ascend by position, so that those of a document lie together. Files are
memory-mapped: what is read is what is held.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from sae_fast.activations.codec import StoreDtype, file_dtype, row_bytes, unpacked
from sae_fast.activations.order import Permutation
from sae_fast.activations.reading import RowReader, is_large
from sae_fast.corpus.tokens import TokenDataset
from sae_fast.errors import ArgumentError, MismatchError, StoreError

VERSION = 1
STORE, POSITIONS, STATISTICS = "store.json", "positions.npy", "statistics.safetensors"


@dataclass(frozen=True)
class Split:
    """Some of the rows of a store: ranges of rows, ascending and apart."""

    starts: NDArray[np.int64]
    """first row of each range"""
    lengths: NDArray[np.int64]
    """number of rows of each range"""

    def __len__(self) -> int:
        return int(self.lengths.sum())

    def rows(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows at these places, counted through all ranges."""
        ends = np.cumsum(self.lengths)
        which = np.searchsorted(ends, places, side="right")
        return self.starts[which] + places - (ends[which] - self.lengths[which])


@dataclass(frozen=True)
class ActivationStore:
    """An open store. Made by `sae_fast.activations.write_store`."""

    folder: Path
    info: Mapping[str, Any]
    """content of `store.json`"""

    @classmethod
    def open(cls, folder: Path | str) -> "ActivationStore":
        """Open the store in `folder`.

        Raises `StoreError` where it is missing, unfinished, of another version, or shorter than it says.
        """
        folder = Path(folder)
        try:
            info = json.loads((folder / STORE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(f"{folder}: no activation store ({STORE} is missing: not begun, or not finished)") from None
        except ValueError as error:
            raise StoreError(f"{folder / STORE}: not valid JSON ({error})") from error
        if info.get("version") != VERSION:
            raise StoreError(f"{folder}: version of the store", expected=VERSION, got=info.get("version"))
        store = cls(folder, info)
        store._check_files()
        return store

    @property
    def hooks(self) -> dict[str, int]:
        """Width of each hook, by name."""
        return dict(self.info["hooks"])

    @property
    def dtype(self) -> StoreDtype:
        """How rows are stored."""
        return self.info["dtype"]

    @property
    def n_rows(self) -> int:
        """Number of tokens."""
        return int(self.info["n_rows"])

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """int64 [n_rows], memory-mapped: the dataset position of each row."""
        return np.load(self.folder / POSITIONS, mmap_mode="r")

    def rows(self, hook: str, rows: NDArray[np.int64] | slice) -> Tensor:
        """Rows of a hook, [n, d] in the order asked for: float32 where stored as int8, else in the stored dtype."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.n_rows), dtype=np.int64)
        self._require_hooks([hook])
        number = list(self.hooks).index(hook)
        files = [self.folder / shard_name(number, n) for n in range(len(self.info["shards"]))]
        return unpacked(self._reader.read(files, file_dtype(self.hooks[hook], self.dtype), rows), self.dtype)

    def batches(
        self,
        batch_tokens: int,
        seed: int = 0,
        first_step: int = 0,
        split: Split | None = None,
        hooks: Sequence[str] | None = None,
        dtype: torch.dtype | None = torch.float32,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[dict[str, Tensor]]:
        """Batches {hook: [batch_tokens, d]} without end, of all rows (or a split's) in a global random order for each epoch.

        `first_step` begins at that batch without reading those before it. A batch may reach into the next epoch. Within a batch
        rows ascend, which is how a disk likes them and what no loss depends on. `part = (i, n)` gives each n-th row of every
        batch, from the i-th on: what one of n processes reads. With `dtype = None` rows are as `rows` gives them.
        """
        hooks = list(self.hooks) if hooks is None else list(hooks)
        self._require_hooks(hooks)
        split = self.everything if split is None else split
        if not len(split):
            raise ArgumentError("batches", expected="rows to draw from", got="a split without any")
        step = first_step
        while True:
            rows = np.sort(split.rows(self._places(len(split), step * batch_tokens, batch_tokens, seed)))[part[0] :: part[1]]
            found = {hook: self.rows(hook, rows) for hook in hooks}
            yield found if dtype is None else {hook: x.to(dtype) for hook, x in found.items()}
            step += 1

    def scan(self, hook: str, split: Split | None = None, chunk: int = 8192) -> Iterator[Tensor]:
        """All rows of a hook (or a split's), in order, some [chunk, d] at a time, float32."""
        split = self.everything if split is None else split
        for first in range(0, len(split), chunk):
            places = np.arange(first, min(first + chunk, len(split)), dtype=np.int64)
            yield self.rows(hook, split.rows(places)).float()

    @property
    def everything(self) -> Split:
        """All rows."""
        return Split(np.array([0]), np.array([self.n_rows]))

    def split_by_document(self, dataset: TokenDataset, held_out: float, seed: int = 0) -> tuple[Split, Split]:
        """(training rows, held-out rows): whole documents, chosen by the hash of their names, about `held_out` of them.

        A document's side does not depend on which others there are. Raises `ArgumentError` where a side would be empty.
        """
        self.require_dataset(dataset)
        document = dataset.document[np.asarray(self.positions) // dataset.context_length]
        is_held = split_documents(dataset, held_out, seed)[document]
        sides = _ranges(~is_held), _ranges(is_held)
        if not all(len(side) for side in sides):
            raise ArgumentError(
                "held_out", expected=f"a share that leaves documents on both sides of {len(dataset.documents)}", got=held_out
            )
        return sides

    def mean(self, hook: str) -> Tensor:
        """Mean activation, float64 [d], over all rows."""
        return self._statistics[f"{hook}.sum"] / self.n_rows

    def mean_norm(self, hook: str) -> float:
        """Mean Euclidean norm of a row."""
        return float(self._statistics[f"{hook}.norm"]) / self.n_rows

    def variance(self, hook: str) -> float:
        """Mean over rows of `‖x - mean‖²`."""
        return float(self._statistics[f"{hook}.sum_of_squares"]) / self.n_rows - float(self.mean(hook).square().sum())

    def norm_scale(self, hook: str) -> float:
        """What inputs are multiplied by so that their mean norm is √d (SAELens's expected_average_only_in)."""
        return math.sqrt(self.hooks[hook]) / self.mean_norm(hook)

    def require_dataset(self, dataset: TokenDataset) -> None:
        """Raise `MismatchError` unless the store was made from this dataset."""
        if dataset_fingerprint(dataset) != self.info["dataset"]:
            raise MismatchError(
                f"{self.folder}: the activations were made from other tokens",
                advice="The corpus, its order or its options have changed: collect again into another folder",
            )

    @cached_property
    def _statistics(self) -> dict[str, Tensor]:
        return load_file(self.folder / STATISTICS)

    @cached_property
    def _reader(self) -> RowReader:
        n_bytes = sum(self.n_rows * row_bytes(d, self.dtype) for d in self.hooks.values())
        return RowReader(self.info["shards"], is_large(n_bytes))

    def _places(self, n: int, first: int, count: int, seed: int) -> NDArray[np.int64]:
        """`count` successive places of the endless sequence of shuffled epochs, from `first` on."""
        parts = []
        while count:
            epoch, begin = divmod(first, n)
            taken = min(count, n - begin)
            parts.append(Permutation(n, seed, epoch)[np.arange(begin, begin + taken)])
            first, count = first + taken, count - taken
        return np.concatenate(parts)

    def _require_hooks(self, hooks: Sequence[str]) -> None:
        if missing := [hook for hook in hooks if hook not in self.hooks]:
            raise MismatchError(f"{self.folder}: no activations at {', '.join(missing)}; it has {', '.join(self.hooks)}")

    def _check_files(self) -> None:
        for number, (hook, d) in enumerate(self.hooks.items()):
            for shard, n in enumerate(self.info["shards"]):
                file = self.folder / shard_name(number, shard)
                expected, got = n * file_dtype(d, self.dtype).itemsize, file.stat().st_size if file.exists() else None
                if expected != got:
                    raise StoreError(f"{file}: size of a shard of {hook}", expected=f"{expected} bytes", got=got)


def shard_name(hook: int, shard: int) -> str:
    """Where the rows of a hook lie, by their numbers."""
    return f"hook-{hook}/shard-{shard:05}.bin"


def dataset_fingerprint(dataset: TokenDataset) -> str:
    """What tells a dataset from another: its tokens and which of them count."""
    digest = hashlib.sha256()
    for array in (dataset.tokens, dataset.kind, dataset.document):
        digest.update(str(array.shape).encode())
        for first in range(0, len(array), 65536):
            digest.update(np.ascontiguousarray(array[first : first + 65536]).tobytes())
    return digest.hexdigest()[:16]


def split_documents(dataset: TokenDataset, held_out: float, seed: int = 0) -> NDArray[np.bool_]:
    """Which documents are held out, bool [n_documents], by the hash of their names."""
    return np.array([_hashed(name, seed) < held_out for name in dataset.documents])


def _hashed(name: str, seed: int) -> float:
    """A number from 0 to 1, fixed by the name."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") / 2**64


def _ranges(mask: NDArray[np.bool_]) -> Split:
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return Split(edges[::2], edges[1::2] - edges[::2])
