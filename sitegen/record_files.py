"""FeatureRecords of one SAE in the cache: files of consecutive features, so that an interrupted stage continues."""

import gzip
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import msgspec
import orjson

from sae_fast.files import write_whole
from sitegen.records import FeatureId, FeatureRecord

FEATURES_PER_FILE = 256

_decode = msgspec.json.Decoder(FeatureRecord).decode


class RecordFiles:
    """The records of the features `ids`, one JSON line each, in `records-00000.jsonl.gz`, … of 256 ids each."""

    def __init__(self, folder: Path, ids: Iterable[FeatureId]) -> None:
        self.folder = folder
        self.ids = sorted(set(ids))

    def missing(self) -> list[FeatureId]:
        """Return the features whose file is not there yet."""
        return [feature for number, group in self._files() if not self._path(number).exists() for feature in group]

    def write(self, records: Iterable[FeatureRecord]) -> None:
        """Write the files of `missing()`, each when its last record has come; records come by ascending id."""
        for number, group in groupby(records, key=lambda record: record.id // FEATURES_PER_FILE):
            lines = b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in group)
            write_whole(self._path(number), gzip.compress(lines, compresslevel=1, mtime=0))

    def read(self) -> Iterator[FeatureRecord]:
        """Yield all records by ascending id."""
        for number, _ in self._files():
            for line in gzip.decompress(self._path(number).read_bytes()).splitlines():
                yield _decode(line)

    def _files(self) -> Iterator[tuple[int, list[FeatureId]]]:
        for number, group in groupby(self.ids, key=lambda feature: feature // FEATURES_PER_FILE):
            yield number, list(group)

    def _path(self, number: int) -> Path:
        return self.folder / f"records-{number:05d}.jsonl.gz"
