"""Readers: the same documents from every kind of file."""

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from sae_fast.corpus import Corpus, Message, corpus_fingerprint, open_corpus, standard_library
from sae_fast.corpus.corpus import library
from sae_fast.corpus.options import CorpusOptions
from sae_fast.errors import CorpusError

DOCUMENTS = tiny.texts(10)


@pytest.fixture(autouse=True)
def _library_is_read_anew() -> Iterator[None]:
    """What one test puts in the place of the standard library is not seen by another."""
    yield
    library.cache_clear()


def texts(corpus: Corpus) -> list[Any]:
    """The content of every document."""
    return [document.content for document in corpus]


def write_csv(path: Path) -> Path:
    """A CSV of the documents."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "text"], *([str(n), text] for n, text in enumerate(DOCUMENTS))])
    return path


def write_gzip(path: Path) -> Path:
    """Gzipped JSON lines."""
    path.write_bytes(gzip.compress(tiny.jsonl(path.with_name("plain.jsonl"), DOCUMENTS).read_bytes()))
    return path


def write_array(path: Path) -> Path:
    """One JSON array."""
    path.write_text(json.dumps([{"text": text} for text in DOCUMENTS], indent=1))
    return path


def write_parquet(path: Path) -> Path:
    """A Parquet file of several row groups."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"id": list(range(len(DOCUMENTS))), "text": DOCUMENTS})
    pyarrow.parquet.write_table(table, path, row_group_size=3)
    return path


def write_folder(path: Path) -> Path:
    """A folder of JSON lines, whose README is no data."""
    tiny.jsonl(path / "a" / "1.jsonl", DOCUMENTS[:4])
    tiny.jsonl(path / "b.jsonl", DOCUMENTS[4:])
    (path / "README.md").write_text("about")
    return path


def write_texts(path: Path) -> Path:
    """A folder of texts."""
    path.mkdir()
    for number, text in enumerate(DOCUMENTS):
        (path / f"{number:02d}.txt").write_bytes(text.encode())
    return path


def write_saved(path: Path) -> Path:
    """A dataset as `save_to_disk` writes it."""
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": DOCUMENTS}).save_to_disk(str(path))
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "a.jsonl": lambda path: tiny.jsonl(path, DOCUMENTS),
    "a.jsonl.gz": write_gzip,
    "a.json": write_array,
    "a.csv": write_csv,
    "a.parquet": write_parquet,
    "folder": write_folder,
    "texts": write_texts,
    "saved": write_saved,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_source_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    """Documents come whole and in order; shuffled they are the same set, each time the same; one in three is every third."""
    source = str(WRITERS[name](tmp_path / name))
    corpus = open_corpus(CorpusOptions(source))
    assert texts(corpus) == DOCUMENTS
    assert corpus.n_documents == len(DOCUMENTS)
    assert len({document.name for document in corpus}) == len(DOCUMENTS)

    shuffled = texts(open_corpus(CorpusOptions(source, shuffle=True, seed=3)))
    assert shuffled == texts(open_corpus(CorpusOptions(source, shuffle=True, seed=3)))
    assert shuffled != DOCUMENTS
    assert sorted(shuffled) == sorted(DOCUMENTS)
    assert texts(open_corpus(CorpusOptions(source), every=3)) == DOCUMENTS[::3]


def test_names_say_where_a_document_is(tmp_path: Path) -> None:
    """A document of a table is named by file and line, a text by its file."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "two"}\n')
    assert [document.name for document in open_corpus(CorpusOptions(str(path)))] == ["a.jsonl:1", "a.jsonl:3"]

    source = write_texts(tmp_path / "texts")
    assert next(iter(open_corpus(CorpusOptions(str(source))))).name == "00.txt"


def test_messages_are_taken_where_there_is_no_text(tmp_path: Path) -> None:
    """A column `messages` is found by itself and gives chats."""
    path = tmp_path / "chat.jsonl"
    path.write_text("\n".join(json.dumps({"messages": messages}) for messages in tiny.conversations()))
    corpus = open_corpus(CorpusOptions(str(path)))

    assert corpus.is_chat
    assert next(iter(corpus)).content == [Message("user", "What is 2 + 2?"), Message("assistant", "4.")]


@pytest.mark.parametrize(
    ("content", "options", "parts"),
    [
        (b"", {}, ["empty"]),
        (b"\n\n", {}, ["empty"]),
        (b'{"body": "a"}', {}, ["'text'", "body", "column"]),
        (b'{"text": "a"}\n{"text": 3}', {}, ["a.jsonl:2", "int", "a text"]),
        (b'{"text": "a"}\nnot json', {}, ["line 2", "not JSON"]),
        (b'{"text": "a"}\n[1]', {}, ["line 2", "list"]),
        (b'{"text": [{"role": "user"}]}\n{"text": [{"from": "a"}]}', {}, ["a.jsonl:2", '"role"']),
        (b'{"text": [{"role": "user", "content": "a"}]}', {"kind": "text"}, ["list", "expected a text"]),
        (b'{"text": "a"}', {"kind": "messages"}, ["str", "chat messages"]),
        (b'{"text": "a"}\n{"text": "ab\\ud800c"}', {}, ["a.jsonl:2", "U+D800", "offset 2", "on_bad_text"]),
        (b'{"text": "a"}\n{"text": "ab\xff"}', {}, ["a.jsonl:2", "U+DCFF", "offset 2", "not UTF-8"]),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else "",
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes, options: dict[str, Any], parts: list[str]) -> None:
    """A bad corpus is one error that names the document and what to do."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(CorpusError) as caught:
        texts(open_corpus(CorpusOptions(str(path), **options)))
    for part in parts:
        assert part in str(caught.value)


def test_bad_text_can_be_replaced_or_skipped(tmp_path: Path) -> None:
    """`replace` puts U+FFFD where a surrogate or a bad byte was, `skip` leaves the document out; both are counted."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a\\ud800"}\n{"text": "b"}\n{"text": "\xff\xfec"}\n{"text": "\\ud83d\\ude42"}')
    replaced = open_corpus(CorpusOptions(str(path), on_bad_text="replace"))
    skipped = open_corpus(CorpusOptions(str(path), on_bad_text="skip"))

    assert texts(replaced) == ["a\ufffd", "b", "\ufffd\ufffdc", "🙂"]
    assert texts(skipped) == ["b", "🙂"]
    assert (replaced.n_replaced, skipped.n_skipped) == (2, 2)


def test_the_standard_library_has_its_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The split goes through, `all` by default; one that does not exist is refused."""
    monkeypatch.setattr(standard_library, "documents", lambda split: iter([(f"{split}.py", f"text of {split}")]))

    assert texts(open_corpus(CorpusOptions("standard-library", split="held_out"))) == ["text of held_out"]
    assert [document.name for document in open_corpus(CorpusOptions("standard-library"))] == ["all.py"]
    with pytest.raises(CorpusError, match="held_out"):
        open_corpus(CorpusOptions("standard-library", split="test"))


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    """The same text at another place has the same fingerprint; other text has another."""
    prints = [
        corpus_fingerprint(CorpusOptions(str(tiny.jsonl(tmp_path / name, [text]))))
        for name, text in (("a", "x"), ("b", "x"), ("c", "y"))
    ]

    assert prints[0] == prints[1] != prints[2]


def test_a_missing_file_is_not_taken_for_a_dataset_of_the_hub() -> None:
    """A name that ends like a file is a missing file."""
    with pytest.raises(CorpusError, match="no such file"):
        open_corpus(CorpusOptions("texts.jsonl"))
