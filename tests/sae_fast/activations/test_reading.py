"""Reading rows: what is asked for, however large the store and however many its files; batches come early, not otherwise."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sae_fast.activations import reading
from sae_fast.activations.reading import RowReader, ahead

ROW = np.dtype((np.uint16, (1000,)))
COUNTS = [300, 0, 1, 500]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], np.ndarray]:
    """Files of COUNTS rows, and all of these."""
    folder, n = tmp_path_factory.mktemp("shards"), sum(COUNTS)
    everything = np.random.default_rng(0).integers(0, 2**16, (n, 1000), dtype=np.uint16)
    files = [folder / f"{i}.bin" for i in range(len(COUNTS))]
    for file, part in zip(files, np.split(everything, np.cumsum(COUNTS)[:-1]), strict=True):
        file.write_bytes(part.tobytes())
    return files, everything


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("kind", ["scattered", "contiguous", "repeated", "few", "none"])
def test_rows_are_those_asked_for(rows: tuple[list[Path], np.ndarray], kind: str, is_large: bool) -> None:
    """In their order, from a store that fits in memory and from one that does not."""
    files, everything = rows
    asked = {
        "scattered": np.random.default_rng(1).permutation(len(everything)),
        "contiguous": np.arange(250, 700),
        "repeated": np.repeat(np.arange(290, 310), 20),
        "few": np.array([800, 0, 300]),
        "none": np.array([], dtype=np.int64),
    }[kind]

    found = RowReader(COUNTS, is_large).read(files, ROW, asked)

    assert np.array_equal(found, everything[asked])


def test_no_more_files_are_open_than_a_process_may_have(
    rows: tuple[list[Path], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of thousands of shards is read a few files at a time."""
    monkeypatch.setattr(reading, "MOST_OPEN", 2)
    files, everything = rows
    reader = RowReader(COUNTS, is_large=False)

    found = reader.read(files, ROW, np.arange(len(everything)))

    assert np.array_equal(found, everything)
    assert reader.mapped.cache_info().currsize == 2


def test_items_are_made_before_they_are_asked_for_in_the_same_order() -> None:
    """Two ahead of the one at work, by another thread."""
    made: list[int] = []
    third = threading.Event()

    def items() -> Iterator[int]:
        for i in range(5):
            made.append(threading.get_ident())
            if i == 2:
                third.set()
            yield i

    stream = ahead(items(), n=2)

    assert next(stream) == 0
    assert third.wait(10)
    assert list(stream) == [1, 2, 3, 4]
    assert threading.get_ident() not in made


def test_an_error_comes_where_its_item_would() -> None:
    """Not before, and as it was raised."""

    def items() -> Iterator[int]:
        yield 0
        raise OSError("the disk is gone")

    stream = ahead(items())

    assert next(stream) == 0
    with pytest.raises(OSError, match="the disk is gone"):
        next(stream)


def test_a_stream_that_is_left_ends_its_thread() -> None:
    """No thread goes on reading for nobody."""
    before = threading.active_count()
    stream = ahead(iter(range(10**9)))
    next(stream)

    stream.close()

    assert threading.active_count() == before
