"""What every token id of a tokenizer stands for: text, or bytes where a token holds part of a character.

The form follows the tokenizer's own decoder, never its name: byte-level BPE (each character of a token stands for a byte),
metaspace (`▁` for a space, `<0x0A>` for a byte), WordPiece (`##` joins to the token before), a word-end suffix. Joining the
bytes of consecutive ids and decoding them gives the text, also where a character is split over several tokens.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from sitegen.errors import CacheError

Entry = str | dict[str, str]

BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Vocabulary:
    """Bytes of every token id. Special tokens stand for themselves, as literal text."""

    pieces: tuple[bytes, ...]
    """UTF-8 bytes by token id; a piece alone need not be valid UTF-8."""

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, d_vocab: int) -> "Vocabulary":
        """Read a Hugging Face tokenizer; ids up to `d_vocab` that it lacks (a padded vocabulary) become `<unused 123>`."""
        tokens = tokenizer.get_vocab()
        added = getattr(tokenizer, "added_tokens_decoder", {})
        size = max([d_vocab, *(token_id + 1 for token_id in tokens.values()), *(token_id + 1 for token_id in added)])
        pieces = [b""] * size
        known = bytearray(size)
        to_bytes = _decoder(tokenizer)
        for token, token_id in tokens.items():
            pieces[token_id] = to_bytes(token)
            known[token_id] = 1
        for token_id, token in added.items():
            # A special token is literal text; other added tokens go through the decoder like any other.
            pieces[token_id] = _utf8(token.content) if token.special else to_bytes(token.content)
            known[token_id] = 1
        for token_id, is_known in enumerate(known):
            if not is_known:
                pieces[token_id] = f"<unused {token_id}>".encode()
        return cls(tuple(pieces))

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def entries(self) -> list[Entry]:
        """The site's vocabulary file: by token id the text, or `{"b": hex}` where the bytes alone are not valid UTF-8."""
        return [_entry(piece) for piece in self.pieces]

    def bytes_of(self, token_id: int) -> bytes:
        """Return the bytes of one token."""
        return self.pieces[token_id]

    def text(self, ids: Iterable[int]) -> str:
        """Return the text of consecutive tokens; incomplete characters at either end become U+FFFD."""
        return b"".join([self.pieces[token_id] for token_id in ids]).decode(errors="replace")

    def to_file(self, path: Path | str) -> None:
        """Write the entries as a JSON list; under `path` there is nothing, or all of it."""
        path = Path(path)
        new = path.with_name(path.name + ".new")
        new.write_bytes(orjson.dumps(self.entries))
        new.replace(path)

    @classmethod
    def from_file(cls, path: Path | str) -> "Vocabulary":
        """Read what `to_file` wrote; CacheError where it is not a list of texts and `{"b": hex}`."""
        try:
            entries = orjson.loads(Path(path).read_bytes())
            return cls(tuple(entry.encode() if isinstance(entry, str) else bytes.fromhex(entry["b"]) for entry in entries))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CacheError(
                f'{path} is no vocabulary file (expected a JSON list of texts and {{"b": hex}}): delete it and build it anew.'
            ) from error


def byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level token stands for (GPT-2's printable alphabet of 256 characters)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


def _decoder(tokenizer: Any) -> Callable[[str], bytes]:
    """Return the function from a token's stored form to bytes that the tokenizer's decoder implies."""
    parts = _decoder_parts(tokenizer)
    types = {part["type"] for part in parts}
    if "ByteLevel" in types:
        return _byte_level
    metaspaces = [part["replacement"] for part in parts if part["type"] == "Metaspace"]
    metaspaces += [part["pattern"]["String"] for part in parts if part["type"] == "Replace" and part.get("content") == " "]
    if metaspaces or "ByteFallback" in types:
        return _metaspace(metaspaces[0] if metaspaces else "▁", byte_fallback="ByteFallback" in types)
    for part in parts:
        if part["type"] == "WordPiece":
            return _word_piece(part["prefix"])
        if part["type"] == "BPEDecoder":
            return _word_end(part["suffix"])
    # Without a decoder the tokenizers library joins tokens with a space.
    return lambda token: _utf8(" " + token)


def _decoder_parts(tokenizer: Any) -> list[dict[str, Any]]:
    """Return the steps of the tokenizer's decoder, or of its pre-tokenizer where it has no decoder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        # A tokenizer written in Python: its own attributes tell.
        if hasattr(tokenizer, "byte_decoder"):
            return [{"type": "ByteLevel"}]
        return [{"type": "Metaspace", "replacement": "▁"}, {"type": "ByteFallback"}] if hasattr(tokenizer, "sp_model") else []
    step = backend.decoder or backend.pre_tokenizer
    return _flat(json.loads(step.__getstate__())) if step is not None else []


def _flat(step: dict[str, Any]) -> list[dict[str, Any]]:
    if step["type"] != "Sequence":
        return [step]
    nested = step.get("decoders") or step.get("pretokenizers") or []
    return [part for inner in nested for part in _flat(inner)]


_BYTE_OF = byte_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF[character] for character in token])
    except KeyError:
        # An added token may hold characters outside the alphabet, such as spaces: it is plain text.
        return _utf8(token)


def _metaspace(space: str, byte_fallback: bool) -> Callable[[str], bytes]:
    def to_bytes(token: str) -> bytes:
        if byte_fallback and (match := BYTE_FALLBACK.fullmatch(token)):
            return bytes.fromhex(match[1])
        return _utf8(token.replace(space, " "))

    return to_bytes


def _word_piece(prefix: str) -> Callable[[str], bytes]:
    return lambda token: _utf8(token.removeprefix(prefix) if token.startswith(prefix) else " " + token)


def _word_end(suffix: str) -> Callable[[str], bytes]:
    return lambda token: _utf8(token.removesuffix(suffix) + (" " if token.endswith(suffix) else ""))


def _utf8(text: str) -> bytes:
    """Encode; a lone surrogate gives the bytes that UTF-8 would give it, and so an entry in hex."""
    return text.encode(errors="surrogatepass")


def _entry(piece: bytes) -> Entry:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return {"b": piece.hex()}
