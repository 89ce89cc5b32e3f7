"""Kinds of tokens by how they are written."""

import re

SHAPES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("newlines", re.compile(r"\s*\n\s*")),
    ("spaces", re.compile(r"\s+")),
    ("numbers", re.compile(r" ?[0-9][0-9._]*")),
    ("UPPER_CASE", re.compile(r" ?_?[A-Z][A-Z0-9_]+")),
    ("Capitalised words", re.compile(r" ?[A-Z][A-Za-z0-9]*")),
    ("words after a space", re.compile(r" [a-z]+")),
    ("word pieces", re.compile(r"[a-z]+")),
    ("names with _", re.compile(r" ?\w*_\w*")),
    ("closing brackets", re.compile(r"\s?[\"']*[)\]}][^\w([{]*")),
    ("opening brackets", re.compile(r"[^\w)\]}]*[(\[{][\"'\s]*")),
    ("quotation marks", re.compile(r"[^\w]*[\"'`][^\w]*")),
    ("operators", re.compile(r"\s?[-=+*/<>!%&|^~@]+\s?")),
    ("punctuation", re.compile(r"\s?[.,:;?]+\s?")),
    ("non-ASCII text", re.compile(r".*[^\x00-\x7f].*", re.DOTALL)),
)
"""Name and pattern, in the order tried: a token has the first shape that it matches whole, and at most one."""

NEWLINE = 0

INDENTED = re.compile(r"[^\n]*\n[\n\r]*([ \t]*)")


def shape_of(text: str) -> int:
    """Return the index into `SHAPES` of a token's text, -1 where it has none."""
    for number, (_, pattern) in enumerate(SHAPES):
        if pattern.fullmatch(text):
            return number
    return -1


def indentation_of(text: str) -> int:
    """Return the width of the spaces behind the newline of a token that ends a line, -1 for any other token."""
    match = INDENTED.fullmatch(text)
    return len(match[1].expandtabs(8)) if match else -1
