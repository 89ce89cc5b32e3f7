"""What is fetched, and what happens when that goes wrong."""

import gzip
from collections.abc import Callable

import pytest
from e2e.conftest import Served
from e2e.test_journey import expect_shown, feature_url, open_feature
from playwright.sync_api import Page, Route, expect

from sitegen import reader
from sitegen.write.shards import COLD_VIEW_BYTES, COLD_VIEW_REQUESTS

pytestmark = pytest.mark.e2e


def test_a_cold_view_stays_within_its_budget(new_page: Callable[..., Page], served: Served, sae: reader.Sae) -> None:
    """A first look at a feature of the heaviest shard, in its middle or at its edge, costs few requests and bytes."""
    shards = sorted((sae.site.root / "data" / sae.info.slug / "f").rglob("*.gz"), key=lambda file: -file.stat().st_size)
    number = int(shards[0].name.split(".")[0])
    size = sae.info.shard_size
    inside = [feature for feature in sae.table.id if feature // size == number]
    for feature in (inside[0], inside[len(inside) // 2], inside[-1]):
        page = new_page()
        served.requests.clear()
        open_feature(page, served, sae[feature])
        page.wait_for_load_state("networkidle")
        data = served.data()
        assert 0 < len(data) <= COLD_VIEW_REQUESTS, data
        assert sum(n_bytes for _, _, n_bytes in data) <= COLD_VIEW_BYTES, data


def test_features_of_one_shard_are_fetched_once(page: Page, served: Served, sae: reader.Sae) -> None:
    """Moving within a shard asks for nothing; every file is asked for at most once."""
    open_feature(page, served, sae[sae.table.id[0]])
    for step in range(1, 6):
        page.keyboard.press("j")
        expect_shown(page, sae.table.id[step])
    page.wait_for_load_state("networkidle")
    paths = [path for path, _, _ in served.data()]
    assert len(paths) == len(set(paths))


def test_a_late_reply_does_not_replace_a_newer_feature(page: Page, served: Served, sae: reader.Sae) -> None:
    """When the first feature's file arrives after the second's, the second stays."""
    size = sae.info.shard_size
    slow, quick = sae.table.id[0], next(feature for feature in sae.table.id if feature // size == 2)
    held: list[Route] = []
    page.route("**/f/0/0.json.gz*", lambda route: held.append(route))
    page.goto(feature_url(served, sae[slow]))
    page.locator("[name=f]").fill(str(quick))
    page.locator("[name=f]").press("Enter")
    expect_shown(page, quick)
    assert held
    held[0].continue_()
    page.wait_for_load_state("networkidle")
    expect_shown(page, quick)
    assert page.url.endswith(f"?f={quick}")


def test_files_that_a_host_has_decompressed_are_read(page: Page, served: Served, alive: reader.Feature) -> None:
    """Some hosts send `.gz` files decompressed: their content is read all the same."""

    def decompressed(route: Route) -> None:
        path = route.request.url.split("?")[0].removeprefix(served.root)
        body = gzip.decompress((alive.sae.site.root / path).read_bytes())
        route.fulfill(body=body, content_type="application/json")

    page.route("**/*.json.gz*", decompressed)
    open_feature(page, served, alive)
    expect(page.locator(".example").first).to_be_visible()


def test_a_missing_feature_is_said_to_be_missing(page: Page, served: Served, sae: reader.Sae) -> None:
    """An id beyond the last feature gives a clear message, and the site goes on working."""
    page.goto(f"{served.root}sae/{sae.info.slug}/feature.html?f={sae.info.d_sae + 5}")
    expect(page.get_by_role("alert")).to_contain_text(f"There is no feature {sae.info.d_sae + 5}")
    page.locator("[name=f]").fill(str(sae.table.id[0]))
    page.locator("[name=f]").press("Enter")
    expect_shown(page, sae.table.id[0])


def test_a_damaged_file_gives_an_error_and_a_second_try(
    new_page: Callable[..., Page], served: Served, alive: reader.Feature
) -> None:
    """A file that cannot be read gives a message with a button that tries again."""
    page = new_page()
    page.route("**/f/**", lambda route: route.fulfill(body="{", content_type="application/json"))
    page.goto(feature_url(served, alive))
    expect(page.get_by_role("alert")).to_contain_text("is damaged")
    page.unroute("**/f/**")
    page.get_by_role("button", name="Try again").click()
    expect_shown(page, alive.id)


def test_a_dead_feature_says_so(page: Page, served: Served, sae: reader.Sae) -> None:
    """A feature that is never active says on how many tokens, and has no empty panel."""
    table = sae.table
    dead = next((feature for feature, density in zip(table.id, table.density, strict=True) if density == 0), None)
    if dead is None:
        pytest.skip("this site has no feature that is never active")
    open_feature(page, served, sae[dead])
    expect(page.get_by_role("heading", level=1)).to_contain_text("tokens")
    expect(page.locator(".examples")).to_contain_text("nothing to show")
    assert all(text.strip() for text in page.locator(".panel").all_inner_texts())


def test_unknown_addresses_lead_home_from_any_depth(new_page: Callable[..., Page], served: Served) -> None:
    """The page of missing addresses is styled and links home, however deep the address."""
    for missing in ("nothing", "sae/nothing", "sae/a/nothing"):
        page = new_page()
        page.goto(served.root + missing)
        page.wait_for_load_state("networkidle")
        page.locator("[data-home]").click()
        expect(page.locator(".cards")).to_be_visible()
    # Addresses that do not exist are reported by the browser: here they are what is tested.
    new_page.troubles[:] = [text for text in new_page.troubles if "404" not in text and "MIME type" not in text]  # type: ignore[attr-defined]
