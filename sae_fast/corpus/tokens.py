"""Tokens of a corpus on disk, cut into contexts: the TokenDataset that every later stage reads.

A folder of

    tokens.npy      int32 [n_contexts, context_length]
    kind.npy        uint8 [n_contexts, context_length]   PADDING, COUNTED or UNCOUNTED
    document.npy    int32 [n_contexts]                   index into documents.json
    start.npy       int32 [n_contexts]                   offset in the document of the context's first own token
    documents.json  names
    dataset.json    everything it was made from, and how much it holds

A context never crosses documents, and padding is on the right. Where `n_prefix` is 1, every context begins with one BOS that
is not the document's own: `start` is then the document offset of the token at offset 1.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sae_fast.errors import StoreError
from sae_fast.files import reported_full, write_whole

DATASET_VERSION = 1
PADDING, COUNTED, UNCOUNTED = 0, 1, 2


@dataclass(frozen=True)
class TokenDataset:
    """The contexts of a corpus. Arrays may be memory-mapped; nothing writes to them."""

    tokens: NDArray[np.int32]
    """`[n_contexts, context_length]` token ids"""
    kind: NDArray[np.uint8]
    """`[n_contexts, context_length]`: PADDING 0, COUNTED 1, UNCOUNTED 2 (read by the LM, in no fact)"""
    document: NDArray[np.int32]
    """`[n_contexts]` index into `documents`"""
    start: NDArray[np.int32]
    """`[n_contexts]` offset in the document of the first own token (the one behind a prepended BOS)"""
    documents: list[str]
    """names of the documents"""
    n_prefix: int = 0
    """1 where every context begins with a prepended BOS, else 0"""
    info: dict[str, Any] | None = None
    """content of `dataset.json`"""

    @classmethod
    def open(cls, folder: Path | str) -> "TokenDataset":
        """Open the dataset in `folder`; StoreError where it is missing, unfinished, or of another version."""
        folder = Path(folder)
        try:
            info = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(f"No token dataset in {folder}: dataset.json is missing (not started, or unfinished).") from None
        if info["version"] != DATASET_VERSION:
            raise StoreError(
                f"The token dataset in {folder} has version {info['version']}, expected {DATASET_VERSION}: build it anew."
            )
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("tokens", "kind", "document", "start")}
        documents = json.loads((folder / "documents.json").read_text(encoding="utf-8"))
        return cls(**arrays, documents=documents, n_prefix=info["n_prefix"], info=info)

    @property
    def n_contexts(self) -> int:
        return len(self.tokens)

    @property
    def context_length(self) -> int:
        return self.tokens.shape[1]

    @property
    def n_positions(self) -> int:
        """Positions, padding included: a position is `context * context_length + offset`."""
        return self.tokens.size

    @cached_property
    def n_counted(self) -> int:
        """Counted tokens."""
        return int(np.count_nonzero(self.kind == COUNTED))

    def document_offset(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the offset in its document of the token at each position (-1 for a BOS before the first token)."""
        context, offset = np.divmod(positions, self.context_length)
        return self.start[context].astype(np.int64) + offset - self.n_prefix


class TokenDatasetWriter:
    """Write a TokenDataset document by document. Use as a context manager; `dataset.json`, written last, makes it whole."""

    def __init__(self, folder: Path | str, context_length: int, prefix: int | None = None, pad: int = 0) -> None:
        """`prefix`: id of the BOS that begins every context, or None; `pad`: the id at padding (any; the LM never sees it)."""
        self.folder = Path(folder)
        self.context_length, self.prefix, self.pad = context_length, prefix, pad
        self.n_prefix = 0 if prefix is None else 1
        self.documents: list[str] = []
        self.n_contexts = self.n_counted = self.n_tokens = 0

    def __enter__(self) -> "TokenDatasetWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "dataset.json").unlink(missing_ok=True)
        shape = (self.context_length,)
        self._tokens = _NpyAppender(self.folder / "tokens.npy", np.int32, shape)
        self._kind = _NpyAppender(self.folder / "kind.npy", np.uint8, shape)
        self._document = _NpyAppender(self.folder / "document.npy", np.int32, ())
        self._start = _NpyAppender(self.folder / "start.npy", np.int32, ())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for appender in (self._tokens, self._kind, self._document, self._start):
            appender.close()

    def add(
        self,
        name: str,
        ids: NDArray[np.int32],
        kind: NDArray[np.uint8],
        prefix_kind: int = UNCOUNTED,
        max_counted: int | None = None,
    ) -> int:
        """Cut one document (`ids [n]`, `kind [n]`) into contexts and return how many counted tokens they hold.

        The document ends with the context in which `max_counted` is reached.
        """
        own = self.context_length - self.n_prefix
        n_contexts = -(-len(ids) // own)
        tokens = np.full((n_contexts, self.context_length), self.pad, dtype=np.int32)
        kinds = np.full((n_contexts, self.context_length), PADDING, dtype=np.uint8)
        tokens[:, self.n_prefix :] = _rows(ids, own, self.pad)
        kinds[:, self.n_prefix :] = _rows(kind, own, PADDING)
        if self.prefix is not None:
            tokens[:, 0], kinds[:, 0] = self.prefix, prefix_kind
        counted = np.cumsum(np.count_nonzero(kinds == COUNTED, axis=1))
        if max_counted is not None:
            n_contexts = min(n_contexts, int(np.searchsorted(counted, max_counted)) + 1)
        if n_contexts == 0:
            return 0
        self._tokens.append(tokens[:n_contexts])
        self._kind.append(kinds[:n_contexts])
        self._document.append(np.full(n_contexts, len(self.documents), dtype=np.int32))
        self._start.append(np.arange(n_contexts, dtype=np.int32) * own)
        self.documents.append(name)
        self.n_contexts += n_contexts
        self.n_counted += int(counted[n_contexts - 1])
        self.n_tokens += int(np.count_nonzero(kinds[:n_contexts]))
        return int(counted[n_contexts - 1])

    def finish(self, **made_from: Any) -> TokenDataset:
        """Write the names and `dataset.json`, with what the dataset was made from, and return the dataset."""
        self.__exit__(None, None, None)
        write_whole(self.folder / "documents.json", json.dumps(self.documents, ensure_ascii=False).encode())
        info = {
            "version": DATASET_VERSION,
            "context_length": self.context_length,
            "n_prefix": self.n_prefix,
            "prefix": self.prefix,
            "n_contexts": self.n_contexts,
            "n_documents": len(self.documents),
            "n_tokens": self.n_tokens,
            "n_counted": self.n_counted,
            "made_from": made_from,
        }
        write_whole(self.folder / "dataset.json", (json.dumps(info, indent=1, ensure_ascii=False) + "\n").encode())
        return TokenDataset.open(self.folder)


class _NpyAppender:
    """A .npy file that grows along its first axis; its header is completed when it is closed."""

    def __init__(self, path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.shape = path, np.dtype(dtype), shape
        self.n_rows = 0
        self.file: IO[bytes] = path.open("wb")
        self._write_header()

    def append(self, rows: NDArray[Any]) -> None:
        with reported_full(self.path):
            self.file.write(np.ascontiguousarray(rows, dtype=self.dtype).data)
        self.n_rows += len(rows)

    def close(self) -> None:
        if not self.file.closed:
            with reported_full(self.path):
                try:
                    self.file.seek(0)
                    self._write_header()
                finally:
                    self.file.close()

    def _write_header(self) -> None:
        # NumPy leaves room in the header for the first axis to grow, so that its length stays the same.
        header = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.n_rows, *self.shape)}
        npy.write_array_header_1_0(self.file, header)


def _rows(values: NDArray[Any], width: int, fill: int) -> NDArray[Any]:
    """Return `values [n]` as rows of `width`, the last one filled up."""
    rows = np.full((-(-len(values) // width), width), fill, dtype=values.dtype)
    rows.reshape(-1)[: len(values)] = values
    return rows
