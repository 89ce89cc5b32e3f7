"""JSON and gzip of data files."""

import gzip
import json
import math

import pytest

from sitegen.errors import NonFiniteError
from sitegen.records import Dead, Example, FeatureRecord, Label
from sitegen.write import encode


def test_absent_fields_are_left_out() -> None:
    """A record holds only what is known; tuples become lists."""
    record = FeatureRecord(id=3, density=0.5, label=Label("x", "rule"), neighbours=[(1, 0.25)], dead=Dead(7))
    expected = {
        "id": 3,
        "density": 0.5,
        "label": {"text": "x", "source": "rule"},
        "neighbours": [[1, 0.25]],
        "dead": {"n_tokens": 7},
    }
    assert json.loads(encode.to_json(record)) == expected


def test_none_within_a_column_is_kept() -> None:
    """None in a list is a value: columns keep their length."""
    assert encode.plain([None, 0.5]) == [None, 0.5]


@pytest.mark.parametrize(
    ("value", "expected"), [(0.1234567, 0.12346), (123456.7, 123460.0), (-1e-7 / 3, -3.3333e-8), (0.0, 0.0)]
)
def test_floats_keep_five_significant_digits(value: float, expected: float) -> None:
    """Rounding is relative, so small values stay as exact as large ones, and integers are never touched."""
    assert encode.plain([value]) == [expected]
    assert encode.plain([255_999, 1_234_567]) == [255_999, 1_234_567]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_cannot_say_are_an_error(value: float) -> None:
    """NaN and infinity never reach a file, however deep they lie."""
    example = Example(document=0, start=0, peak=0, tokens=[1], acts=[(0, value)])
    with pytest.raises(NonFiniteError, match="finite"):
        encode.to_json([example])


def test_gzip_is_the_same_every_time_and_standard() -> None:
    """The bytes depend on the content alone, hold no time, and any gzip opens them."""
    data = b'{"a": 1}' * 1000
    packed = encode.gzip(data)
    assert packed == encode.gzip(data)
    assert gzip.decompress(packed) == data
    assert packed[4:8] == b"\0\0\0\0"
    assert gzip.decompress(encode.gzip(b"")) == b""
