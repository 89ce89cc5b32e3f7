"""A corpus: the documents of a source, checked, in the order that the release asks for."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sae_fast.corpus import standard_library
from sae_fast.corpus.files import open_file, open_folder
from sae_fast.corpus.hub import is_saved_dataset, open_hub, open_saved
from sae_fast.corpus.options import STANDARD_LIBRARY, CorpusOptions, local_path
from sae_fast.corpus.rows import ListRows, Order, Rows
from sae_fast.errors import CorpusError, nearest
from sae_fast.files import fingerprint, source_fingerprint

SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Document:
    """One text, or one chat, of a corpus."""

    name: str
    content: str | list[Message]


@dataclass
class Corpus:
    """Documents of one source. Iterating checks every text; `n_skipped` and `n_replaced` count what was done about bad ones."""

    rows: Rows
    options: CorpusOptions
    every: int = 1
    """read one document in so many"""
    n_skipped: int = field(default=0, init=False)
    """documents left out because of text that cannot be encoded"""
    n_replaced: int = field(default=0, init=False)
    """documents in which such text was replaced"""

    def __post_init__(self) -> None:
        self.column = self._column()
        first = next((value for _, value in self.rows.read(self.column, self._head()) if value), "")
        self.is_chat = not isinstance(first, str)
        """True where documents are chats"""

    @property
    def name(self) -> str:
        return self.rows.name

    @property
    def n_documents(self) -> int | None:
        """Documents that an iteration will meet; None where that is not known before."""
        n_rows = self.rows.n_rows
        return None if n_rows is None else -(-n_rows // self.every)

    def __iter__(self) -> Iterator[Document]:
        self.n_skipped = self.n_replaced = 0
        for name, value in self.rows.read(self.column, self._order()):
            if value is None or value == "" or value == []:
                continue
            document = self._checked(Document(name, self._content(name, value)))
            if document is not None:
                yield document

    def _column(self) -> str:
        columns, wanted = self.rows.columns(), self.options.column
        if not columns:
            raise CorpusError(f"The corpus {self.options.source} is empty: expected at least one document.")
        if wanted in columns:
            return wanted
        if self.options.kind != "text" and wanted == "text" and "messages" in columns:
            return "messages"
        raise CorpusError(
            f"The corpus {self.options.source} has no column {wanted!r}.{nearest(wanted, columns)} "
            f"Its columns: {', '.join(columns)}. Name one with [corpus] column."
        )

    def _head(self) -> Order:
        n_rows = self.rows.n_rows
        return None if n_rows is None else np.arange(min(n_rows, 16))

    def _order(self) -> Order:
        n_rows = self.rows.n_rows
        if n_rows is None or (self.every == 1 and not self.options.shuffle):
            return None
        order = np.random.default_rng(self.options.seed).permutation(n_rows) if self.options.shuffle else np.arange(n_rows)
        return order[:: self.every].astype(np.int64)

    def _content(self, name: str, value: Any) -> str | list[Message]:
        kind = self.options.kind
        if isinstance(value, str):
            if kind != "messages":
                return value
        elif isinstance(value, list) and kind != "text":
            return [_message(name, turn) for turn in value]
        expected = {"text": "a text", "messages": "a list of chat messages"}.get(kind, "a text or a list of chat messages")
        raise CorpusError(f"Document {name}: column {self.column!r} holds {type(value).__name__}, expected {expected}.")

    def _checked(self, document: Document) -> Document | None:
        content = document.content
        texts = [content] if isinstance(content, str) else [message.content for message in content]
        offsets = [(text, _first_surrogate(text)) for text in texts]
        bad = next(((text, offset) for text, offset in offsets if offset is not None), None)
        if bad is None:
            return document
        if self.options.on_bad_text == "error":
            text, offset = bad
            assert offset is not None
            raise CorpusError(
                f"Document {document.name} holds U+{ord(text[offset]):04X} at offset {offset:,}: a lone surrogate, or a "
                "byte that is not UTF-8, which cannot be encoded. Repair the text, or set [corpus] on_bad_text to "
                '"replace" (by U+FFFD) or "skip" (leave such documents out).'
            )
        if self.options.on_bad_text == "skip":
            self.n_skipped += 1
            return None
        self.n_replaced += 1
        if isinstance(content, str):
            return Document(document.name, SURROGATES.sub("\ufffd", content))
        replaced = [Message(message.role, SURROGATES.sub("\ufffd", message.content)) for message in content]
        return Document(document.name, replaced)


def open_corpus(options: CorpusOptions, every: int = 1) -> Corpus:
    """Open the corpus of a release; `every` takes one document in so many.

    Raises CorpusError where there is none, where it is empty, or where it lacks the column.
    """
    return Corpus(_rows(options), options, every)


def corpus_fingerprint(options: CorpusOptions) -> str:
    """Return a fingerprint of the text itself; a hub dataset is known by its name."""
    if options.source == STANDARD_LIBRARY:
        return fingerprint(library(_library_split(options)))
    return source_fingerprint(options.source)


def _rows(options: CorpusOptions) -> Rows:
    if options.source == STANDARD_LIBRARY:
        part = _library_split(options)
        documents = library(part)
        name = "Python standard library" if part == "all" else f"Python standard library ({part.replace('_', ' ')})"
        return ListRows(name, [{"text": text} for _, text in documents], [name for name, _ in documents])
    path = local_path(options.source)
    split = options.split or "train"
    if path is None:
        if Path(options.source).suffix in (".jsonl", ".json", ".txt", ".csv", ".parquet", ".gz"):
            raise CorpusError(
                f"[corpus] source = {options.source!r}: there is no such file. Paths are relative to the release file."
            )
        seed = options.seed if options.shuffle else None
        return open_hub(options.source, options.name, split, options.streaming, seed)
    if path.is_file():
        return open_file(path)
    return open_saved(path, split) if is_saved_dataset(path) else open_folder(path)


@lru_cache(maxsize=1)
def library(split: standard_library.Split) -> list[tuple[str, str]]:
    """Read the standard library once: its fingerprint is wanted before its text."""
    return list(standard_library.documents(split))


def _library_split(options: CorpusOptions) -> standard_library.Split:
    split = options.split or "all"
    if split not in ("all", "train", "held_out"):
        raise CorpusError(f"[corpus] split: the standard library has the splits all, train and held_out, got {split!r}.")
    return split  # type: ignore[return-value]


def _message(name: str, turn: Any) -> Message:
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str) or not isinstance(turn.get("content"), str | None):
        raise CorpusError(
            f'Document {name}: expected chat messages of the form {{"role": "user", "content": "…"}}, got {str(turn)[:120]}.'
        )
    return Message(turn["role"], turn.get("content") or "")


def _first_surrogate(text: str) -> int | None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None
