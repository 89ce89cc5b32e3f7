"""Training reports on a site: where they are found, their page, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

import sitegen
from sae_fast.training.report import render
from sitegen.check import check
from sitegen.errors import ReleaseError
from sitegen.recipe import build_id
from sitegen.release import Release, SaeOptions
from sitegen.training import open_trainings, training_report


class Known:
    """An SAE of a site."""

    def __init__(self, slug: str, source: Path, training_report: str = "auto") -> None:
        self.slug = slug
        self.options = SaeOptions(str(source), training_report=training_report)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder as a run leaves it, with one SAE."""
    tiny.sae(tmp_path / "run & co" / "saes" / "a")
    (tmp_path / "run & co" / "report.html").write_text(render("run & co", {}, {}))
    return tmp_path / "run & co"


def test_a_report_gets_a_page(write_release: Any, run: Path, tmp_path: Path) -> None:
    """In the site's frame and colours, linked from the home and SAE pages; another report makes another site."""
    release = Release.load(write_release(sae=[{"source": str(run / "saes" / "a"), "slug": "a"}]))
    site = tmp_path / "site"
    sitegen.build(release, site, cache=tmp_path / "cache", features=[0, 1], progress=False)
    html = (site / "training/run-co/index.html").read_text()

    assert check(site) == []
    assert 'href="training/run-co/index.html">Training: run &amp; co</a>: 1 SAE' in (site / "index.html").read_text()
    assert 'href="../../training/run-co/index.html"' in (site / "sae/a/index.html").read_text()
    assert html.count("<h1>") == html.count("<main") == 1
    assert 'href="../../index.html"' in html
    assert "<style" not in html
    assert "--c0" in (site / "training/run-co/report.css").read_text()
    before = build_id(release)
    (run / "report.html").write_text(render("run & co", {}, {}) + "<!-- more -->")
    assert build_id(release) != before


def test_check_finds_what_is_missing(write_release: Any, run: Path, tmp_path: Path) -> None:
    """A page that the manifest names, and SAEs that a site does not have."""
    release = Release.load(write_release(sae=[{"source": str(run / "saes" / "a"), "slug": "a"}]))
    site = tmp_path / "site"
    sitegen.build(release, site, cache=tmp_path / "cache", features=[0], progress=False)
    (site / "training/run-co/index.html").unlink()
    manifest = json.loads((site / "data/manifest.json").read_text())
    manifest["trainings"][0]["saes"] = ["a", "b"]
    (site / "data/manifest.json").write_text(json.dumps(manifest))

    problems = [str(problem) for problem in check(site)]
    assert "training/run-co/index.html: is missing" in problems
    assert "data/manifest.json: training run-co names the SAEs b, which are not listed" in problems


def test_reports_are_found_beside_the_saes_of_a_run(run: Path) -> None:
    """Also for the layers of a cross-layer transcoder; not elsewhere, not of other makers, and not where they are left out."""
    report = run / "report.html"

    assert training_report(SaeOptions(str(run / "saes" / "a"))) == report
    assert training_report(SaeOptions(str(run / "saes" / "clt" / "layer-0"))) == report
    assert training_report(SaeOptions(str(run / "other" / "a"))) is None
    assert training_report(SaeOptions("owner/sae")) is None
    assert training_report(SaeOptions(str(run / "saes" / "a"), training_report="none")) is None
    assert training_report(SaeOptions("owner/sae", training_report=str(run))) == report
    report.write_text("<h1>of somebody else</h1>")
    assert training_report(SaeOptions(str(run / "saes" / "a"))) is None


def test_saes_of_one_run_share_a_report(run: Path, tmp_path: Path) -> None:
    """Reports of folders of one name are told apart by a number."""
    other = tmp_path / "x" / "run & co"
    other.mkdir(parents=True)
    (other / "report.html").write_text(render("other", {}, {}))
    saes = [Known("a", run / "saes" / "a"), Known("b", tmp_path, str(other)), Known("c", run / "saes" / "c")]

    found = open_trainings(saes)

    assert [(each.slug, each.title, each.saes) for each in found] == [
        ("run-co", "Training: run & co", ("a", "c")),
        ("run-co-2", "Training: other", ("b",)),
    ]


def test_a_report_that_is_named_must_be_one(write_release: Any, run: Path) -> None:
    """Its path is relative to the release file; another page is refused."""
    path = write_release(sae=[{"source": "sae", "training_report": "run & co"}])
    assert training_report(Release.load(path).sae[0]) == run / "report.html"

    missing = write_release(sae=[{"source": "sae", "training_report": "none.html"}])
    with pytest.raises(ReleaseError, match=r"there is no .*none.html"):
        build_id(Release.load(missing))
    (run / "report.html").write_text("<main><h1>x</h1></main>")
    with pytest.raises(ReleaseError, match=r"is not the report\.html that `sae-fast train` writes"):
        open_trainings([Known("a", run, str(run))])
