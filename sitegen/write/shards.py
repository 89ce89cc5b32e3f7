"""Files of consecutive features, as large as a cold view of one feature may cost."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import orjson

from sitegen.records import CONTRACT_VERSION, FeatureId
from sitegen.write.encode import gzip
from sitegen.write.output import OutputDir
from sitegen.write.spool import RecordSpool
from sitegen.write.token_text import Entry, Vocabulary

COLD_VIEW_BYTES = 100_000
"""What a first look at a feature may transfer beyond the shell and the vocabulary."""
COLD_VIEW_REQUESTS = 3
SHARD_BYTES = 48_000
"""Compressed size to stay below: a view of a feature at a shard's edge fetches the next shard too."""
SHARD_SIZES = (16, 8, 4, 2, 1)
SHARDS_PER_FOLDER = 256
_TRIED = 6
_COMPRESSED_AT_ONCE = 64

Record = dict[str, Any]


class ShardWriter:
    """Writes the records of one SAE.

    Args:
        spool: all records.
        labels: label text by feature id, of the features that have one.
        documents: names of the corpus's documents.
        vocabulary: token texts, where they travel with the shards.
    """

    def __init__(
        self, spool: RecordSpool, labels: dict[FeatureId, str], documents: Sequence[str], vocabulary: Vocabulary | None
    ) -> None:
        self._spool = spool
        self._labels = labels
        self._documents = documents
        self._vocabulary = vocabulary

    def shard_size(self) -> int:
        """Return the largest number of features per shard with which the heaviest shards stay below `SHARD_BYTES`."""
        for size in SHARD_SIZES:
            groups = list(self._grouped(size))
            heaviest = sorted(groups, key=lambda group: -sum(self._spool.sizes[row] for row in group[1]))[:_TRIED]
            if all(len(gzip(self._content(number, rows, size))) <= SHARD_BYTES for number, rows in heaviest):
                return size
        return SHARD_SIZES[-1]

    def write(self, out: OutputDir, slug: str, size: int) -> int:
        """Write all shards of `size` features below `data/<slug>/f/`; return the bytes of the largest."""
        largest = 0
        groups = self._grouped(size)
        with ThreadPoolExecutor() as pool:
            while some := list(islice(groups, _COMPRESSED_AT_ONCE)):
                contents = [self._content(number, rows, size) for number, rows in some]
                for (number, _), data in zip(some, pool.map(gzip, contents), strict=True):
                    out.write(shard_path(slug, number), data)
                    largest = max(largest, len(data))
        return largest

    def _grouped(self, size: int) -> Iterator[tuple[int, range]]:
        """Yield the number of each shard and its rows in the spool."""
        ids = self._spool.ids
        begin = 0
        while begin < len(ids):
            number = ids[begin] // size
            end = begin
            while end < len(ids) and ids[end] // size == number:
                end += 1
            yield number, range(begin, end)
            begin = end

    def _content(self, number: int, rows: Iterable[int], size: int) -> bytes:
        features = [self._spool.read(self._spool.ids[row]) for row in rows]
        shard: Record = {"version": CONTRACT_VERSION, "first": number * size, "features": features}
        related = sorted({pair[0] for record in features for key in ("neighbours", "coactive") for pair in record.get(key, ())})
        shard["labels"] = {str(feature): self._labels[feature] for feature in related if feature in self._labels}
        if self._documents:
            shown = sorted({example["document"] for example in _examples(features)})
            shard["documents"] = {str(index): self._documents[index] for index in shown}
        if self._vocabulary is not None:
            shard["strings"] = strings(tokens_of(features), self._vocabulary)
        return orjson.dumps(shard)


def shard_path(slug: str, number: int) -> str:
    """Return a shard's path below the site's root."""
    return f"data/{slug}/f/{number // SHARDS_PER_FOLDER}/{number}.json.gz"


def strings(tokens: Iterable[int], vocabulary: Vocabulary) -> dict[str, Entry]:
    """Return the entries of the tokens by id, ascending, as they travel with a file."""
    return {str(token): vocabulary.entry(token) for token in sorted(set(tokens))}


def tokens_of(features: Iterable[Record]) -> Iterator[int]:
    """Yield every token id that the records name."""
    for record in features:
        for example in _examples([record]):
            yield from example["tokens"]
        logits = record.get("logits", {})
        for pairs in (logits.get("top", ()), logits.get("bottom", ()), record.get("top_tokens", ())):
            yield from (pair[0] for pair in pairs)


def _examples(features: Iterable[Record]) -> Iterator[Record]:
    for record in features:
        for group in record.get("groups", ()):
            yield from group["examples"]
