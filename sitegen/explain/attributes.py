"""What a rule can say of a token: each attribute gives every position of the corpus one code, and a rule names a few codes.

Adding a family of rules is adding a function here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sitegen.explain.halves import LabelCorpus
from sitegen.explain.lines import PLAIN, Lines, read_lines
from sitegen.explain.shapes import SHAPES, indentation_of, shape_of
from sitegen.explain.wording import listed, quoted, short
from sitegen.vocabulary import Vocabulary

MIN_OCCURRENCES = 4
"""A combination of codes that occurs less often in the corpus is not a rule."""

ZONES = ("", "comments", "strings", "docstrings")
PLACES = ("the first token of a context", "the second token of a context", "tokens 3-4 of a context", "tokens 5-8 of a context")


@dataclass(frozen=True)
class Attribute:
    """One property of the token at each position."""

    rule: str
    """Name of the rule, as in `Label.rule`."""
    codes: NDArray[np.int32]
    """`[m * context_length]`, -1 where the property does not apply"""
    n_codes: int
    describe: Callable[[list[int]], str]
    """Text of the label that names these codes."""
    max_codes: int = 1
    """Codes that one rule may name."""
    cost: float = 0.0
    """What a rule's score loses for being harder to grasp than the plain token."""


def attributes(corpus: LabelCorpus, vocabulary: Vocabulary) -> Iterator[Attribute]:
    """Yield every attribute, simplest first: of two rules with equal score the first is taken."""
    facts = TokenFacts.read(corpus, vocabulary)
    lines = read_lines(corpus, vocabulary)
    yield from _of_the_token(facts, vocabulary)
    yield from _of_the_tokens_around(facts, vocabulary)
    yield from _of_the_line(facts, lines)
    yield from _of_the_place(corpus)


@dataclass(frozen=True)
class TokenFacts:
    """Flat arrays `[m * context_length]` over the corpus; -1 on padding and where there is no such token."""

    token: NDArray[np.int32]
    word: NDArray[np.int32]
    """Index into `words`: the token without surrounding spaces, in lower case"""
    words: list[str]
    shape: NDArray[np.int32]
    indentation: NDArray[np.int32]
    previous: NDArray[np.int32]
    before_previous: NDArray[np.int32]
    following: NDArray[np.int32]
    d_vocab: int

    @classmethod
    def read(cls, corpus: LabelCorpus, vocabulary: Vocabulary) -> "TokenFacts":
        """Look each token id of the corpus up once."""
        tokens = np.where(corpus.real, corpus.tokens, -1)
        words: dict[str, int] = {}
        # One entry more, so that the padding's -1 finds -1.
        word, shape, indentation = (np.full(len(vocabulary) + 1, -1, dtype=np.int32) for _ in range(3))
        for token_id in np.unique(tokens[tokens >= 0]).tolist():
            text = vocabulary.bytes_of(token_id).decode(errors="backslashreplace")
            if stripped := text.strip().lower():
                word[token_id] = words.setdefault(stripped, len(words))
            shape[token_id] = shape_of(text)
            indentation[token_id] = indentation_of(text)
        flat = tokens.reshape(-1)
        return cls(
            token=flat,
            word=word[flat],
            words=list(words),
            shape=shape[flat],
            indentation=indentation[flat],
            previous=_shifted(tokens, 1),
            before_previous=_shifted(tokens, 2),
            following=_shifted(tokens, -1),
            d_vocab=len(vocabulary),
        )


def _shifted(tokens: NDArray[np.int32], by: int) -> NDArray[np.int32]:
    """Return, flat, the token `by` places before each one within its context (behind, if negative); -1 where there is none."""
    result = np.full_like(tokens, -1)
    if by > 0:
        result[:, by:] = tokens[:, :-by]
    else:
        result[:, :by] = tokens[:, -by:]
    return result.reshape(-1)


def _of_the_token(facts: TokenFacts, vocabulary: Vocabulary) -> Iterator[Attribute]:
    text = _texts(vocabulary)
    yield Attribute("token", facts.token, facts.d_vocab, lambda ids: listed(quoted(text(i)) for i in ids), max_codes=6)
    yield Attribute(
        "word",
        facts.word,
        len(facts.words),
        lambda codes: listed([quoted(facts.words[code]) for code in codes], after=" in any case or spacing"),
        max_codes=6,
        cost=0.01,
    )
    yield Attribute(
        "shape", facts.shape, len(SHAPES), lambda codes: listed(SHAPES[code][0] for code in codes), max_codes=3, cost=0.01
    )
    yield Attribute(
        "newline",
        facts.indentation,
        int(facts.indentation.max(initial=0)) + 1,
        lambda widths: listed([str(width) for width in sorted(widths)], before="newline, then indentation of "),
        max_codes=3,
        cost=0.01,
    )


def _of_the_tokens_around(facts: TokenFacts, vocabulary: Vocabulary) -> Iterator[Attribute]:
    text, d_vocab = _texts(vocabulary), facts.d_vocab
    yield Attribute(
        "previous",
        facts.previous,
        d_vocab,
        lambda ids: listed([quoted(text(i)) for i in ids], before="after "),
        max_codes=4,
        cost=0.02,
    )
    codes, pairs = _combined(facts.previous, facts.token, d_vocab)
    yield Attribute(
        "pair",
        codes,
        len(pairs),
        lambda chosen: listed(
            [f"{quoted(text(pairs[code] % d_vocab))} after {quoted(text(pairs[code] // d_vocab))}" for code in chosen]
        ),
        max_codes=2,
        cost=0.03,
    )
    codes, endings = _combined(facts.before_previous, facts.previous, d_vocab)
    yield Attribute(
        "previous two",
        codes,
        len(endings),
        lambda chosen: listed(
            [quoted(vocabulary.text(divmod(int(endings[code]), d_vocab))) for code in chosen], before="after "
        ),
        max_codes=3,
        cost=0.03,
    )
    codes, kinds = _combined(facts.previous, facts.shape, len(SHAPES))
    yield Attribute(
        "shape after",
        codes,
        len(kinds),
        lambda chosen: listed(
            [f"{SHAPES[kinds[code] % len(SHAPES)][0]} after {quoted(text(kinds[code] // len(SHAPES)))}" for code in chosen]
        ),
        max_codes=2,
        cost=0.03,
    )
    yield Attribute(
        "next",
        facts.following,
        d_vocab,
        lambda ids: listed([quoted(text(i)) for i in ids], before="before "),
        max_codes=3,
        cost=0.04,
    )


def _of_the_line(facts: TokenFacts, lines: Lines) -> Iterator[Attribute]:
    words = lines.words
    yield Attribute(
        "line",
        lines.word,
        len(words),
        lambda codes: listed([quoted(words[code]) for code in codes], after=" lines"),
        max_codes=4,
        cost=0.03,
    )
    codes, kinds = _combined(lines.word, facts.shape, len(SHAPES))
    yield Attribute(
        "shape in line",
        codes,
        len(kinds),
        lambda chosen: listed(
            [f"{SHAPES[kinds[code] % len(SHAPES)][0]} in {quoted(words[kinds[code] // len(SHAPES)])} lines" for code in chosen]
        ),
        max_codes=2,
        cost=0.04,
    )
    zone = np.where(lines.zone == PLAIN, -1, lines.zone)
    yield Attribute(
        "zone", zone, len(ZONES), lambda codes: listed([ZONES[code] for code in sorted(codes)], before="in "), 3, 0.02
    )
    codes, places = _combined(zone, facts.shape, len(SHAPES))
    yield Attribute(
        "shape in zone",
        codes,
        len(places),
        lambda chosen: listed(
            [f"{SHAPES[places[code] % len(SHAPES)][0]} in {ZONES[places[code] // len(SHAPES)]}" for code in chosen]
        ),
        max_codes=3,
        cost=0.04,
    )
    inside = np.where(lines.in_brackets == 1, 0, -1).astype(np.int32)
    yield Attribute("brackets", inside, 1, lambda codes: "inside brackets", cost=0.02)


def _of_the_place(corpus: LabelCorpus) -> Iterator[Attribute]:
    place = np.full(corpus.context_length, -1, dtype=np.int32)
    place[corpus.n_prefix : corpus.n_prefix + 8] = [0, 1, 2, 2, 3, 3, 3, 3][: corpus.context_length - corpus.n_prefix]
    codes = np.where(corpus.real, place, -1).reshape(-1).astype(np.int32)
    yield Attribute(
        "position", codes, len(PLACES), lambda chosen: short(", ".join(PLACES[code] for code in sorted(chosen))), 2, 0.01
    )


def _texts(vocabulary: Vocabulary) -> Callable[[int], str]:
    """Return the function from a token id to its text, with bytes that are no text written as `\\xe2`."""
    return lambda token_id: vocabulary.bytes_of(int(token_id)).decode(errors="backslashreplace")


def _combined(
    first: NDArray[np.int32], second: NDArray[np.int32], n_second: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return one code for each frequent pair of codes, and for each code its pair as `first * n_second + second`."""
    keys = np.where((first >= 0) & (second >= 0), first.astype(np.int64) * n_second + second, -1)
    pairs, codes, counts = np.unique(keys, return_inverse=True, return_counts=True)
    kept = (counts >= MIN_OCCURRENCES) & (pairs >= 0)
    renumbered = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    return renumbered[codes], pairs[kept]
