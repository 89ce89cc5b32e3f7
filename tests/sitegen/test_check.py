"""`sitegen check`: what is wrong with a site is found and named."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.sample_site import write_sample

from sitegen import check
from sitegen.errors import OutputError, SitegenError


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site without a problem."""
    folder = tmp_path_factory.mktemp("check") / "site"
    write_sample(folder, n_saes=1, n_features=24)
    return folder


@pytest.fixture
def site(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound, tmp_path / "site"))


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file."""
    packed = path.suffix == ".gz"
    content = json.loads(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    data = json.dumps(change(content) or content).encode()
    path.write_bytes(gzip.compress(data) if packed else data)


def first_shard(site: Path) -> Path:
    """Return the path of the first shard."""
    return next(iter(sorted(site.glob("data/*/f/0/0.json.gz"))))


def messages(site: Path, **options: str) -> str:
    """Return all problems as text."""
    return "\n".join(map(str, check.check(site, **options)))


def test_a_sound_site_has_no_problem(sound: Path) -> None:
    """Nothing is reported where nothing is wrong, for either host."""
    assert check.check(sound) == []
    assert check.check(sound, host="cloudflare") == []


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ('<a href="missing.html">x</a>', "links to missing.html, which does not exist"),
        ('<a href="definitions.html#no-such-term">x</a>', "#no-such-term of definitions.html"),
        ('<a href="/absolute.html">x</a>', "is not relative"),
        ('<img src="https://example.org/x.png">', "loads https://example.org/x.png from another host"),
        ('<script src="//example.org/x.js"></script>', "from another host"),
        ("<script>alert(1)</script>", "Content-Security-Policy"),
        ('<p style="color: red">x</p>', "Content-Security-Policy"),
        ('<p onclick="x()">x</p>', "Content-Security-Policy"),
    ],
)
def test_problems_of_a_page_are_found(site: Path, html: str, expected: str) -> None:
    """Broken links, foreign requests and inline code are named with their page."""
    page = site / "index.html"
    page.write_text(page.read_text("utf-8").replace("</main>", f"{html}</main>"), "utf-8")
    assert [problem.file for problem in check.check(site)] == ["index.html"]
    assert expected in messages(site)


def test_a_link_to_another_site_is_no_request(site: Path) -> None:
    """Visitors may be led elsewhere: nothing is loaded until they follow."""
    page = site / "index.html"
    page.write_text(page.read_text("utf-8").replace("</main>", '<a href="https://example.org/">x</a></main>'), "utf-8")
    assert check.check(site) == []


def test_problems_of_scripts_and_styles_are_found(site: Path) -> None:
    """A missing module and a foreign address in a style sheet are named."""
    script = next(site.glob("assets/*/js/data.js"))
    (script.parent / "site.js").unlink()
    sheet = next(site.glob("assets/*/css/base.css"))
    sheet.write_text('@import "https://example.org/x.css";')
    found = messages(site)
    assert "imports ./site.js, which does not exist" in found
    assert "https://example.org/x.css from another host" in found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda shard: shard["features"][0].update(id="0"), "does not follow the contract"),
        (lambda shard: shard["features"][0].pop("density"), "does not follow the contract"),
        (lambda shard: shard.update(first=1), "features of another shard"),
        (lambda shard: shard["features"].pop(), "its features are not those of the shards"),
        (lambda shard: shard["features"][0]["groups"][0]["examples"][0].update(peak=10_000), "peak 10000 lies outside"),
        (
            lambda shard: shard["features"][0]["groups"][0]["examples"][0]["tokens"].__setitem__(0, 10**6),
            "outside of the vocabulary",
        ),
        (lambda shard: shard["features"][0]["groups"][0]["examples"][0]["acts"].append([999, 1.0]), "activation lies outside"),
        (lambda shard: shard.update(padding=[hash(str(i)) for i in range(40_000)]), "a first look at a feature may cost"),
    ],
)
def test_problems_of_a_shard_are_found(site: Path, change: Callable[[Any], Any], expected: str) -> None:
    """Records that break the contract, or a budget, are named."""

    def changed(shard: Any) -> None:
        change(shard)

    edit(first_shard(site), changed)
    assert expected in messages(site)


def test_fields_from_the_future_are_no_problem(site: Path) -> None:
    """A newer writer may add fields: readers ignore them."""
    edit(first_shard(site), lambda shard: shard["features"][0].update(mood="good"))
    assert check.check(site) == []


@pytest.mark.parametrize("damage", [b"", b"\x1f\x8b\x08broken", b"{", gzip.compress(b"[1")])
def test_damaged_files_are_named_and_the_rest_is_checked(site: Path, damage: bytes) -> None:
    """A file that cannot be read is one problem, never an exception."""
    first_shard(site).write_bytes(damage)
    files = {problem.file for problem in check.check(site)}
    assert first_shard(site).relative_to(site).as_posix() in files


def test_missing_files_are_named(site: Path) -> None:
    """Missing tables, vocabularies and pages are problems of their own."""
    for name in ("data/*/features.json.gz", "data/*/vocabulary.json.gz", "sae/*/feature.html", ".nojekyll"):
        next(site.glob(name)).unlink()
    found = messages(site)
    for part in ("features.json.gz", "vocabulary.json.gz", "feature.html: is missing", ".nojekyll is missing"):
        assert part in found


def test_limits_of_hosts(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, sums and counts above a host's limits are problems for that host."""
    monkeypatch.setitem(check.HOSTS, "cloudflare", check.Limits("Small host", 1000, 500, 3))
    found = messages(site, host="cloudflare")
    assert "takes files up to 500" in found
    assert "takes up to 1,000:" in found
    assert "takes up to 3:" in found
    assert check.check(site) == []


def test_what_is_no_site_is_an_error(tmp_path: Path, sound: Path) -> None:
    """A missing folder and an unknown host are errors, with the nearest host named."""
    with pytest.raises(OutputError, match="not a folder"):
        check.check(tmp_path / "nothing")
    with pytest.raises(SitegenError, match="Did you mean 'github'"):
        check.check(sound, host="githb")
    assert "data/manifest.json" in messages(tmp_path)
