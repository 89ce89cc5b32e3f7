"""Tokens as a reader sees them: characters that are split over several tokens are joined, white space is made visible.

`site_templates/assets/js/tokens.js` does the same in the browser.
"""

import codecs
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sitegen.records import Example

Entry = str | dict[str, str]
"""A token of a vocabulary file: its text, or `{"b": hex}` where its bytes alone are not valid UTF-8."""

_SPECIAL = re.compile(r"<\|.*\|>|</?(s|bos|eos|pad|unk|start_of_turn|end_of_turn)>|\[(CLS|SEP|PAD|UNK|MASK)\]")
_EDGES = re.compile(r"(\s*)(.*?)(\s*)", re.DOTALL)
_VISIBLE = str.maketrans({" ": "␣", "\n": "↵\n", "\t": "⇥", "\r": "␍"})


@dataclass(frozen=True, slots=True)
class Unit:
    """One or more tokens that show as one piece of text."""

    text: str
    first: int
    """Offset of the first token in the window."""
    last: int
    """Offset of the last token in the window."""
    act: float
    """Activation of largest magnitude among the unit's tokens."""


class Vocabulary:
    """Looks up token texts in the list of a vocabulary file or the dictionary that travels with a shard."""

    def __init__(self, entries: Sequence[Entry] | None = None, strings: dict[str, Entry] | None = None) -> None:
        self._entries = entries
        self._strings = strings

    def entry(self, token: int) -> Entry:
        """Return the token's entry, or `⟨id⟩` where the site does not say."""
        if self._entries is not None:
            return self._entries[token] if 0 <= token < len(self._entries) else f"⟨{token}⟩"
        return (self._strings or {}).get(str(token), f"⟨{token}⟩")

    def text(self, token: int) -> str:
        """Return the token's text; bytes that are no whole character show as `\\xe2`."""
        entry = self.entry(token)
        return entry if isinstance(entry, str) else bytes.fromhex(entry["b"]).decode("utf-8", "backslashreplace")


def units(tokens: Sequence[int], acts: Iterable[tuple[int, float]], vocabulary: Vocabulary) -> list[Unit]:
    """Join the tokens of a window into units; every token is in exactly one."""
    by_offset = dict(acts)
    found: list[Unit] = []
    pending = b""
    start = 0

    def close(text: str, first: int, last: int) -> None:
        values = [by_offset.get(offset, 0.0) for offset in range(first, last + 1)]
        found.append(Unit(text, first, last, max(values, key=abs)))

    for offset, token in enumerate(tokens):
        entry = vocabulary.entry(token)
        data = bytes.fromhex(entry["b"]) if isinstance(entry, dict) else entry.encode("utf-8", "replace")
        if pending and (isinstance(entry, str) or not _may_start_text(pending + data)):
            close(pending.decode("utf-8", "replace"), start, offset - 1)
            pending = b""
        if isinstance(entry, str):
            close(entry, offset, offset)
            continue
        start = start if pending else offset
        pending += data
        if _is_text(pending) or not _may_start_text(pending):
            close(pending.decode("utf-8", "replace"), start, offset)
            pending = b""
    if pending:
        close(pending.decode("utf-8", "replace"), start, len(tokens) - 1)
    return found


def example_units(example: Example, vocabulary: Vocabulary) -> list[Unit]:
    """Return the units of an example's window."""
    return units(example.tokens, example.acts, vocabulary)


def opacity(act: float, max_act: float) -> float:
    """Return how strongly a token is coloured, 0.05 to 1 on a log scale; 0 where it is not active."""
    if act == 0 or max_act <= 0:
        return 0.0
    return 0.05 + 0.95 * math.log10(1 + 9 * min(1.0, abs(act) / max_act))


def visible(text: str) -> str:
    """Show white space as `␣`, `↵` (followed by the line break) and `⇥` if the text is nothing else."""
    return text.translate(_VISIBLE) if text and not text.strip(" \n\t\r") else text


def is_special(text: str) -> bool:
    """Return True for a token that is no text, such as the one at the beginning of a sequence."""
    return _SPECIAL.fullmatch(text) is not None


def in_list(text: str) -> str:
    """Show a token's text on one line, every space that begins or ends it as a sign."""
    match = _EDGES.fullmatch(text)
    before, middle, after = match.groups() if match else ("", text, "")
    return _signs(before) + middle.replace("\n", "↵") + _signs(after)


def _signs(space: str) -> str:
    return space.translate(_VISIBLE).replace("↵\n", "↵")


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _may_start_text(data: bytes) -> bool:
    """Return True if the bytes are valid UTF-8 but for a character that is not finished at their end."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=False)
    except UnicodeDecodeError:
        return False
    return True
