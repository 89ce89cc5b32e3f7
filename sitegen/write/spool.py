"""Records of one SAE on disk, between the pass that computes them and the pass that writes shards.

A shard names the labels of features that may come much later, and its size follows from the size of all records: both need
the whole SAE, which does not fit in memory.
"""

import zlib
from typing import IO, Any

import orjson

from sitegen.errors import MismatchError
from sitegen.records import FeatureId, FeatureRecord
from sitegen.write.encode import to_json


class RecordSpool:
    """Records in ascending order of id, compressed lightly, in a file open for writing and reading."""

    def __init__(self, file: IO[bytes]) -> None:
        self.ids: list[FeatureId] = []
        self.sizes: list[int] = []
        """Bytes of each record as JSON."""
        self._file = file
        self._offsets = [0]
        self._row_of: dict[FeatureId, int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def append(self, record: FeatureRecord) -> None:
        """Add a record; MismatchError where its id is not above the last one."""
        if self.ids and record.id <= self.ids[-1]:
            raise MismatchError(f"Records must come by ascending id; got feature {record.id} after {self.ids[-1]}.")
        data = to_json(record)
        packed = zlib.compress(data, 1)
        self._file.write(packed)
        self._offsets.append(self._offsets[-1] + len(packed))
        self._row_of[record.id] = len(self.ids)
        self.ids.append(record.id)
        self.sizes.append(len(data))

    def read(self, feature: FeatureId) -> dict[str, Any]:
        """Return a record in JSON's types; KeyError where there is none."""
        row = self._row_of[feature]
        self._file.seek(self._offsets[row])
        packed = self._file.read(self._offsets[row + 1] - self._offsets[row])
        record: dict[str, Any] = orjson.loads(zlib.decompress(packed))
        return record
