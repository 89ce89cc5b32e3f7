"""The page of a contrast in a browser: it stands alone, sorts, fits a phone, and reads well in both themes."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from sae_fast.contrast import Contrast, SaeContrast
from sae_fast.contrast.report import COLUMNS, Side

pytestmark = pytest.mark.e2e


def invented(n: int = 300) -> Contrast:
    """A contrast of invented numbers, every seventh feature found, one of them without spread."""
    columns: dict[str, list[float | None]] = {name: [] for name in COLUMNS}
    for i in range(n):
        d = None if i == 0 else (-1) ** i * 3 / (1 + i / 20)
        row = {
            "feature": 7 * i % 1000, "d": d, "d_low": (d or 3) - 0.5, "d_high": None if i == 0 else (d or 0) + 0.5,
            "auc": 0.5 + 0.4 * (-1) ** i / (1 + i), "difference": 0.1 * (-1) ** i, "low": -0.1, "high": 0.2, "mean_a": 1e-5 * i,
            "mean_b": 0.123456 * i, "n_a": i % 40, "n_b": i % 50, "density": 10 ** -(1 + i % 4), "p": (i + 1) / n,
            "q": 0.01 if i % 7 == 0 else 0.5, "p_max": 0.5,
        }  # fmt: skip
        for name in COLUMNS:
            columns[name].append(row[name])
    saes = tuple(SaeContrast(name, "blocks.8.hook_resid_post", "topk", 1000, 20, 0, 10_000, columns) for name in ("a", "b"))
    sides = (Side("a set with a long name", 40, 12_345, 1, 2), Side("another", 50, 6_789))
    return Contrast(*sides, "lm", "mean", "role:assistant", False, 0.05, 0, 1000, saes)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_the_page_fits_and_sorts(browser: Browser, tmp_path: Path, theme: str, size: tuple[int, int]) -> None:
    """Nothing fails or is fetched, the page is no wider than the window, and a heading sorts its own table both ways."""
    invented().write(tmp_path)
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)  # type: ignore[arg-type]
    page, problems, requests = context.new_page(), [], []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "contrast.html").as_uri())
    table = page.locator("table.contrast").first

    def first(column: str) -> str:
        return table.locator(f"tbody tr td[data-column={column}]").first.inner_text()

    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    assert first("d") == "∞"
    table.locator("th[data-column=feature] button").click()
    assert (first("feature"), table.locator("th[data-column=feature]").get_attribute("aria-sort")) == ("0", "ascending")
    table.locator("th[data-column=d] button").click()
    assert first("d") == "∞"
    table.locator("th[data-column=d] button").click()
    assert first("d").startswith("\u2212")
    assert page.locator("table.contrast").nth(1).locator("tbody tr td[data-column=d]").first.inner_text() == "∞"
    assert page.locator("svg.dots path.dot").count() > 10
    assert (problems, len(requests)) == ([], 1)
    context.close()
