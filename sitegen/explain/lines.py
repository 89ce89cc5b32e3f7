"""Where a token stands in its line: the line's first word, comments, strings, brackets.

Read from the bytes of the text, not from a parser: a corpus holds fragments, prose and several languages. A rule that uses
these is measured like any other, so a heuristic that does not hold gives no label.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sitegen.explain.halves import LabelCorpus
from sitegen.vocabulary import Vocabulary

PLAIN, COMMENT, STRING, DOCSTRING = range(4)

FIRST_WORD = re.compile(rb"[^\S\n]*(\w+|[^\w\s])")
TRIPLE_QUOTE = re.compile(rb'"""|\'\'\'')
MAX_WORD_BYTES = 24


@dataclass(frozen=True)
class Lines:
    """What the text around each position says, flat over the corpus `[m * context_length]`."""

    word: NDArray[np.int32]
    """Index into `words` of the first word of the line, once it is complete; -1 before that, and on padding"""
    words: list[str]
    zone: NDArray[np.int32]
    """PLAIN, COMMENT (a `#` before in the line), STRING (an open quotation mark) or DOCSTRING (open triple quotes)"""
    in_brackets: NDArray[np.int32]
    """1 where more brackets were opened than closed in the line so far, else 0"""


def read_lines(corpus: LabelCorpus, vocabulary: Vocabulary) -> Lines:
    """Read the lines of every document; a token is judged by its line up to and including itself.

    A token that ends a line is in no line and no comment; strings, docstrings and brackets are judged before it.
    """
    text, ends = _join(corpus, vocabulary)
    begins = np.concatenate([[0], ends[:-1]])
    newlines = _count(text == ord("\n"))
    ends_line = newlines[ends] > newlines[begins]
    points = np.where(ends_line, begins, ends)
    document_starts = begins.reshape(-1, corpus.context_length)[_first_contexts(corpus), 0]
    line_starts = np.union1d(np.flatnonzero(text == ord("\n")) + 1, document_starts)
    line = np.searchsorted(line_starts, points, side="right") - 1
    start = line_starts[line]
    document = np.searchsorted(document_starts, points, side="right") - 1
    word, words = _first_words(text.tobytes(), line_starts, line, points)
    in_line = corpus.real.reshape(-1) & ~ends_line
    zone = _zones(text, start, document_starts[document], points)
    return Lines(
        word=np.where(in_line, word, -1).astype(np.int32),
        words=words,
        zone=np.where(ends_line & (zone == COMMENT), PLAIN, zone).astype(np.int32),
        in_brackets=(_open_brackets(text, start, points) > 0).astype(np.int32),
    )


def _join(corpus: LabelCorpus, vocabulary: Vocabulary) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the bytes of all tokens in order, and where each position's bytes end; padding and a prepended BOS have none."""
    sizes = np.array([len(piece) for piece in vocabulary.pieces], dtype=np.int64)
    table = np.frombuffer(b"".join(vocabulary.pieces), dtype=np.uint8)
    has_text = corpus.real.copy()
    has_text[:, : corpus.n_prefix] = False
    tokens = corpus.tokens.reshape(-1)
    lengths = np.where(has_text.reshape(-1), sizes[tokens], 0)
    ends = np.cumsum(lengths)
    first = (np.cumsum(sizes) - sizes)[tokens]
    return table[np.repeat(first - (ends - lengths), lengths) + np.arange(lengths.sum())], ends


def _first_contexts(corpus: LabelCorpus) -> NDArray[np.int64]:
    """Return the rows at which a document begins."""
    return np.flatnonzero(np.diff(corpus.document, prepend=-1) != 0)


def _count(flags: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return `[n + 1]`: how many flags lie before each point."""
    return np.concatenate([[0], np.cumsum(flags)]).astype(np.int32)


def _first_words(
    text: bytes, line_starts: NDArray[np.int64], line: NDArray[np.int64], points: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[str]]:
    numbers: dict[bytes, int] = {}
    of_line = np.full(len(line_starts), -1, dtype=np.int64)
    complete = np.zeros(len(line_starts), dtype=np.int64)
    for number, start in enumerate(line_starts.tolist()):
        if (match := FIRST_WORD.match(text, start)) and len(match[1]) <= MAX_WORD_BYTES:
            of_line[number] = numbers.setdefault(match[1], len(numbers))
            complete[number] = match.end()
    words = [word.decode(errors="replace") for word in numbers]
    return np.where(points >= complete[line], of_line[line], -1), words


def _zones(
    text: NDArray[np.uint8], line_start: NDArray[np.int64], document_start: NDArray[np.int64], points: NDArray[np.int64]
) -> NDArray[np.int32]:
    hashes = _count(text == ord("#"))
    zone = np.full(len(points), PLAIN, dtype=np.int32)
    for mark in b"\"'":
        quotes = _count(text == mark)
        zone[(quotes[points] - quotes[line_start]) % 2 == 1] = STRING
    zone[hashes[points] > hashes[line_start]] = COMMENT
    triple = np.zeros(len(text), dtype=bool)
    triple[[match.end() - 1 for match in TRIPLE_QUOTE.finditer(text.tobytes())]] = True
    triples = _count(triple)
    zone[(triples[points] - triples[document_start]) % 2 == 1] = DOCSTRING
    return zone


def _open_brackets(text: NDArray[np.uint8], line_start: NDArray[np.int64], points: NDArray[np.int64]) -> NDArray[np.int32]:
    step = np.zeros(256, dtype=np.int32)
    step[list(b"([{")], step[list(b")]}")] = 1, -1
    depth = np.concatenate([[0], np.cumsum(step[text])]).astype(np.int32)
    return depth[points] - depth[line_start]
