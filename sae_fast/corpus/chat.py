"""Chats to tokens as `sae_fast.lm.chat` does it, with the tokens that count: a token is content where it lies inside a
message and shares no character with the template around it. Content that the template rewrites is read by the LM, and not
counted.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_fast.corpus.corpus import Message
from sae_fast.errors import ArgumentError, CorpusError, FormatError
from sae_fast.lm import chat


def encode_chat(
    tokenizer: Any, messages: Sequence[Message], roles: Sequence[str] = (), name: str = "chat"
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return `(ids [n], is_content [n])` of one chat; with `roles`, only messages of these roles are content.

    Raises CorpusError where the tokenizer has no chat template, is not a fast one, or the template refuses the messages.
    """
    try:
        encoded = chat.encode_chat(tokenizer, messages, f"Document {name}")
    except ArgumentError as error:
        raise CorpusError(f"The corpus holds chats: {error}, or name a text column with [corpus] column.") from error
    except FormatError as error:
        raise CorpusError(f"{error}.") from error
    counted = [
        (place.first, place.end)
        for message, place in zip(messages, encoded.places, strict=True)
        if place is not None and (not roles or message.role in roles)
    ]
    return encoded.ids, encoded.within(counted)
