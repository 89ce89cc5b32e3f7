"""The texts of one side of a contrast: JSON lines, each `{"text": …}` or `{"messages": […]}`; `id` and `spans` if wanted."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_fast.errors import FormatError

KEYS = ("text", "messages", "spans", "id")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Text:
    """One text or one chat."""

    name: str
    """Where it stands, for error messages: `honest.jsonl, line 3`."""
    id: str | None
    """What pairs it with a text of the other side; None where not given."""
    text: str | None
    messages: tuple[Message, ...] = ()
    """The chat, where `text` is None."""
    spans: tuple[tuple[int, int, int], ...] = ()
    """`(message, first, end)` in characters of that message's content; message 0 for a text. Chosen by `tokens="span"`."""


def read_texts(source: str | Path | Iterable[str | Mapping[str, Any]], name: str | None = None) -> list[Text]:
    """Texts of a JSON lines file, or of strings and mappings of the same form.

    Keys other than `text`, `messages`, `spans` and `id` are allowed and not read. `spans` is a list of `[first, end]` in
    characters of the text, or of `[message, first, end]` in characters of a message's content.

    Raises:
        FormatError: no such file, not UTF-8, a line that is not of this form, or no text at all; the message names the line.
    """
    if isinstance(source, str | Path):
        texts = [_text(value, f"{Path(source).name}, line {n}") for n, value in _lines(Path(source))]
    else:
        given = name or "texts"
        items = ({"text": item} if isinstance(item, str) else item for item in source)
        texts = [_text(item, f"{given}[{n}]") for n, item in enumerate(items)]
    if not texts:
        raise FormatError(f"{source if isinstance(source, str | Path) else name}", expected="at least one text", got="none")
    return texts


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FormatError(f"{path}", expected="a file of JSON lines", got=error.strerror or error) from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}", expected="UTF-8 text", got=f"another encoding at byte {error.start:,}") from error
    # splitlines would also cut at U+2028, which JSON allows inside a string.
    for n, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield n, json.loads(line)
        except json.JSONDecodeError as error:
            raise FormatError(
                f"{path}, line {n}: not JSON ({error.msg} at column {error.colno})",
                expected='one object a line, such as {"text": "…"}',
                got=repr(line[:60]),
            ) from error


def _text(value: Any, name: str) -> Text:
    if not isinstance(value, Mapping):
        raise FormatError(f"{name}", expected='an object such as {"text": "…"} or {"messages": […]}', got=_kind(value))
    identity = value.get("id")
    if identity is not None and not (isinstance(identity, str | int) and not isinstance(identity, bool)):
        raise FormatError(f"{name}: id", expected="a string or an integer", got=_kind(identity))
    identity = None if identity is None else str(identity)
    if "text" in value and "messages" in value:
        raise FormatError(f"{name}", expected="text or messages", got="both")
    if "messages" in value:
        messages = _messages(value["messages"], name)
        spans = _spans(value.get("spans"), [message.content for message in messages], name, in_messages=True)
        return Text(name, identity, None, messages, spans)
    if "text" not in value:
        raise FormatError(f"{name}", expected="a key text or messages", got=f"keys {', '.join(map(str, value)) or '(none)'}")
    text = value["text"]
    if not isinstance(text, str):
        raise FormatError(f"{name}: text", expected="a string", got=_kind(text))
    return Text(name, identity, _encodable(text, name), (), _spans(value.get("spans"), [text], name, in_messages=False))


def _messages(value: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise FormatError(f"{name}: messages", expected="a list that is not empty", got=_kind(value))
    messages = []
    for n, turn in enumerate(value):
        if not isinstance(turn, Mapping) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise FormatError(f"{name}: message {n}", expected='{"role": "user", "content": "…"}', got=str(turn)[:80])
        messages.append(Message(turn["role"], _encodable(turn["content"], name)))
    return tuple(messages)


def _spans(value: Any, contents: list[str], name: str, in_messages: bool) -> tuple[tuple[int, int, int], ...]:
    if value is None:
        return ()
    form = "[message, first, end]" if in_messages else "[first, end]"
    size = 3 if in_messages else 2
    if not isinstance(value, list):
        raise FormatError(f"{name}: spans", expected=f"a list of {form}", got=_kind(value))
    spans = []
    for span in value:
        if not isinstance(span, list) or len(span) != size or not all(type(number) is int for number in span):
            raise FormatError(f"{name}: spans", expected=f"a list of {form}, in characters", got=str(span)[:60])
        message, first, end = span if in_messages else (0, *span)
        if not 0 <= message < len(contents):
            raise FormatError(f"{name}: spans", expected=f"a message from 0 to {len(contents) - 1}", got=message)
        if not 0 <= first < end <= len(contents[message]):
            length = len(contents[message])
            raise FormatError(f"{name}: spans", expected=f"0 <= first < end <= {length} characters", got=[first, end])
        spans.append((message, first, end))
    return tuple(spans)


def _encodable(text: str, name: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError(
            f"{name}: the text holds U+{ord(text[error.start]):04X} at character {error.start:,}", expected="no lone surrogate"
        ) from error
    return text


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "an integer", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
