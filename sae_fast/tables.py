"""Tables of TOML files as frozen dataclasses: what is not understood is refused, with the nearest valid name."""

import types
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sae_fast.errors import ConfigError, nearest

T = TypeVar("T")


def parse_table(table: type[T], content: Any, where: str) -> T:
    """`content`, a parsed TOML table called `where` in messages, as the frozen dataclass `table`.

    Raises `ConfigError` for anything that is not a table, an unknown key (with the nearest valid one), a missing key, a value
    of another type, or what the dataclass itself objects to.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected a table, got {_describe(content)}.")
    valid = {option.name: option for option in fields(table)}  # type: ignore[arg-type]
    for key in content:
        if key not in valid:
            raise ConfigError(f"{where}: unknown key {key!r}.{nearest(key, valid)} Valid: {', '.join(valid)}.")
    for name, option in valid.items():
        if option.default is MISSING and option.default_factory is MISSING and name not in content:
            raise ConfigError(f"{where}: {name!r} is missing.")
    types_of = get_type_hints(table)
    return table(**{key: _convert(value, types_of[key], f"{where} {key}") for key, value in content.items()})


def _convert(value: Any, expected: Any, where: str) -> Any:
    """Return `value` as the type `expected`, or raise ConfigError that says what was expected and what was there."""
    for option in get_args(expected) if get_origin(expected) in (Union, types.UnionType) else (expected,):
        if get_origin(option) is Literal:
            if value in get_args(option):
                return value
        elif get_origin(option) is tuple:
            if isinstance(value, list) and all(_is_entry(entry, get_args(option)[0]) for entry in value):
                return tuple(value)
        elif option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        elif isinstance(value, get_origin(option) or option) and not (isinstance(value, bool) and option is not bool):
            return value
    raise ConfigError(f"{where}: expected {_expectation(expected)}, got {_describe(value)}.")


def _is_entry(value: Any, expected: type) -> bool:
    """Of an array; whole numbers are numbers too."""
    return isinstance(value, (int, float) if expected is float else expected) and not isinstance(value, bool)


def _expectation(expected: Any) -> str:
    if get_origin(expected) in (Union, types.UnionType):
        return " or ".join(_expectation(option) for option in get_args(expected) if option is not type(None))
    if get_origin(expected) is Literal:
        return " or ".join(repr(value) for value in get_args(expected))
    if get_origin(expected) is tuple:
        return "an array of numbers" if get_args(expected)[0] is float else "an array of strings"
    names = {str: "a string", int: "an integer", float: "a number", bool: "true or false", dict: "a table"}
    return names.get(get_origin(expected) or expected, str(expected))


def _describe(value: Any) -> str:
    names = {str: "a string", int: "an integer", float: "a number", bool: "a boolean", dict: "a table", list: "an array"}
    kind = names.get(type(value), type(value).__name__)
    return f"{kind} ({value!r})" if isinstance(value, str | int | float) else kind


def at_least(table: str, key: str, value: float | None, least: float) -> None:
    """Raise `ConfigError` where a value is given and is below `least`."""
    if value is not None and value < least:
        raise ConfigError(f"{table} {key}: expected at least {least}, got {value}.")
