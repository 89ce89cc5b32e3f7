"""Joining characters that are split over tokens."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegen.write.token_text import Entry, Vocabulary, opacity, units, visible


def entries_of(data: bytes, cuts: list[int]) -> list[Entry]:
    """Cut bytes into tokens, each as a vocabulary would have it."""
    edges = sorted({0, len(data), *(cut for cut in cuts if 0 < cut < len(data))})
    found: list[Entry] = []
    for begin, end in itertools.pairwise(edges):
        try:
            found.append(data[begin:end].decode())
        except UnicodeDecodeError:
            found.append({"b": data[begin:end].hex()})
    return found


@given(st.text(min_size=1, max_size=20), st.lists(st.integers(0, 80), max_size=20))
def test_joined_units_spell_the_text(text: str, cuts: list[int]) -> None:
    """However a text is cut into tokens, the units spell it, and every token is in exactly one, in order."""
    entries = entries_of(text.encode(), cuts)
    found = units(range(len(entries)), [], Vocabulary(entries))
    assert "".join(unit.text for unit in found) == text
    assert [offset for unit in found for offset in range(unit.first, unit.last + 1)] == list(range(len(entries)))


@given(st.lists(st.sampled_from(["a", {"b": "f09f"}, {"b": "9880"}, {"b": "80"}, {"b": "ff"}, {"b": "20e2"}]), max_size=12))
def test_any_bytes_give_units(entries: list[Entry]) -> None:
    """Bytes that are no text at all still end up in exactly one unit each."""
    found = units(range(len(entries)), [], Vocabulary(entries))
    assert [offset for unit in found for offset in range(unit.first, unit.last + 1)] == list(range(len(entries)))


def test_a_split_emoji_is_one_unit_with_its_strongest_activation() -> None:
    """Three tokens of one emoji show as one character, as active as the strongest of them."""
    vocabulary = Vocabulary(["hi ", {"b": "f0"}, {"b": "9f98"}, {"b": "80"}, "!"])
    found = units([0, 1, 2, 3, 4], [(1, 0.5), (3, -2.0)], vocabulary)
    assert [(unit.text, unit.first, unit.last, unit.act) for unit in found] == [
        ("hi ", 0, 0, 0),
        ("😀", 1, 3, -2.0),
        ("!", 4, 4, 0),
    ]


def test_unknown_tokens_show_their_id() -> None:
    """A token that the site has no text for is named by its id."""
    assert Vocabulary(["a"]).text(9) == "⟨9⟩"
    assert Vocabulary(None, {"255999": "z"}).text(255_999) == "z"
    assert Vocabulary().text(4) == "⟨4⟩"


@pytest.mark.parametrize(
    ("text", "expected"), [(" ", "␣"), ("\n  ", "↵\n␣␣"), ("\t", "⇥"), (" a", " a"), ("", ""), ("\xa0", "\xa0")]
)
def test_white_space_alone_is_made_visible(text: str, expected: str) -> None:
    """Only a token that is nothing but white space is shown as signs."""
    assert visible(text) == expected


def test_opacity_rises_with_the_activation() -> None:
    """Nothing is transparent but zero; the maximum is opaque; a negative value counts by its size."""
    shades = [opacity(act, 10.0) for act in (0.0, 1e-6, 1.0, 5.0, 10.0)]
    assert shades == sorted(shades)
    assert shades[0] == 0
    assert shades[1] >= 0.05
    assert shades[-1] == 1
    assert opacity(-5.0, 10.0) == shades[3]
    assert opacity(1.0, 0.0) == 0
