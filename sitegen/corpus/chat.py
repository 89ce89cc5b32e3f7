"""Chats to tokens, through the tokenizer's chat template.

The ids are those of `tokenizer.apply_chat_template(messages)`, always: the template is rendered to text, and the text is
tokenised once, as transformers does. Which tokens are *content* (counted in the facts) is then read off the offsets: the
content of each message is looked up in the rendered text, one behind the other, and a token is content where it lies inside
one and shares no character with the template around it. That needs no `{% generation %}` block in the template, and works for
every role. Content that a template rewrites beyond trimming (a removed chain of thought, say) is not found: it is read by the
LM, and not counted.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sitegen.corpus.corpus import Message
from sitegen.errors import CorpusError


def encode_chat(
    tokenizer: Any, messages: Sequence[Message], roles: Sequence[str] = (), name: str = "chat"
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return `(ids [n], is_content [n])` of one chat; with `roles`, only messages of these roles are content.

    Raises CorpusError where the tokenizer has no chat template, is not a fast one, or the template refuses the messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise CorpusError(
            "The corpus holds chat messages, and the model's tokenizer has no chat template. Use a chat model, or name a text "
            "column with [corpus] column."
        )
    if not tokenizer.is_fast:
        raise CorpusError("A chat corpus needs a fast tokenizer (tokenizer.json), to know which tokens belong to the template.")
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception as error:
        # Templates are programs: they raise TemplateError, TypeError, UndefinedError, … for an order of roles they don't like.
        raise CorpusError(f"Document {name}: the chat template refuses these messages ({error}).") from error
    encoded = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    is_content = np.zeros(len(offsets), dtype=bool)
    for first, last in _content_spans(rendered, messages, roles):
        is_content |= (offsets[:, 0] >= first) & (offsets[:, 1] <= last) & (offsets[:, 1] > offsets[:, 0])
    return np.array(encoded["input_ids"], dtype=np.int32), is_content


def _content_spans(rendered: str, messages: Sequence[Message], roles: Sequence[str]) -> list[tuple[int, int]]:
    spans, end = [], 0
    for message in messages:
        # The role stands before the content in the template, and may be its first word as well.
        after_role = rendered.find(message.role, end)
        start = end if after_role < 0 else after_role + len(message.role)
        for content in (message.content, message.content.strip()):
            for origin in (start, end):
                first = rendered.find(content, origin) if content else -1
                if first >= 0:
                    break
            if first >= 0:
                break
        if first < 0:
            continue
        end = first + len(content)
        if not roles or message.role in roles:
            spans.append((first, end))
    return spans
