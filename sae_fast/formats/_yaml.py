"""The YAML of published SAEs: mappings of plain values, read without PyYAML; anything beyond them needs it."""

import re
from typing import Any

from sae_fast.errors import FormatError, MissingExtraError
from sae_fast.formats._settings import Settings
from sae_fast.sources import Folder

_LINE = re.compile(r"( *)([\w.\- ]*?\w) *:(?: +(.*))?")
_ITEM = re.compile(r" *- +(.*)")
_INTEGER = re.compile(r"[-+]?(0|[1-9]\d*)")
_FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]\d+)?")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_MOST_DEPTH = 20
_NOT_PLAIN = re.compile(r"[^\S \n]|[\x00-\x09\x0b-\x1f\x7f-\x9f]")
"""Tabs, other spaces and control characters, on which YAML has rules of its own."""


def read_yaml(folder: Folder, name: str) -> Settings:
    """The mapping in a YAML file.

    Raises:
        MissingExtraError: it holds more than mappings and lists of plain values, and PyYAML is not installed.
        FormatError: it is not YAML, or no mapping.
    """
    place = folder.place(name)
    try:
        text = folder.read(name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{place}: not a text in UTF-8 ({error})") from error
    content = _plain(text)
    if content is None:
        content = _with_pyyaml(text, place)
    if not isinstance(content, dict):
        raise FormatError(place, expected="a YAML mapping", got=type(content).__name__)
    return Settings(place, content)


def _plain(text: str) -> dict[str, Any] | None:
    """Nested mappings and lists of plain values; None where the text is more than that."""
    if _NOT_PLAIN.search(text):
        return None
    top: dict[str, Any] = {}
    levels: list[tuple[int, dict[str, Any]]] = [(0, top)]
    opened: tuple[dict[str, Any], str] | None = None
    for raw in text.split("\n"):
        line = raw.rstrip(" ")
        if not line or line.lstrip().startswith("#"):
            continue
        if item := _ITEM.fullmatch(line):
            value = _scalar(item[1])
            if opened is None or value is _MORE:
                return None
            mapping, key = opened
            mapping[key] = [*(mapping[key] or []), value]
        elif pair := _LINE.fullmatch(line):
            value = _scalar(pair[3] or "")
            here = _mapping_at(len(pair[1]), levels, opened)
            if here is None or value is _MORE or pair[2] in here:
                return None
            here[pair[2]] = value
            opened = (here, pair[2]) if pair[3] is None else None
        else:
            return None
    return top


def _mapping_at(
    indent: int, levels: list[tuple[int, dict[str, Any]]], opened: tuple[dict[str, Any], str] | None
) -> dict[str, Any] | None:
    """The mapping that a line of this indentation belongs to, made below the key just read if need be; None for none."""
    if indent > levels[-1][0]:
        if opened is None or opened[0][opened[1]] is not None or len(levels) > _MOST_DEPTH:
            return None
        inner: dict[str, Any] = {}
        opened[0][opened[1]] = inner
        levels.append((indent, inner))
    while levels[-1][0] > indent:
        levels.pop()
    return levels[-1][1] if levels[-1][0] == indent else None


_MORE = object()
"""A value that is not plain."""


def _scalar(text: str) -> Any:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" and not set(text[1:-1]) & {"\\", text[0]}:
        return text[1:-1]
    text = re.sub(r"\s+#.*", "", text)
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) <= 18 else _MORE
    if _FLOAT.fullmatch(text):
        return float(text)
    plain = re.fullmatch(r"[A-Za-z/][\w./\-@+ ]*", text) and text.lower() not in ("yes", "no", "on", "off", "y", "n")
    return text if plain else _MORE


def _with_pyyaml(text: str, place: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError(
            f"{place}: this YAML is more than mappings of plain values",
            advice="Install PyYAML: pip install 'sae-fast[formats]'",
        ) from error
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise FormatError(f"{place}: not valid YAML ({str(error).splitlines()[0] if str(error) else error})") from error
