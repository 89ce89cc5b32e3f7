"""Rows from the files of a store in any order, and batches read while the one before is at work."""

import mmap
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Rows = NDArray[np.int64]

MOST_OPEN = 200
"""Files mapped at once: each takes a file descriptor, of which some systems give a process no more than 256."""
THREADS = 16
"""That wait for the disk at once: it answers many small requests together in little more time than one."""
LARGE = 0.5
"""Share of the machine's memory above which a store is not expected to stay there once it was read."""


class RowReader:
    """Rows of memory-mapped shards, in any order.

    What fits in memory is read through the system's read-ahead, which brings it there in the first epoch. Of a larger store
    exactly the pages of the rows are read, by several threads where they are scattered: read-ahead would read some thirty times
    as much, in vain.
    """

    def __init__(self, counts: Sequence[int], is_large: bool) -> None:
        """`counts` are the rows of each shard."""
        self.ends = np.cumsum(counts)
        self.starts = self.ends - np.asarray(counts)
        self.mapped = lru_cache(MOST_OPEN)(_sparsely_read if is_large else _mapped)
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="store") if is_large else None

    def read(self, files: Sequence[Path], row: np.dtype[Any], rows: Rows) -> NDArray[Any]:
        """Of shards of `row`s, those asked for, in the order asked for."""
        found = np.empty(len(rows), dtype=row)
        order = np.argsort(rows, kind="stable")
        cuts = np.searchsorted(rows[order], self.ends)
        for file, start, first, last in zip(files, self.starts, [0, *cuts[:-1]], cuts, strict=True):
            if last > first:
                self._copy(self.mapped(file), row, rows - start, order[first:last], found)
        return found

    def _copy(self, pages: mmap.mmap, row: np.dtype[Any], rows: Rows, chosen: Rows, found: NDArray[Any]) -> None:
        shard = np.frombuffer(pages, dtype=row)

        def copy(places: Rows) -> None:
            found[places] = shard[rows[places]]

        first, n = int(rows[chosen[0]]), int(rows[chosen[-1]] - rows[chosen[0]]) + 1
        if self.pool is None or len(chosen) < THREADS:
            copy(chosen)
        elif n == len(chosen):
            begin = first * row.itemsize // mmap.PAGESIZE * mmap.PAGESIZE
            pages.madvise(mmap.MADV_WILLNEED, begin, (first + n) * row.itemsize - begin)
            copy(chosen)
        else:
            list(self.pool.map(copy, np.array_split(chosen, THREADS)))


def is_large(n_bytes: int) -> bool:
    """Whether files of this size in all are not expected to stay in memory."""
    return n_bytes > LARGE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def ahead(items: Iterator[Item], n: int = 2) -> Iterator[Item]:
    """The same items in the same order, made by a thread that is up to `n` ahead. An error comes where its item would."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
    try:
        coming = deque(pool.submit(next, items) for _ in range(n))
        while True:
            try:
                item = coming.popleft().result()
            except StopIteration:
                return
            coming.append(pool.submit(next, items))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def _mapped(file: Path) -> mmap.mmap:
    with file.open("rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)


def _sparsely_read(file: Path) -> mmap.mmap:
    pages = _mapped(file)
    pages.madvise(mmap.MADV_RANDOM)
    return pages
