"""The bytes of data files: JSON without absent fields, and gzip that is the same on every day."""

import dataclasses
import math
import struct
import zlib
from typing import Any

import orjson

from sitegen.errors import NonFiniteError

SIGNIFICANT_DIGITS = 5
GZIP_LEVEL = 9
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"  # deflate, no flags, mtime 0, best compression, unknown system


def plain(value: Any) -> Any:
    """Turn records into JSON's types: None fields are left out, floats keep five significant digits.

    Raises:
        NonFiniteError: a float is NaN or infinite, which JSON cannot say.
    """
    kind = type(value)
    if kind is float:
        return rounded(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is list or kind is tuple:
        if value and type(value[0]) is int and kind is list:
            return [v if type(v) is int else plain(v) for v in value]
        return [plain(v) for v in value]
    if kind is dict:
        return {key: plain(v) for key, v in value.items()}
    if dataclasses.is_dataclass(value):
        return {name: plain(v) for name in _field_names(kind) if (v := getattr(value, name)) is not None}
    return rounded(float(value)) if isinstance(value, float) else int(value)


def rounded(value: float) -> float:
    """Round to `SIGNIFICANT_DIGITS` significant digits."""
    if not math.isfinite(value):
        raise NonFiniteError(f"A value of a record is {value}; every number of a site must be finite.")
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def to_json(value: Any) -> bytes:
    """Serialise records, or lists and dicts of them."""
    return orjson.dumps(plain(value))


def gzip(data: bytes) -> bytes:
    """Compress; the same input gives the same bytes, since no time and no file name are stored."""
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = compressor.compress(data) + compressor.flush()
    return _GZIP_HEADER + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


_names: dict[type, tuple[str, ...]] = {}


def _field_names(kind: type[Any]) -> tuple[str, ...]:
    if kind not in _names:
        _names[kind] = tuple(field.name for field in dataclasses.fields(kind))
    return _names[kind]
