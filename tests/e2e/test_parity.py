"""What is written once in Python and once in JavaScript does the same."""

import random

import pytest
from e2e.conftest import Served
from playwright.sync_api import Page

from sitegen import reader
from sitegen.write import numbers
from sitegen.write.token_text import Entry, Vocabulary, in_list, is_special, opacity, units, visible

pytestmark = pytest.mark.e2e

VALUES = [
    0.0,
    1.0,
    0.5,
    123.4,
    999.4,
    999.6,
    1000.0,
    123456.7,
    0.00123,
    0.000123,
    0.0000123,
    1.5e-9,
    -3.14159,
    -0.00002,
    12.0,
    99.95,
]
ENTRIES: list[Entry] = [
    "a",
    " b",
    "\n",
    "é",
    {"b": "f09f"},
    {"b": "9880"},
    {"b": "e294"},
    {"b": "80"},
    {"b": "20f09f98"},
    {"b": "8061"},
    {"b": "ff"},
]
CALL = """async ([module, name, inputs]) => {
    const found = await import(module);
    return inputs.map((input) => found[name](...input));
}"""


@pytest.fixture
def modules(page: Page, served: Served) -> tuple[Page, str]:
    """A page from which modules can be imported, and their folder."""
    page.goto(served.root)
    script = page.locator("script[type=module]").first.evaluate("script => script.src")
    return page, script.rpartition("/")[0]


def test_numbers_read_alike(modules: tuple[Page, str]) -> None:
    """Both sides round to three digits in the same words."""
    page, folder = modules
    for name, function in (("significant", numbers.significant), ("percent", numbers.percent)):
        shown = page.evaluate(CALL, [f"{folder}/format.js", name, [[value] for value in VALUES]])
        assert [function(value) for value in VALUES] == shown


def test_colours_are_alike(modules: tuple[Page, str]) -> None:
    """Both sides give an activation the same opacity."""
    page, folder = modules
    inputs = [[act, 8.0] for act in (0.01, 0.5, 2.0, 8.0, -8.0)]
    assert page.evaluate(CALL, [f"{folder}/example.js", "opacity", inputs]) == pytest.approx(
        [opacity(*pair) for pair in inputs]
    )


def test_tokens_in_lists_and_special_tokens_are_alike(modules: tuple[Page, str]) -> None:
    """Both sides show the spaces around a word, and take the same tokens for no text."""
    page, folder = modules
    texts = [" a", "a ", "\n  a\tb", "   ", "", "<|endoftext|>", "<s>", "<div>", "[CLS]", "[x]", "a<s>"]
    shown = page.evaluate(CALL, [f"{folder}/tokens.js", "inList", [[text] for text in texts]])
    assert [in_list(text) for text in texts] == shown
    special = page.evaluate(CALL, [f"{folder}/tokens.js", "isSpecial", [[text] for text in texts]])
    assert [is_special(text) for text in texts] == special


def test_white_space_is_shown_alike(modules: tuple[Page, str]) -> None:
    """Both sides show the same signs, up to the line break that the browser adds itself."""
    page, folder = modules
    texts = [" ", "\n    ", "\t", "word", " word", ""]
    shown = page.evaluate(CALL, [f"{folder}/tokens.js", "visible", [[text] for text in texts]])
    assert [visible(text).replace("↵\n", "↵") for text in texts] == shown


def test_split_characters_are_joined_alike(modules: tuple[Page, str]) -> None:
    """Both sides cut random tokens, with parts of characters among them, into the same units."""
    page, folder = modules
    chosen = random.Random(0)
    windows = [[chosen.randrange(len(ENTRIES)) for _ in range(12)] for _ in range(200)]
    shown = page.evaluate(
        """async ([module, windows, entries]) => {
            const { units, Vocabulary } = await import(module);
            const vocabulary = new Vocabulary(entries);
            return windows.map((tokens) => units(tokens, new Map([[3, 1], [4, -2]]), vocabulary));
        }""",
        [f"{folder}/tokens.js", windows, ENTRIES],
    )
    vocabulary = Vocabulary(ENTRIES)
    for tokens, found in zip(windows, shown, strict=True):
        expected = units(tokens, [(3, 1.0), (4, -2.0)], vocabulary)
        assert [[u.text, u.first, u.last, u.act] for u in expected] == [
            [u["text"], u["first"], u["last"], u["act"]] for u in found
        ]


def test_terms_that_scripts_link_to_are_defined(page: Page, served: Served, alive: reader.Feature) -> None:
    """Every definition that a feature page or a table links to exists."""
    slug = alive.sae.info.slug
    page.goto(f"{served.root}definitions.html")
    defined = set(page.locator("[id]").evaluate_all("all => all.map(one => one.id)"))
    for address in (f"sae/{slug}/feature.html?f={alive.id}", f"sae/{slug}/index.html", ""):
        page.goto(served.root + address)
        page.wait_for_load_state("networkidle")
        terms = page.locator("a.term").evaluate_all("all => all.map(a => new URL(a.href).hash.slice(1))")
        assert terms
        assert set(terms) <= defined
