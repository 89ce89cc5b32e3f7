"""Which cell a token belongs to: blocks of documents, buckets of positions, classes of tokens."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

N_BLOCKS = 500
"""Documents are dealt out to so many blocks, which are what intervals draw from."""
N_ROW_BLOCKS = 100
"""The same for each row of a breakdown, fewer to bound memory: each is five of the others."""
N_BUCKETS = 24
"""Of positions: 0, 1, 2 to 3, 4 to 7, and so on, up to contexts of 8,388,608 tokens."""


@dataclass(frozen=True, eq=False)
class TokenClasses:
    """A class for each token of a vocabulary."""

    names: tuple[str, ...]
    of_token: Tensor
    """int64 [d_vocab]: index into `names`."""

    @classmethod
    def by_text(cls, tokenizer: Any, d_vocab: int) -> "TokenClasses":
        """By the text of each token, `CLASSES`. Ids that the tokenizer lacks are "other"."""
        texts = [""] * d_vocab
        byte_level = _is_byte_level(tokenizer)
        for token, token_id in tokenizer.get_vocab().items():
            if token_id < d_vocab:
                texts[token_id] = _text(token, byte_level)
        special = {token_id for token_id in getattr(tokenizer, "all_special_ids", ()) if token_id < d_vocab}
        kinds = [OTHER if token_id in special else token_class(text) for token_id, text in enumerate(texts)]
        return cls(CLASSES, torch.tensor([CLASSES.index(kind) for kind in kinds]))


CLASSES = ("start of a word", "inside a word", "number", "punctuation", "white space", "other")
OTHER = CLASSES[-1]


def token_class(text: str) -> str:
    """The class, one of `CLASSES`, of a token with this text: `" the"`, `"ing"`, `" 42"`, `"),"`, `"\\n\\n"`."""
    inner = text.strip()
    if not inner:
        return "white space" if text else OTHER
    if "\N{REPLACEMENT CHARACTER}" in inner:
        return OTHER
    if any(character.isalpha() for character in inner):
        return "start of a word" if text[0].isspace() else "inside a word"
    if any(character.isdigit() for character in inner):
        return "number"
    return "punctuation" if all(character.isprintable() for character in inner) else OTHER


def position_buckets(attention_mask: Tensor) -> Tensor:
    """int64 `[b, p]`: the bucket of each token by the number of real tokens before it in its context."""
    before = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
    return torch.where(before > 0, (before.double().clamp(min=1).log2().floor() + 1).long(), 0).clamp(max=N_BUCKETS - 1)


def bucket_name(bucket: int) -> str:
    """`0`, `1`, `2 to 3`, `4 to 7`, …"""
    first = 2 ** (bucket - 1) if bucket else 0
    return str(first) if bucket < 2 else f"{first:,} to {2 * first - 1:,}"


def blocks(documents: Sequence[int] | Tensor) -> Tensor:
    """int64 `[b]`: the block of each document number."""
    return torch.as_tensor(documents, dtype=torch.int64) % N_BLOCKS


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    step = None if backend is None else backend.decoder or backend.pre_tokenizer
    return "ByteLevel" in str(step.__getstate__()) if step is not None else hasattr(tokenizer, "byte_decoder")


def _text(token: str, byte_level: bool) -> str:
    """The text of a token from its stored form; bytes that are no character of their own become U+FFFD."""
    if byte_level:
        numbers = [_BYTE_OF.get(character) for character in token]
        return token if None in numbers else bytes(n for n in numbers if n is not None).decode(errors="replace")
    byte = re.fullmatch("<0x([0-9A-Fa-f]{2})>", token)
    return bytes.fromhex(byte[1]).decode(errors="replace") if byte else token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ")


def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level token stands for: GPT-2's printable alphabet of 256 characters."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
