"""Comparisons on a site: their page, and which SAE is meant."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import sitegen
from sae_fast.errors import FormatError
from sae_fast.evaluation.report import EvaluationReport, SaeReport
from sitegen.check import check
from sitegen.comparison import open_comparisons
from sitegen.errors import ReleaseError
from sitegen.release import ComparisonOptions, Release

HOOK = "blocks.1.hook_resid_post"


def measured(name: str, l0: float, architecture: str = "topk", prefix_of: str | None = None) -> SaeReport:
    """One SAE with a few numbers."""
    metrics = {"l0": l0, "explained_variance": 1 - 4 / l0, "delta_ce": 1 / l0, "kl_sae": None}
    intervals = {"l0": [l0 - 0.5, l0 + 0.5], "explained_variance": None}
    rows = [{"name": "1", "n_tokens": 9, "n_predictions": 9, "explained_variance": 0.5, "delta_ce": None}]
    return SaeReport(
        name, "sae", HOOK, [HOOK], architecture, 32, 64, 4, prefix_of, metrics, intervals, 3, None, 1, [0] * 48, rows, []
    )  # fmt: skip


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A folder with an evaluation of three SAEs."""
    saes = (measured("sae", 8), measured("a & <b>", 16, "gated"), measured("sae[:8]", 5, "jumprelu", "sae"))
    EvaluationReport("tiny", "a.jsonl", 900, 890, 12, 12, 32, "float32", 0, 100, saes).write(tmp_path / "out")
    return tmp_path / "out"


@dataclass(frozen=True)
class Known:
    """An SAE of a site."""

    slug: str
    hook_name: str = HOOK
    architecture: str = "topk"
    d_sae: int = 64


def test_a_comparison_gets_a_page(write_release: Any, result: Path, tmp_path: Path) -> None:
    """It is linked from the home and SAE pages, holds the numbers as a file, and links to the SAEs that the site has."""
    release = Release.load(write_release(comparison=[{"source": str(result), "title": "One & all", "slug": "all"}]))
    site = tmp_path / "site"
    sitegen.build(release, site, cache=tmp_path / "cache", features=[0, 1], progress=False)
    slug = json.loads((site / "data/manifest.json").read_text())["saes"][0]["slug"]
    html = (site / "comparison/all/index.html").read_text()

    assert check(site) == []
    assert 'href="comparison/all/index.html"' in (site / "index.html").read_text()
    assert 'href="../../comparison/all/index.html"' in (site / "sae" / slug / "index.html").read_text()
    assert "One &amp; all" in html
    assert "<b>" not in html
    assert f'href="../../sae/{slug}/index.html">sae</a>' in html
    stored = gzip.decompress((site / "data/comparison/all.json.gz").read_bytes()).decode()
    assert stored == EvaluationReport.read(result).to_json()


def test_the_sae_is_found_by_hook_architecture_and_size(result: Path) -> None:
    """The only one alike, or of several the one of that name; never a prefix, and none where it could be any."""
    options = [ComparisonOptions(str(result))]

    assert open_comparisons(options, [Known("one"), Known("two", architecture="jumprelu")])[0].slugs == {"sae": "one"}
    assert open_comparisons(options, [Known("one"), Known("sae")])[0].slugs == {"sae": "sae"}
    assert open_comparisons(options, [Known("one"), Known("two")])[0].slugs == {}
    assert open_comparisons(options, [])[0].slug == "comparison-of-saes"


def test_what_cannot_be_meant_is_refused(result: Path, tmp_path: Path) -> None:
    """Equal slugs, and files that are no evaluation."""
    with pytest.raises(ReleaseError, match="Two comparisons have the slug"):
        open_comparisons([ComparisonOptions(str(result))] * 2, [])
    (tmp_path / "evaluation.json").write_text('{"kind": "other"}')
    with pytest.raises(FormatError, match="as `sae-fast eval` writes it"):
        open_comparisons([ComparisonOptions(str(tmp_path))], [])
