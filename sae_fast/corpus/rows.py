"""What every source of documents looks like: rows with columns, read in file order or in a given one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Order = NDArray[np.int64] | None
"""Row numbers to read, in this order; None reads all rows."""


class Rows(Protocol):
    """A table of documents. Text comes as it is in the source: bytes that are not UTF-8 arrive as lone surrogates."""

    name: str
    """of the source, for people"""

    @property
    def n_rows(self) -> int | None:
        """Number of rows; None where it is not known before the end."""

    def columns(self) -> list[str]:
        """Names of the columns (of the first row, where rows may differ)."""

    def read(self, column: str, order: Order = None) -> Iterator[tuple[str, Any]]:
        """Yield `(name of the document, value of the column)`; the value is None where a row lacks the column."""


class ListRows:
    """Rows that are all in memory."""

    def __init__(self, name: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> None:
        self.name = name
        self._rows, self._names = rows, names

    @property
    def n_rows(self) -> int:
        return len(self._rows)

    def columns(self) -> list[str]:
        return list(self._rows[0]) if self._rows else []

    def read(self, column: str, order: Order = None) -> Iterator[tuple[str, Any]]:
        for row in range(self.n_rows) if order is None else order:
            yield self._names[row] if self._names else f"{self.name}:{row + 1}", self._rows[row].get(column)


class ChainedRows:
    """Several tables, one behind the other."""

    def __init__(self, name: str, tables: Sequence[Rows]) -> None:
        self.name = name
        self._tables = tables

    @property
    def n_rows(self) -> int | None:
        return sum(table.n_rows or 0 for table in self._tables)

    def columns(self) -> list[str]:
        for table in self._tables:
            if table.n_rows:
                return table.columns()
        return []

    def read(self, column: str, order: Order = None) -> Iterator[tuple[str, Any]]:
        if order is None:
            for table in self._tables:
                yield from table.read(column)
            return
        first_rows = np.cumsum([0, *(table.n_rows or 0 for table in self._tables)])
        table_of = np.searchsorted(first_rows, order, side="right") - 1
        # Runs of rows of one table are read together, so that files are not opened row by row.
        starts = np.flatnonzero(np.diff(table_of, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            table = table_of[start]
            yield from self._tables[table].read(column, order[start:end] - first_rows[table])
