"""Configuration of published formats: every value is checked for its type when it is read, and every name for sense."""

import math
import reprlib
from collections.abc import Mapping
from typing import Any, TypeVar

from sae_fast.config import SAEConfig
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.formats._description import Given

T = TypeVar("T")

LARGEST = 1 << 63
"""Numbers of configurations lie below this."""

_CATALOGUE_FIELDS = {"hook_name": str, "hook_name_out": str, "model_name": str, "prepend_bos": bool, "context_size": int}


class Settings:
    """The mapping in a configuration file. Absent and null values read as None, values of a wrong type raise `FormatError`."""

    def __init__(self, place: str, values: Mapping[str, Any]) -> None:
        self.place, self.values = place, values

    def integer(self, name: str) -> int | None:
        """An integer (3 or 3.0)."""
        value = self.number(name)
        if value is not None and value != int(value):
            raise self._wrong(name, "an integer")
        return None if value is None else int(value)

    def count(self, name: str, of: int) -> int:
        """`of` times the factor that is read: the number of features from an expansion factor."""
        n = of * self.needed(name, self.number(name))
        if not 1 <= n < LARGEST:
            raise self._wrong(name, f"a factor of {of} that makes a number of features")
        return round(n)

    def number(self, name: str) -> float | None:
        """A number, finite and not beyond `LARGEST`; an integer stays one."""
        value = self.values.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST):
            raise self._wrong(name, "a number")
        return value

    def text(self, name: str) -> str | None:
        """A text that is not empty."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, "a text")
        return value or None

    def flag(self, name: str) -> bool:
        """True or false; false where absent."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return bool(value)

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A list of integers."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            raise self._wrong(name, "a list of integers")
        return tuple(value)

    def texts(self, name: str) -> tuple[str, ...] | None:
        """A list of texts."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of texts")
        return tuple(value)

    def section(self, name: str) -> "Settings":
        """A mapping inside; empty where absent."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise self._wrong(name, "a mapping")
        return Settings(f"{self.place}: {name}", value or {})

    def needed(self, name: str, value: T | None) -> T:
        """`value`, which was read under `name`. Raises `FormatError` for None."""
        if value is None:
            raise FormatError(f"{self.place}: {name} is missing")
        return value

    def choice(self, name: str, *allowed: str) -> str | None:
        """A text out of a few."""
        value = self.text(name)
        if value is not None and value not in allowed:
            raise self._wrong(name, f"one of {', '.join(allowed)}")
        return value

    def _wrong(self, name: str, expected: str) -> FormatError:
        return FormatError(f"{self.place}: {name}", expected=expected, got=_short(self.values[name]))


def make_config(place: str, given: Given, **fields: Any) -> SAEConfig:
    """The configuration of what lies at `place`; a catalogue fills in what the files do not say, or only let one assume.

    Raises `FormatError` where the values do not make an SAE.
    """
    metadata = dict(fields["metadata"])
    for name, kind in _CATALOGUE_FIELDS.items():
        value = given.metadata.get(name)
        if not isinstance(value, kind) or (name == "hook_name_out" and not fields.get("transcoder")):
            continue
        if name == "hook_name" and fields.get("hook_widths"):
            metadata.setdefault(name, value)
            continue
        assumed = name == "hook_name" and metadata.pop("hook_name_assumed", None) is not None
        if assumed or fields.get(name) is None:
            fields[name] = value
    if metadata.get("training_architecture") == "crosscoder" and not fields.get("hook_names"):
        # Crosscoders were once written without fields of their own, in any format.
        noted = Settings(place, {name: metadata.pop(name, None) for name in ("hook_names", "hook_widths")})
        fields |= {"hook_names": noted.texts("hook_names") or (), "hook_widths": noted.integers("hook_widths") or ()}
    try:
        return SAEConfig(**fields | {"metadata": metadata})
    except ArgumentError as error:
        raise FormatError(f"{place}: what it says does not make an SAE ({error})") from error


def factor_of(d_model: int, average_norm: float) -> float | None:
    """√d_model / average norm, by which training scaled activations; None for a norm that cannot be one."""
    if not math.isfinite(average_norm) or average_norm <= 0 or d_model < 1:
        return None
    factor = math.sqrt(d_model) / average_norm
    return factor if 0 < factor < math.inf else None


def _short(value: object) -> str:
    return reprlib.repr(value)
