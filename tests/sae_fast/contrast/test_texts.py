"""Texts and the choice of their tokens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from sae_fast.contrast import read_texts
from sae_fast.contrast.tokens import Reader, TokenChoice, prefix_id
from sae_fast.errors import ArgumentError, FormatError

CHAT = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "Which colour has the sky?"},
    {"role": "assistant", "content": " Blue, the sky "},
]


@pytest.fixture(scope="module")
def chat_tokenizer() -> Any:
    """A SentencePiece-style tokenizer whose chat template writes BOS and trims nothing."""
    return tiny.metaspace_tokenizer(chat_template=tiny.CHAT_TEMPLATE)


def chosen(tokenizer: Any, item: Any, tokens: str, prefix: int | None = None, max_tokens: int = 256) -> str:
    """The text of the chosen tokens of one item."""
    (text,) = read_texts([item])
    found = Reader(tokenizer, TokenChoice.parse(tokens), prefix, max_tokens).read(text)
    return tokenizer.decode(found.ids[found.chosen])


def test_all_is_all_content(chat_tokenizer: Any) -> None:
    """Of a text every token is chosen but BOS; of a chat every message, and nothing of the template."""
    assert chosen(chat_tokenizer, "the old dog", "all", prefix=chat_tokenizer.bos_token_id) == "the old dog"

    words = chosen(chat_tokenizer, {"messages": CHAT}, "all", prefix=chat_tokenizer.bos_token_id)
    assert "Answer in one word." in words
    assert "colour" in words
    assert "Blue" in words
    assert "assistant" not in words


def test_roles(chat_tokenizer: Any) -> None:
    """Only the messages of the named roles are chosen, one or several."""
    assert chosen(chat_tokenizer, {"messages": CHAT}, "role:assistant").strip() == "Blue, the sky"
    both = chosen(chat_tokenizer, {"messages": CHAT}, "role:system, user")
    assert "Answer" in both
    assert "colour" in both
    assert "Blue" not in both


def test_spans_of_a_text(chat_tokenizer: Any) -> None:
    """A token is chosen where it shares a character with a span."""
    text = "Nobody found the red door on day 12."
    span = [text.index("red"), text.index("red") + len("red door")]
    words = chosen(chat_tokenizer, {"text": text, "spans": [span]}, "span")

    assert "red door" in words
    assert len(words) < len(text) / 2


def test_spans_of_a_chat_count_in_the_message(chat_tokenizer: Any) -> None:
    """`[message, first, end]` counts in characters of the content as it was given, also where a template trims it."""
    content = CHAT[2]["content"]
    item = {"messages": CHAT, "spans": [[2, content.index("sky"), content.index("sky") + 3]]}
    trimming = tiny.metaspace_tokenizer(
        chat_template=tiny.CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim")
    )

    for tokenizer in (chat_tokenizer, trimming):
        words = chosen(tokenizer, item, "span")
        assert "sky" in words
        assert "Blue" not in words


def test_last_tokens(chat_tokenizer: Any) -> None:
    """`last:2` is the last two tokens of content, `last` one."""
    ids = chat_tokenizer("one two three", add_special_tokens=False).input_ids
    assert chosen(chat_tokenizer, "one two three", "last:2") == chat_tokenizer.decode(ids[-2:])
    assert chosen(chat_tokenizer, "one two three", "last") == chat_tokenizer.decode(ids[-1:])


def test_one_bos_and_cut_texts(chat_tokenizer: Any) -> None:
    """BOS stands once, is never chosen, and what is too long is cut at the end and counted."""
    bos = chat_tokenizer.bos_token_id
    reader = Reader(chat_tokenizer, TokenChoice.parse("all"), bos, 8)
    for item in ("a long text about seven boats and a clock", {"messages": CHAT}):
        (text,) = read_texts([item])
        tokens = reader.read(text)
        assert (tokens.ids == bos).sum() == 1
        assert tokens.ids[0] == bos
        assert not tokens.chosen[0]
        assert len(tokens.ids) == len(tokens.chosen) == 8
        whole = Reader(chat_tokenizer, TokenChoice.parse("all"), bos, 1000).read(text)
        assert tokens.n_cut == len(whole.ids) - 8
        assert np.array_equal(tokens.ids, whole.ids[:8])


def test_bos_as_the_saes_were_trained(chat_tokenizer: Any) -> None:
    """What is asked for comes first, then the SAEs, then the tokenizer; SAEs that disagree are refused."""
    bos = chat_tokenizer.bos_token_id
    assert prefix_id(chat_tokenizer, False, [True]) is None
    assert prefix_id(chat_tokenizer, None, [None, False]) is None
    assert prefix_id(chat_tokenizer, None, [None]) == bos
    byte_level = tiny.byte_level_tokenizer()
    assert prefix_id(byte_level, None, [None]) is None
    assert prefix_id(byte_level, None, [True]) == byte_level.bos_token_id
    with pytest.raises(ArgumentError, match="trained with a BOS and some without"):
        prefix_id(chat_tokenizer, None, [True, False])


@pytest.mark.parametrize("choice", ["role", "role:", "words", "last:0", "last:x", "all:3", ""])
def test_unknown_choices_are_refused(choice: str) -> None:
    """Anything but the four forms is refused, and they are named."""
    with pytest.raises(ArgumentError, match=r"expected all, role:NAME\[,NAME…\], span, or last:N"):
        TokenChoice.parse(choice)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{text: 1}", r"line 2: not JSON .*, got '\{text: 1\}'"),
        ("3", r"line 2: expected an object .* got an integer"),
        ("{}", r"line 2: expected a key text or messages, got keys \(none\)"),
        ('{"txt": "a"}', r"line 2: expected a key text or messages, got keys txt"),
        ('{"text": null}', r"line 2: text: expected a string, got null"),
        ('{"text": "a", "messages": []}', r"line 2: expected text or messages, got both"),
        ('{"messages": []}', r"line 2: messages: expected a list that is not empty"),
        ('{"messages": [{"role": "user"}]}', r"line 2: message 0: expected"),
        ('{"text": "abc", "spans": [[1, 9]]}', r"line 2: spans: expected 0 <= first < end <= 3 characters, got \[1, 9\]"),
        ('{"text": "abc", "spans": [[0, 1, 2]]}', r"line 2: spans: expected a list of \[first, end\]"),
        (
            '{"messages": [{"role": "u", "content": "a"}], "spans": [[1, 0, 1]]}',
            r"line 2: spans: expected a message from 0 to 0",
        ),
        ('{"text": "a\\ud800"}', r"line 2: the text holds U\+D800 at character 1"),
        ('{"text": "a", "id": [1]}', r"line 2: id: expected a string or an integer, got a list"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    """Each kind of bad line gives one error that names file, line, what was expected and what was there."""
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n", encoding="utf-8")

    with pytest.raises(FormatError, match=r"texts\.jsonl, " + message):
        read_texts(path)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    """A file that is not there, is empty, or is not UTF-8 is named."""
    with pytest.raises(FormatError, match=r"missing\.jsonl: expected a file of JSON lines, got No such file"):
        read_texts(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(FormatError, match="expected at least one text, got none"):
        read_texts(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"text": "é"}'.encode("latin-1"))
    with pytest.raises(FormatError, match="expected UTF-8 text, got another encoding at byte 10"):
        read_texts(tmp_path / "latin.jsonl")


def test_files_and_lists_are_read_alike(tmp_path: Path) -> None:
    """Strings, mappings and JSON lines give the same texts; line separators inside strings are text."""
    items = [{"text": "a\u2028b", "id": 1}, {"messages": CHAT, "id": "two", "note": "not read"}]
    path = tmp_path / "texts.jsonl"
    path.write_text("\ufeff" + "\n\n".join(json.dumps(item, ensure_ascii=False) for item in items), encoding="utf-8")

    from_file, from_list = read_texts(path), read_texts(items)
    assert [(text.id, text.text, text.messages) for text in from_file] == [
        (text.id, text.text, text.messages) for text in from_list
    ]
    assert from_file[0].text == "a\u2028b"
    assert read_texts(["plain"])[0].text == "plain"


def test_what_a_choice_needs(chat_tokenizer: Any) -> None:
    """Roles need messages and spans need marks; the text without them is named."""
    with pytest.raises(FormatError, match=r'texts\[0\]: expected "messages", since tokens are chosen by role'):
        chosen(chat_tokenizer, "plain", "role:user")
    with pytest.raises(FormatError, match=r'texts\[0\]: expected a key "spans"'):
        chosen(chat_tokenizer, "plain", "span")
    with pytest.raises(ArgumentError, match="no chat template"):
        chosen(tiny.byte_level_tokenizer(), {"messages": CHAT}, "all")
