"""A built site, a server that counts, and a browser that notices every error.

SITEGEN_E2E_SITE names the folder of another site to drive, such as the demo's; without it the sample site is written.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from e2e.sample_site import write_sample
from e2e.screenshots import find_chromium, launched
from playwright.sync_api import Browser, BrowserContext, Page, expect

from sitegen import reader, serve

# A slow machine is no failure: waiting ends as soon as what is waited for is there.
TIMEOUT_MS = 30_000
DESKTOP = {"width": 1400, "height": 900}
expect.set_options(timeout=TIMEOUT_MS)


@dataclass
class Served:
    """A site on a server of its own."""

    root: str
    requests: list[tuple[str, int, int]] = field(default_factory=list)
    """`(path, status, bytes)` of every reply."""

    @property
    def host(self) -> str:
        """Scheme and host, without the path."""
        return "/".join(self.root.split("/")[:3]) + "/"

    def data(self) -> list[tuple[str, int, int]]:
        """Return the replies that were data beyond the shell and the vocabulary."""
        return [reply for reply in self.requests if "/data/" in reply[0] and "vocabulary" not in reply[0]]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of an installed Chromium; SITEGEN_CHROMIUM names another. Without one the test is skipped."""
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium found; install one, or set SITEGEN_CHROMIUM to its path")
    return found


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    """One browser for all tests."""
    with launched(chromium) as running:
        yield running


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let the visitor's way lead through the real demo too; everything else is seen on the sample."""
    if "site_folder" in metafunc.fixturenames:
        kinds = ["sample", "demo"] if metafunc.module.__name__.endswith("test_journey") else ["sample"]
        metafunc.parametrize("site_folder", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def site_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site to drive: the invented sample, or what the demo's language model and SAEs give."""
    given = os.environ.get("SITEGEN_E2E_SITE")
    if given:
        return Path(given).resolve()
    if request.param == "demo":
        built: Path = request.getfixturevalue("demo").site
        return built
    folder = tmp_path_factory.mktemp("e2e") / "site"
    write_sample(folder)
    return folder


@pytest.fixture(scope="session")
def site(site_folder: Path) -> reader.Site:
    """The same site, read from Python: where tests find features and the numbers they should show."""
    return reader.open(site_folder)


@pytest.fixture(scope="session")
def sae(site: reader.Site) -> reader.Sae:
    """The site's first SAE."""
    return site[next(iter(site))]


@pytest.fixture(scope="session")
def alive(sae: reader.Sae) -> reader.Feature:
    """A feature with a label, top examples and intervals, and one after it that is active too."""
    table = sae.table
    rows = [row for row in range(len(table.id) - 1) if table.label[row] and table.density[row] and table.density[row + 1]]
    features = (sae[table.id[row]] for row in rows)
    return next(feature for feature in features if len(feature.record.groups or ()) > 2)


@pytest.fixture
def served(site_folder: Path) -> Iterator[Served]:
    """The site below a path, as on GitHub Pages."""
    found = Served("")
    with serve.running(site_folder, prefix="/repo/", watch=lambda *reply: found.requests.append(reply)) as root:
        found.root = root
        yield found


@pytest.fixture
def new_page(browser: Browser, served: Served) -> Iterator[Callable[..., Page]]:
    """Makes pages that collect console errors, failed replies and requests to other hosts; there may be none at the end."""
    contexts: list[BrowserContext] = []
    troubles: list[str] = []

    def make(**options: Any) -> Page:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith(served.host) else troubles.append(f"request to {request.url}"),
        )
        return page

    make.troubles = troubles  # type: ignore[attr-defined]
    yield make
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def page(new_page: Callable[..., Page]) -> Page:
    """A desktop page."""
    return new_page()


@pytest.fixture(scope="session")
def axe(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, installed by npm into pytest's cache; the test is skipped where that fails."""
    cache = getattr(pytestconfig, "cache", None)
    folder = cache.mkdir("axe-core") if cache is not None else tmp_path_factory.mktemp("axe-core")
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not script.is_file():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed; it is needed to fetch axe-core")
        command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", "axe-core@4"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if result.returncode != 0 or not script.is_file():
            pytest.skip(f"npm could not install axe-core: {result.stderr.strip()[-200:]}")
    return script.read_text("utf-8")
