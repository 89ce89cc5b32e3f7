"""Everything can be done from the keyboard."""

import pytest
from e2e.conftest import Served
from e2e.test_journey import expect_shown, open_feature
from playwright.sync_api import Page, expect

from sitegen import reader

pytestmark = pytest.mark.e2e


def test_j_k_r_and_g_change_the_feature(page: Page, served: Served, alive: reader.Feature) -> None:
    """J and k go on and back, also many times at once; g takes an id; r goes somewhere active."""
    open_feature(page, served, alive)
    for _ in range(5):
        page.keyboard.press("j")
    expect_shown(page, alive.id + 5)
    page.keyboard.press("k")
    expect_shown(page, alive.id + 4)
    page.keyboard.press("g")
    page.keyboard.type(str(alive.id))
    page.keyboard.press("Enter")
    expect_shown(page, alive.id)
    page.keyboard.press("r")
    expect(page.locator("body")).not_to_have_attribute("data-shown", "")


def test_slash_focuses_search_and_arrows_choose(page: Page, served: Served, alive: reader.Feature) -> None:
    """After / one can type, choose with the arrows, and open with Enter; Escape closes."""
    open_feature(page, served, alive)
    page.keyboard.press("/")
    box = page.get_by_role("combobox")
    expect(box).to_be_focused()
    page.keyboard.type(alive.label[:4])
    expect(page.get_by_role("option").first).to_be_visible()
    page.keyboard.press("ArrowDown")
    selected = page.locator('[role="option"][aria-selected="true"]')
    expect(selected).to_have_count(1)
    target = int((selected.get_attribute("href") or "").rpartition("=")[2])
    page.keyboard.press("Enter")
    expect_shown(page, target)
    expect(page.get_by_role("listbox")).to_be_hidden()


def test_groups_star_and_help(page: Page, served: Served, alive: reader.Feature) -> None:
    """] moves on to the next group and [ back, s stars, ? opens help, which Escape closes."""
    page.set_viewport_size({"width": 1400, "height": 420})
    open_feature(page, served, alive)
    page.keyboard.press("]")
    expect(page.locator("#group-1 h2")).to_be_focused()
    page.keyboard.press("]")
    expect(page.locator("#group-2 h2")).to_be_focused()
    page.keyboard.press("[")
    expect(page.locator("#group-1 h2")).to_be_focused()
    page.keyboard.press("s")
    expect(page.get_by_label("Star this feature")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_tokens_can_be_read_by_keyboard(page: Page, served: Served, alive: reader.Feature) -> None:
    """The peak takes the focus and opens the pop-up; the arrows go to the other active tokens of the example."""
    open_feature(page, served, alive)
    example = page.locator(".example").filter(has=page.locator(".t.on:not(.peak)")).first
    example.locator(".peak").focus()
    expect(page.locator("#token-popup")).to_be_visible()
    before = page.locator("#token-popup").inner_text()
    page.keyboard.press("ArrowRight")
    if example.locator(".peak").evaluate("peak => peak === document.activeElement"):
        page.keyboard.press("ArrowLeft")
    assert page.locator("#token-popup").inner_text() != before
    page.keyboard.press("Escape")
    expect(page.locator("#token-popup")).to_be_hidden()
