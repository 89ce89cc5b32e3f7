"""Chats to tokens, through the tokenizer's chat template, and which of the tokens are whose words.

The ids are those of `tokenizer.apply_chat_template(messages)`, always: the template is rendered to text, and the text is
tokenised once, as transformers does. Which tokens are *content* is then read off the offsets: the content of each message is
looked up in the rendered text, one behind the other. That needs no `{% generation %}` block in the template, and works for
every role. Content that a template rewrites beyond trimming (a removed chain of thought, say) is not found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sae_fast.errors import ArgumentError, FormatError


class Turn(Protocol):
    """One message of a chat."""

    @property
    def role(self) -> str:
        """Who speaks: `system`, `user`, `assistant`, …"""

    @property
    def content(self) -> str:
        """What is said."""


@dataclass(frozen=True)
class Place:
    """Where a message's content stands in the rendered chat, in characters."""

    first: int
    end: int
    trimmed: int
    """Characters that the template took away at the content's beginning."""


@dataclass(frozen=True)
class EncodedChat:
    """The tokens of one chat."""

    ids: NDArray[np.int32]
    """`[n]`."""
    offsets: NDArray[np.int64]
    """`[n, 2]`: first character and end of each token in the rendered chat."""
    places: list[Place | None]
    """Of each message; None where its content is not in the rendered chat."""

    def within(self, spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
        """`[n]`: tokens that lie wholly inside one of the spans `(first, end)` of characters."""
        return within(self.offsets, spans)


def encode_chat(tokenizer: Any, messages: Sequence[Turn], name: str = "chat") -> EncodedChat:
    """Render and tokenise one chat; `name` stands in error messages.

    Raises:
        ArgumentError: the tokenizer has no chat template, or is not a fast one.
        FormatError: the template refuses the messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ArgumentError(
            "chat messages are given, and the model's tokenizer has no chat template", advice="Use a chat model"
        )
    if not tokenizer.is_fast:
        raise ArgumentError("chat messages need a fast tokenizer (tokenizer.json), to know which tokens belong to the template")
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception as error:
        # Templates are programs: they raise TemplateError, TypeError, UndefinedError, … for an order of roles they don't like.
        raise FormatError(f"{name}: the chat template refuses these messages ({error})") from error
    ids, offsets = encode_text(tokenizer, rendered)
    return EncodedChat(ids, offsets, content_places(rendered, messages))


def encode_text(tokenizer: Any, text: str) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """`(ids [n], offsets [n, 2])` of a text as it is: nothing is added, cut or padded. Needs a fast tokenizer."""
    encoded = tokenizer(
        text, add_special_tokens=False, padding=False, truncation=False, return_offsets_mapping=True, verbose=False
    )
    offsets = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    return np.array(encoded["input_ids"], dtype=np.int32), offsets


def within(offsets: NDArray[np.int64], spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """`[n]`: tokens of `offsets [n, 2]` that hold a character and lie wholly inside one of the spans."""
    inside = np.zeros(len(offsets), dtype=bool)
    for first, end in spans:
        inside |= (offsets[:, 0] >= first) & (offsets[:, 1] <= end) & (offsets[:, 1] > offsets[:, 0])
    return inside


def touching(offsets: NDArray[np.int64], spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """`[n]`: tokens of `offsets [n, 2]` that share at least one character with one of the spans."""
    inside = np.zeros(len(offsets), dtype=bool)
    for first, end in spans:
        inside |= (offsets[:, 0] < end) & (offsets[:, 1] > first) & (offsets[:, 1] > offsets[:, 0])
    return inside


def content_places(rendered: str, messages: Sequence[Turn]) -> list[Place | None]:
    """Find the content of each message in the rendered chat, one behind the other."""
    places: list[Place | None] = []
    end = 0
    for message in messages:
        place = _find(rendered, message, end)
        places.append(place)
        end = end if place is None else place.end
    return places


def _find(rendered: str, message: Turn, end: int) -> Place | None:
    # The role stands before the content in the template, and may be its first word as well.
    after_role = rendered.find(message.role, end)
    start = end if after_role < 0 else after_role + len(message.role)
    trimmed = len(message.content) - len(message.content.lstrip())
    for content, cut in ((message.content, 0), (message.content.strip(), trimmed)):
        for origin in (start, end):
            first = rendered.find(content, origin) if content else -1
            if first >= 0:
                return Place(first, first + len(content), cut)
    return None
