"""Take pictures of the main pages of a built site: `python tests/e2e/screenshots.py SITE [FOLDER]`.

Writes `{home,sae,feature,definitions}.png` (desktop, light) and `feature-dark.png`, `feature-phone.png`; with `--all` every
page in both themes and at both widths.
"""

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
from playwright.sync_api import Browser, Page, sync_playwright

from sitegen import serve

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZES = {"desktop": (1400, 900), "phone": (390, 844)}
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Return the path of an installed Chromium, or None."""
    named = os.environ.get("SITEGEN_CHROMIUM") or os.environ.get("CHROMIUM")
    return shutil.which(named) if named else next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def launched(path: str) -> Iterator[Browser]:
    """Yield a headless browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield browser
        browser.close()


def addresses(site: Path) -> dict[str, str]:
    """Return the main pages' addresses below the site's root; the feature is the first featured one."""
    sae = orjson.loads((site / "data/manifest.json").read_bytes())["saes"][0]
    feature = (sae["featured"] or [0])[0]
    return {
        "home": "index.html",
        "sae": f"sae/{sae['slug']}/index.html",
        "feature": f"sae/{sae['slug']}/feature.html?f={feature}",
        "definitions": "definitions.html",
    }


def take(browser: Browser, url: str, target: Path, size: str, theme: str) -> None:
    """Take one picture of what is in view."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if theme == "dark" else "light",
        has_touch=size == "phone",
    )
    page = context.new_page()
    page.goto(url)
    settle(page)
    page.screenshot(path=target)
    context.close()


def settle(page: Page) -> None:
    """Wait until what a page fetches is shown."""
    page.wait_for_load_state("networkidle")
    if page.locator("[data-feature]").count():
        page.locator("[data-feature]:not([hidden]), [data-state]:not([hidden])").first.wait_for()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/screenshots"))
    parser.add_argument("--all", action="store_true", help="every page, both themes, both widths")
    arguments = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        parser.error("no Chromium found; install one, or set SITEGEN_CHROMIUM to its path")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pages = addresses(arguments.site)
    wanted = [(name, "desktop", "light", f"{name}.png") for name in pages]
    wanted += [("feature", "desktop", "dark", "feature-dark.png"), ("feature", "phone", "light", "feature-phone.png")]
    if arguments.all:
        wanted = [
            (name, size, theme, f"{name}-{size}-{theme}.png") for name in pages for size in SIZES for theme in ("light", "dark")
        ]
    with serve.running(arguments.site) as root, launched(chromium) as browser:
        for name, size, theme, file in wanted:
            take(browser, root + pages[name], arguments.folder / file, size, theme)


if __name__ == "__main__":
    main()
