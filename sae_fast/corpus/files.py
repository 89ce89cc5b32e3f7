"""Documents in files: JSON lines, JSON arrays, Parquet, CSV and plain text (one document a file), also gzipped."""

import csv
import gzip
import json
import mmap
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_fast.corpus.rows import ChainedRows, ListRows, Order, Rows
from sae_fast.errors import CorpusError

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (".parquet", ".csv", ".tsv")
TEXT_SUFFIXES = (".txt", ".md", ".rst")


class TextFiles:
    """Plain text: every file is one document, read when its turn comes."""

    def __init__(self, name: str, paths: list[Path], names: list[str]) -> None:
        self.name = name
        self._paths, self._names = paths, names

    @property
    def n_rows(self) -> int:
        return len(self._paths)

    def columns(self) -> list[str]:
        return ["text"]

    def read(self, column: str, order: Order = None) -> Iterator[tuple[str, Any]]:
        for row in range(self.n_rows) if order is None else order:
            yield self._names[row], _text(_content(self._paths[row]))


class JsonLines:
    """One JSON object a line, read where it stands: only the offsets of the lines are kept."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    @property
    def n_rows(self) -> int:
        return len(self._starts)

    def columns(self) -> list[str]:
        return list(self._row(0)) if self.n_rows else []

    def read(self, column: str, order: Order = None) -> Iterator[tuple[str, Any]]:
        for row in range(self.n_rows) if order is None else order:
            yield f"{self.name}:{self._line_numbers[row]}", self._row(int(row)).get(column)

    @cached_property
    def _data(self) -> bytes | mmap.mmap:
        if self.path.suffix == ".gz" or self.path.stat().st_size == 0:
            return _content(self.path)
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def _lines(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Start and line number (from 1) of every line that is not empty."""
        starts, numbers, start, number = [], [], 0, 0
        data = self._data
        while start < len(data):
            number += 1
            end = data.find(b"\n", start)
            end = len(data) if end < 0 else end
            if data[start:end].strip():
                starts.append(start)
                numbers.append(number)
            start = end + 1
        return np.array(starts, dtype=np.int64), np.array(numbers, dtype=np.int64)

    @property
    def _starts(self) -> NDArray[np.int64]:
        return self._lines[0]

    @property
    def _line_numbers(self) -> NDArray[np.int64]:
        return self._lines[1]

    def _row(self, row: int) -> dict[str, Any]:
        start = int(self._starts[row])
        end = self._data.find(b"\n", start)
        where = f"{self.path}, line {self._line_numbers[row]}"
        try:
            value = json.loads(_text(self._data[start : len(self._data) if end < 0 else end]))
        except json.JSONDecodeError as error:
            raise CorpusError(f"{where}: not JSON ({error}). Expected one object a line, or one array in the file.") from None
        if not isinstance(value, dict):
            raise CorpusError(f"{where}: expected a JSON object with a column for the text, got {type(value).__name__}.")
        return value


class ParquetFile:
    """A Parquet file, read in batches of rows; another order than the file's needs the column in memory."""

    def __init__(self, path: Path, name: str) -> None:
        import pyarrow.parquet

        self.name = name
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (OSError, pyarrow.ArrowException) as error:
            raise CorpusError(f"{path} is not a Parquet file: {error}") from None

    @property
    def n_rows(self) -> int:
        return self._file.metadata.num_rows

    def columns(self) -> list[str]:
        return list(self._file.schema_arrow.names)

    def read(self, column: str, order: Order = None) -> Iterator[tuple[str, Any]]:
        if column not in self.columns():
            raise CorpusError(f"{self.name} has no column {column!r}; its columns are {', '.join(self.columns())}.")
        if order is not None:
            values = self._file.read(columns=[column])[column]
            for row in order:
                yield f"{self.name}:{row + 1}", values[int(row)].as_py()
            return
        first = 1
        for batch in self._file.iter_batches(batch_size=1024, columns=[column]):
            values = batch.column(0).to_pylist()
            for row, value in enumerate(values, first):
                yield f"{self.name}:{row}", value
            first += len(values)


def open_file(path: Path, name: str | None = None) -> Rows:
    """Open one file by its suffix; anything unknown is a plain text."""
    name = name or path.name
    suffix = _suffix(path)
    if suffix in JSON_SUFFIXES:
        return _json(path, name)
    if suffix == ".parquet":
        return ParquetFile(path, name)
    if suffix in (".csv", ".tsv"):
        return _csv(path, name, "\t" if suffix == ".tsv" else ",")
    return TextFiles(name, [path], [name])


def open_folder(folder: Path) -> Rows:
    """Open all data files below a folder, in the order of their paths; where there are none, all text files."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    data = [path for path in paths if _suffix(path) in JSON_SUFFIXES + TABLE_SUFFIXES]
    if data:
        return ChainedRows(folder.name, [open_file(path, path.relative_to(folder).as_posix()) for path in data])
    texts = [path for path in paths if _suffix(path) in TEXT_SUFFIXES]
    if not texts:
        known = ", ".join(JSON_SUFFIXES + TABLE_SUFFIXES + TEXT_SUFFIXES)
        raise CorpusError(f"The folder {folder} holds no file that a corpus can be read from ({known}, each also with .gz).")
    return TextFiles(folder.name, texts, [path.relative_to(folder).as_posix() for path in texts])


def _json(path: Path, name: str) -> Rows:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        is_array = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if not is_array:
        return JsonLines(path, name)
    try:
        values = json.loads(_text(_content(path)))
    except json.JSONDecodeError as error:
        raise CorpusError(f"{path}: not JSON ({error}).") from None
    if not all(isinstance(value, dict) for value in values):
        raise CorpusError(f"{path}: expected an array of JSON objects with a column for the text.")
    return ListRows(name, values)


def _csv(path: Path, name: str, delimiter: str) -> Rows:
    # The field limit of 128 kB is meant for small cells; documents are longer.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    lines = _text(_content(path)).splitlines(keepends=True)
    try:
        return ListRows(name, list(csv.DictReader(lines, delimiter=delimiter)))
    except csv.Error as error:
        raise CorpusError(f"{path}: not CSV ({error}).") from None


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise CorpusError(f"Cannot read {path}: {error}") from None


def _text(content: bytes) -> str:
    return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="surrogateescape")
