"""A visitor's way through the site."""

import re

import pytest
from e2e.conftest import Served
from playwright.sync_api import Page, expect

from sitegen import reader
from sitegen.write.token_text import in_list

pytestmark = pytest.mark.e2e


def feature_url(served: Served, feature: reader.Feature) -> str:
    """Return a feature's permalink."""
    return f"{served.root}sae/{feature.sae.info.slug}/feature.html?f={feature.id}"


def open_feature(page: Page, served: Served, feature: reader.Feature) -> None:
    """Open a feature and wait until it is shown."""
    page.goto(feature_url(served, feature))
    expect_shown(page, feature.id)


def expect_shown(page: Page, feature: int) -> None:
    """Wait until a feature is shown."""
    expect(page.locator("body")).to_have_attribute("data-shown", str(feature))


def plain(label: str) -> str:
    """Return a label as it reads on a page: quoted texts are code, with the spaces at their ends shown."""
    parts = label.split("`")
    return " ".join("".join(in_list(part) if i % 2 else part for i, part in enumerate(parts)).split())


def test_home_leads_to_an_sae_and_its_table_to_a_feature(page: Page, served: Served, sae: reader.Sae) -> None:
    """From the start page two clicks lead to a feature, whose head shows its label and density."""
    page.goto(served.root)
    page.get_by_role("link", name=sae.info.name, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(sae.info.name)
    row = page.locator("tbody:not(.spacer) tr:not(.dead)").first
    feature = sae[int(row.locator(".id").inner_text())]
    row.locator("td.label").click()

    expect_shown(page, feature.id)
    expected = plain(feature.label) if feature.label else re.compile("No simple pattern|Too few")
    expect(page.get_by_role("heading", level=1)).to_have_text(expected)
    assert str(feature.record.density) == page.locator(".trust b[title]", has_text="%").first.get_attribute("title")


def test_popup_gives_the_exact_values_of_a_token(page: Page, served: Served, alive: reader.Feature) -> None:
    """Hovering over the peak of the first example shows its stored activation, token id, position and document."""
    open_feature(page, served, alive)
    example = alive.examples[0]
    page.locator(".example .peak").first.hover()

    popup = page.locator("#token-popup")
    expect(popup).to_be_visible()
    shown = popup.inner_text()
    act = dict(example.acts)[example.peak]
    assert f"{act:g}" in shown or str(act) in shown
    assert str(example.tokens[example.peak]) in shown
    assert f"{example.start + example.peak:,}" in shown
    assert alive.document(example) in shown
    assert page.locator(".activations .marker").get_attribute("visibility") == "visible"


def test_every_activation_of_an_example_is_marked(page: Page, served: Served, alive: reader.Feature) -> None:
    """The tokens coloured in the first example are those with an activation, the strongest the most opaque."""
    open_feature(page, served, alive)
    first = page.locator(".example").first
    opacities = first.locator(".t.on").evaluate_all("all => all.map(t => Number(t.style.getPropertyValue('--a')))")

    assert 0 < len(opacities) <= len(alive.examples[0].acts)
    assert max(opacities) == pytest.approx(1, abs=1e-3)


def test_next_and_previous_change_the_feature_without_a_reload(page: Page, served: Served, alive: reader.Feature) -> None:
    """The buttons and the back button change feature, title and address in place, and keep the scroll position."""
    open_feature(page, served, alive)
    page.evaluate("window.sameDocument = true")
    page.evaluate("scrollTo(0, 60)")
    page.get_by_label("Next feature").click()
    expect_shown(page, alive.id + 1)
    assert page.url.endswith(f"?f={alive.id + 1}")
    assert f"· {alive.id + 1} ·" in page.title()
    assert page.evaluate("scrollY") == 60

    page.wait_for_timeout(1100)
    page.get_by_label("Previous feature").click()
    expect_shown(page, alive.id)
    page.go_back()
    expect_shown(page, alive.id + 1)
    assert page.evaluate("window.sameDocument") is True


def test_search_finds_a_label_on_the_start_page(page: Page, served: Served, alive: reader.Feature) -> None:
    """Typing a label on the start page lists its feature first or among equals, and Enter opens one."""
    page.goto(served.root)
    box = page.get_by_role("combobox")
    box.fill(alive.label)
    options = page.get_by_role("option")
    expect(options.first).to_be_visible()
    assert any(f"f={alive.id}" in (link or "") for link in options.evaluate_all("all => all.map(a => a.href)"))

    box.press("Enter")
    page.wait_for_url(re.compile(r"feature\.html\?f=\d+$"))
    slug, found = re.findall(r"/sae/([^/]+)/feature\.html\?f=(\d+)$", page.url)[0]
    opened = alive.sae.site[slug][int(found)]
    expect(page.get_by_role("heading", level=1)).to_have_text(plain(opened.label))
    # Labels that differ in spaces alone mean the same to a search.
    assert opened.label.replace("`", "").split() == alive.label.replace("`", "").split()


def test_permalink_and_reload_show_the_same_feature(page: Page, served: Served, alive: reader.Feature) -> None:
    """The copied link, opened elsewhere, and a reload show the same feature."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_feature(page, served, alive)
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == feature_url(served, alive)

    other = page.context.new_page()
    other.goto(link)
    expect_shown(other, alive.id)
    other.reload()
    expect_shown(other, alive.id)
    expect(other.get_by_role("heading", level=1)).to_have_text(plain(alive.label))


def test_stars_are_kept_and_listed(page: Page, served: Served, alive: reader.Feature) -> None:
    """A starred feature is starred after a reload and listed on the start page."""
    open_feature(page, served, alive)
    page.get_by_label("Star this feature").click()
    page.reload()
    expect(page.get_by_label("Star this feature")).to_have_attribute("aria-pressed", "true")
    page.goto(served.root)
    expect(page.locator("#starred a")).to_have_count(1)


def test_neighbours_link_within_the_page(page: Page, served: Served, alive: reader.Feature) -> None:
    """A near feature's link shows its label, which came with the same file, and opens it in place."""
    open_feature(page, served, alive)
    neighbour = (alive.record.neighbours or [])[0][0]
    link = page.locator(".neighbours li a").first
    label = alive.sae[neighbour].label
    expect(link).to_contain_text(plain(label) if label else "no label")
    page.evaluate("window.sameDocument = true")
    link.click()
    expect_shown(page, neighbour)
    assert page.evaluate("window.sameDocument") is True


def test_full_view_with_line_breaks_shows_the_text_as_it_is(page: Page, served: Served, alive: reader.Feature) -> None:
    """With line breaks on, the first example reads as the text that its tokens spell."""
    open_feature(page, served, alive)
    page.get_by_role("button", name="line breaks").click()
    first = page.locator(".example .text").first
    shown = "".join(first.inner_text().split())
    spelled = "".join(alive.text(alive.examples[0]).split())
    signs = str.maketrans("", "", "␣↵⇥")
    assert shown.translate(signs) == spelled.translate(signs)
    page.reload()
    expect(page.get_by_role("button", name="line breaks")).to_have_attribute("aria-pressed", "true")
