"""The table of all features of an SAE."""

from collections.abc import Callable

import pytest
from e2e.conftest import Served
from playwright.sync_api import Page, expect

from sitegen import reader

pytestmark = pytest.mark.e2e

ROWS = "tbody:not(.spacer) tr"


@pytest.fixture
def table(page: Page, served: Served, sae: reader.Sae) -> Page:
    """The page of the first SAE, its table shown."""
    page.goto(f"{served.root}sae/{sae.info.slug}/")
    page.locator(ROWS).first.wait_for()
    return page


def first_ids(page: Page) -> list[int]:
    """Return the ids of the first ten rows."""
    return [int(text) for text in page.locator(f"{ROWS} td.id").all_inner_texts()[:10]]


def test_only_rows_in_view_are_drawn(table: Page, sae: reader.Sae) -> None:
    """However many features there are, the document holds few rows; scrolling to the end shows the last feature."""
    assert table.locator(ROWS).count() < min(len(sae), 80)
    assert table.get_by_role("table").get_attribute("aria-rowcount") == str(len(sae) + 1)
    table.locator(".table-view").evaluate("view => view.scrollTo(0, view.scrollHeight)")
    expect(table.locator(f"{ROWS} td.id").last).to_have_text(str(sae.table.id[-1]))


def test_sorting_follows_the_column(table: Page, sae: reader.Sae) -> None:
    """A click on a heading sorts by the exact values, a second one the other way round; the address keeps it."""
    density = dict(zip(sae.table.id, sae.table.density, strict=True))
    expected = sorted(density, key=lambda feature: (-density[feature], feature))
    table.get_by_role("button", name="density", exact=True).click()
    assert first_ids(table) == expected[:10]
    table.get_by_role("button", name="density", exact=True).click()
    assert first_ids(table) == sorted(density, key=lambda feature: (density[feature], feature))[:10]
    table.reload()
    table.locator(ROWS).first.wait_for()
    assert first_ids(table)[0] == min(density, key=lambda feature: (density[feature], feature))
    assert "sort=density" in table.url


def test_filters_leave_what_they_say(table: Page, sae: reader.Sae) -> None:
    """Filters by label, by density and by kind leave exactly the features that fit."""
    word = next(text for text in sae.table.label if text).split()[0]
    table.get_by_label("Label or token").fill(word)
    matches = sum(word.lower() in label.lower() for label in sae.table.label)
    found = int(table.locator(".found").inner_text().split()[0].replace(",", ""))
    assert matches <= found <= len(sae)

    table.get_by_label("Label or token").fill("")
    table.get_by_label("Density from").fill("0.1%")
    n = sum(density >= 0.001 for density in sae.table.density)
    expect(table.locator(".found")).to_contain_text(f"{n:,} of" if n < len(sae) else f"{n:,}")

    table.get_by_label("Density from").fill("")
    table.locator("[name=show]").select_option("dead")
    dead = sum(density == 0 for density in sae.table.density)
    expect(table.locator(".found")).to_contain_text(f"{dead:,} of" if dead < len(sae) else f"{dead:,}")


def test_jump_and_random_open_features(table: Page, sae: reader.Sae) -> None:
    """An id and Enter open that feature; the random button opens an active one."""
    last = sae.table.id[-1]
    table.get_by_label("Go to id").fill(str(last))
    table.get_by_label("Go to id").press("Enter")
    expect(table.locator("body")).to_have_attribute("data-shown", str(last))
    table.go_back()
    table.get_by_role("button", name="Random feature").click()
    table.wait_for_url("**/feature.html?f=*")
    assert sae[int(table.url.rpartition("=")[2])].record.density > 0


def test_essentials_work_without_javascript(new_page: Callable[..., Page], served: Served, sae: reader.Sae) -> None:
    """With scripts off, the start page and the SAE page show what the SAEs are and how good, and link to features and data."""
    page = new_page(java_script_enabled=False)
    page.goto(served.root)
    expect(page.get_by_role("link", name=sae.info.name, exact=True)).to_be_visible()
    expect(page.locator(".card").first).to_contain_text("dead")
    page.get_by_role("link", name=sae.info.name, exact=True).click()
    expect(page.locator(".density-bars")).to_be_visible()
    expect(page.get_by_role("link", name="features.json.gz")).to_be_visible()
    if sae.info.featured:
        expect(page.locator(".featured a").first).to_be_visible()
