"""Documents through Hugging Face `datasets`: names on the hub, and folders written by `save_to_disk`."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from sae_fast.corpus.rows import Order
from sae_fast.errors import CorpusError, MissingExtraError, nearest


class DatasetRows:
    """A `datasets.Dataset`, memory-mapped, or an `IterableDataset` that arrives as it is read."""

    def __init__(self, name: str, dataset: Any) -> None:
        self.name = name
        self._dataset = dataset

    @property
    def n_rows(self) -> int | None:
        return len(self._dataset) if hasattr(self._dataset, "__len__") else None

    def columns(self) -> list[str]:
        return list(self._dataset.column_names or next(iter(self._dataset), {}))

    def read(self, column: str, order: Order = None) -> Iterator[tuple[str, Any]]:
        dataset = self._dataset.select_columns([column])
        if order is not None:
            dataset = dataset.select(order)
        rows = count() if order is None else iter(order)
        for batch in dataset.iter(batch_size=256):
            for value in batch[column]:
                yield f"{self.name}:{next(rows) + 1}", value


def open_hub(source: str, name: str | None, split: str, streaming: bool, shuffle_seed: int | None = None) -> DatasetRows:
    """Open a dataset of the hub; `shuffle_seed` shuffles a stream through a buffer."""
    datasets = _datasets()
    try:
        dataset = datasets.load_dataset(source, name, split=split, streaming=streaming)
    except Exception as error:
        # Everything between a typo and a broken network ends here, in exceptions of half a dozen packages.
        raise CorpusError(
            f"[corpus] source = {source!r} is neither a file or folder beside the release file nor a dataset that could be "
            f"opened ({type(error).__name__}: {error})."
        ) from error
    if streaming and shuffle_seed is not None:
        dataset = dataset.shuffle(seed=shuffle_seed, buffer_size=10_000)
    return DatasetRows(source.rpartition("/")[2], dataset)


def is_saved_dataset(folder: Path) -> bool:
    """Return True for a folder that `save_to_disk` wrote."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def open_saved(folder: Path, split: str) -> DatasetRows:
    """Open a folder written by `save_to_disk`: a dataset, or one split of a dictionary of them."""
    dataset = _datasets().load_from_disk(str(folder))
    if isinstance(dataset, dict):
        if split not in dataset:
            raise CorpusError(f"{folder} has no split {split!r}.{nearest(split, dataset)} Its splits: {', '.join(dataset)}.")
        dataset = dataset[split]
    return DatasetRows(folder.name, dataset)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(
            'This corpus needs the package "datasets". Install it with: pip install "sae-fast[site]"'
        ) from None
    return datasets
