"""Themes, widths, paper, and people who do not see the page."""

import json
from collections.abc import Callable

import pytest
from e2e.conftest import Served
from e2e.screenshots import addresses, settle
from e2e.test_journey import open_feature
from playwright.sync_api import Page, expect

from sitegen import reader
from sitegen.write import numbers

pytestmark = pytest.mark.e2e

BACKGROUND = "getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0)"


def test_themes_follow_the_system_and_the_switch(new_page: Callable[..., Page], served: Served) -> None:
    """The page is dark where the system is; the switch overrides that and is kept."""
    page = new_page(color_scheme="dark")
    page.goto(served.root)
    assert page.evaluate(BACKGROUND) < 150
    page.get_by_label("Theme:").click()
    assert page.evaluate(BACKGROUND) > 650
    page.reload()
    assert page.evaluate(BACKGROUND) > 650


def test_nothing_is_wider_than_a_phone(new_page: Callable[..., Page], served: Served, site: reader.Site) -> None:
    """No page scrolls sideways at 390 pixels, and the examples stand below the statistics."""
    page = new_page(viewport={"width": 390, "height": 844}, has_touch=True)
    for address in addresses(site.root).values():
        page.goto(served.root + address)
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, address
    open_feature(page, served, site[next(iter(site))][site.manifest.saes[0].featured[0]])
    rail, examples = page.locator(".rail").bounding_box(), page.locator(".examples").bounding_box()
    assert rail is not None
    assert examples is not None
    assert examples["y"] >= rail["y"] + rail["height"] - 1


def test_a_tap_opens_the_popup_and_a_swipe_changes_the_feature(
    new_page: Callable[..., Page], served: Served, alive: reader.Feature
) -> None:
    """On a touch screen a tap on a token shows its values; a swipe to the left goes on to the next feature."""
    page = new_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    open_feature(page, served, alive)
    page.locator(".example .peak").first.tap()
    expect(page.locator("#token-popup")).to_be_visible()
    page.evaluate(
        """() => {
            const touch = (x) => new Touch({ identifier: 1, target: document.body, clientX: x, clientY: 400 });
            const send = (type, touches, changed) => document.querySelector("#content")
                .dispatchEvent(new TouchEvent(type, { touches, changedTouches: changed, bubbles: true }));
            send("touchstart", [touch(300)], [touch(300)]);
            send("touchend", [], [touch(90)]);
        }"""
    )
    expect(page.locator("body")).to_have_attribute("data-shown", str(alive.id + 1))


def test_paper_shows_the_feature_alone(page: Page, served: Served, alive: reader.Feature) -> None:
    """In print the statistics and the examples stay, and everything to be clicked goes."""
    open_feature(page, served, alive)
    page.emulate_media(media="print")
    expect(page.locator(".rail")).to_be_visible()
    expect(page.locator(".example").first).to_be_visible()
    for gone in (".top", ".toolbar", ".actions"):
        expect(page.locator(gone)).to_be_hidden()


def test_a_feature_change_is_announced(page: Page, served: Served, alive: reader.Feature) -> None:
    """A live region names the feature that is shown."""
    open_feature(page, served, alive)
    expect(page.get_by_role("status").first).to_contain_text(f"Feature {alive.id}")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    new_page: Callable[..., Page], served: Served, site: reader.Site, axe: str, theme: str
) -> None:
    """axe-core reports no serious or critical violation on the main pages, with the search results and a pop-up open."""
    page = new_page(color_scheme=theme)
    for name, address in addresses(site.root).items():
        page.goto(served.root + address)
        settle(page)
        if name == "home":
            page.get_by_role("combobox").fill("a")
            page.get_by_role("option").first.wait_for()
        if name == "feature":
            page.locator(".example .peak").first.focus()
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
        serious = [
            {
                "rule": violation["id"],
                "nodes": [node["html"][:200] + str(node["any"][:1])[:300] for node in violation["nodes"][:3]],
            }
            for violation in found
            if violation["impact"] in ("serious", "critical")
        ]
        assert serious == [], f"{name}: {json.dumps(serious, indent=1)}"


def test_a_crosscoder_shows_its_decoder_by_hook(page: Page, served: Served, site: reader.Site) -> None:
    """A column a hook, as high as its norm, which with the share is what the column says."""
    sae = next(site[slug] for slug in site if site[slug].info.decoder_hooks)
    feature = sae[1]
    norms = feature.record.decoder_norms or []
    page.goto(f"{served.root}sae/{sae.info.slug}/feature.html?f=1")
    bars = page.locator(".decoder-norms rect")

    expect(bars).to_have_count(len(sae.info.decoder_hooks))
    heights = [float(bars.nth(i).get_attribute("height") or 0) for i in range(len(norms))]
    assert heights == pytest.approx([64 * norm / max(norms) for norm in norms])
    share = numbers.percent(norms[3] / sum(norms))
    about = f"{sae.info.decoder_hooks[3]}: norm {numbers.significant(norms[3])}, {share} of the sum"
    expect(bars.nth(3).locator("title")).to_have_text(about)
    expect(page.locator(".decoder-norms")).to_contain_text("layer 3")
    page.goto(f"{served.root}index.html")
    expect(page.locator(".cards")).to_contain_text("blocks.0–3.hook_resid_post · batchtopk crosscoder")
