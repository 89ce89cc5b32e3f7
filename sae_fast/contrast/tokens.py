"""Which tokens of a text are pooled: all of its content, the messages of some roles, marked spans, or the last ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_fast.contrast.texts import Text
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.lm.chat import encode_chat, encode_text, touching, within

FORMS = "all, role:NAME[,NAME…], span, or last:N"


@dataclass(frozen=True)
class TokenChoice:
    """What `tokens=` says, parsed."""

    kind: str
    """all, role, span or last."""
    roles: tuple[str, ...] = ()
    n: int = 0

    @classmethod
    def parse(cls, text: str) -> "TokenChoice":
        """Raises `ArgumentError` for anything but `all`, `role:NAME[,NAME…]`, `span` and `last:N`."""
        kind, _, rest = text.partition(":")
        roles = tuple(role.strip() for role in rest.split(",") if role.strip())
        if kind in ("all", "span") and not rest:
            return cls(kind)
        if kind == "role" and roles:
            return cls(kind, roles)
        if kind == "last" and (not rest or (rest.isdecimal() and int(rest) > 0)):
            return cls(kind, n=int(rest or 1))
        raise ArgumentError("tokens", expected=FORMS, got=repr(text))


@dataclass(frozen=True)
class Tokens:
    """One text as the LM reads it."""

    ids: NDArray[np.int64]
    """`[n]`."""
    chosen: NDArray[np.bool_]
    """`[n]`: tokens that are pooled."""
    n_cut: int
    """Tokens left off at the end, because the text is longer than allowed."""


@dataclass(frozen=True)
class Reader:
    """Texts to tokens. No special token (BOS, EOS, PAD, …) and no token of a chat template is ever chosen."""

    tokenizer: Any
    choice: TokenChoice
    prefix: int | None
    """Id of the BOS that begins every text; None for none. A chat template that writes it already gets no second one."""
    max_tokens: int

    def __post_init__(self) -> None:
        if not getattr(self.tokenizer, "is_fast", False):
            raise ArgumentError("the tokenizer is not a fast one (tokenizer.json), so that no token can be told by its place")

    def read(self, text: Text) -> Tokens:
        """Tokens of a text.

        Raises:
            FormatError: the text has no messages where roles are asked for, no span where spans are, or its chat is refused.
        """
        ids, offsets, content, spans = self._encoded(text)
        match self.choice.kind:
            case "span":
                chosen = touching(offsets, spans)
            case _:
                chosen = within(offsets, content)
        chosen &= ~np.isin(ids, special_ids(self.tokenizer))
        if self.choice.kind == "last":
            chosen &= chosen[::-1].cumsum()[::-1] <= self.choice.n
        if self.prefix is not None and (not len(ids) or ids[0] != self.prefix):
            ids, chosen = np.r_[self.prefix, ids], np.r_[False, chosen]
        n_cut = max(len(ids) - self.max_tokens, 0)
        return Tokens(ids[: self.max_tokens].astype(np.int64), chosen[: self.max_tokens], n_cut)

    def _encoded(self, text: Text) -> tuple[NDArray[np.int32], NDArray[np.int64], list[tuple[int, int]], list[tuple[int, int]]]:
        """`(ids, offsets, spans of content, spans that were marked)`, all in characters of what was tokenised."""
        if self.choice.kind == "span" and not text.spans:
            raise FormatError(f"{text.name}", expected='a key "spans", since tokens are chosen by span', got="none")
        if text.text is not None:
            if self.choice.kind == "role":
                raise FormatError(f"{text.name}", expected='"messages", since tokens are chosen by role', got='"text"')
            ids, offsets = encode_text(self.tokenizer, text.text)
            return ids, offsets, [(0, len(text.text))], [(first, end) for _, first, end in text.spans]
        chat = encode_chat(self.tokenizer, text.messages, text.name)
        content = [
            (place.first, place.end)
            for message, place in zip(text.messages, chat.places, strict=True)
            if place is not None and (not self.choice.roles or message.role in self.choice.roles)
        ]
        marked = []
        for message, first, end in text.spans:
            place = chat.places[message]
            if place is None:
                raise FormatError(
                    f"{text.name}: spans", expected="messages that the chat template keeps", got=f"message {message}"
                )
            origin = place.first - place.trimmed
            marked.append((max(origin + first, place.first), min(origin + end, place.end)))
        return chat.ids, chat.offsets, content, marked


def special_ids(tokenizer: Any) -> list[int]:
    """Ids of the tokenizer's BOS, EOS, PAD, CLS and SEP, as far as it has them."""
    found = (getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "cls", "sep"))
    return [token for token in found if token is not None]


def prefix_id(tokenizer: Any, prepend_bos: bool | None, trained_with: Sequence[bool | None]) -> int | None:
    """Id of the BOS that begins each text, or None: as asked for, else as the SAEs were trained, else as the tokenizer does.

    A tokenizer without BOS uses its EOS in its place, as TransformerLens does. Raises `ArgumentError` where the SAEs disagree,
    or a BOS is wanted and there is none.
    """
    if prepend_bos is None:
        known = {value for value in trained_with if value is not None}
        if len(known) > 1:
            advice = "Say which with prepend_bos, or contrast them apart"
            raise ArgumentError("some of the SAEs were trained with a BOS and some without", advice=advice)
        prepend_bos = known.pop() if known else _adds_bos(tokenizer)
    if not prepend_bos:
        return None
    token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if token is None:
        raise ArgumentError("a BOS is wanted before each text, and the tokenizer has none", advice="Set prepend_bos to False")
    return int(token)


def _adds_bos(tokenizer: Any) -> bool:
    ids = tokenizer("a", verbose=False)["input_ids"]
    return tokenizer.bos_token_id is not None and bool(ids) and ids[0] == tokenizer.bos_token_id
