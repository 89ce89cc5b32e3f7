"""Contrasts on a site: their page, its links and labels, and which SAE is meant."""

import csv
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny

import sae_fast
import sae_fast.lm
import sitegen
from sae_fast.contrast import Contrast, contrast
from sae_fast.errors import FormatError
from sitegen.check import check
from sitegen.contrast import open_contrasts
from sitegen.errors import MismatchError, ReleaseError
from sitegen.release import ContrastOptions, Release


@pytest.fixture(scope="module")
def result(gpt2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a contrast of a tiny SAE."""
    folder = tmp_path_factory.mktemp("contrast")
    sae = sae_fast.load(tiny.sae(folder / "sae"))
    lm = sae_fast.lm.load(gpt2_folder, dtype="float32")
    boats = [f"Nobody lost seven boats on day {n}." for n in range(8)]
    clocks = [f"The engine painted a broken clock {n} times." for n in range(8)]
    contrast(boats, clocks, lm=lm, saes={"sae": sae}, names=("boats & <co>", "clocks"), resamples=5).write(folder / "out")
    return folder / "out"


@dataclass(frozen=True)
class Known:
    """An SAE of a site."""

    slug: str
    hook_name: str = "blocks.1.hook_resid_post"
    architecture: str = "topk"
    d_sae: int = 64


def test_a_contrast_gets_a_page(write_release: Any, result: Path, tmp_path: Path) -> None:
    """It is linked from the home and SAE pages, holds the numbers as files, and links to the features that the site has."""
    table = {"source": str(result), "title": "Boats & clocks", "slug": "boats"}
    release = Release.load(write_release(contrast=[table]))
    site = tmp_path / "site"
    sitegen.build(release, site, cache=tmp_path / "cache", progress=False)
    found = Contrast.read(result)
    slug = json.loads((site / "data/manifest.json").read_text())["saes"][0]["slug"]
    html = (site / "contrast/boats/index.html").read_text()

    assert check(site) == []
    assert 'href="contrast/boats/index.html"' in (site / "index.html").read_text()
    assert 'href="../../contrast/boats/index.html"' in (site / "sae" / slug / "index.html").read_text()
    assert "Boats &amp; clocks" in html
    assert "<co>" not in html
    for row in found["sae"].top(5):
        assert f'href="../../sae/{slug}/feature.html?f={row["feature"]}"' in html
    assert gzip.decompress((site / "data/contrast/boats.json.gz").read_bytes()).decode() == found.to_json()
    with (site / "data/contrast/boats.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(found["sae"])


def test_another_result_makes_another_site(write_release: Any, result: Path, tmp_path: Path) -> None:
    """The site is out of date where only the contrast has changed."""
    from sitegen.recipe import build_id

    copy = tmp_path / "contrast.json"
    copy.write_text((result / "contrast.json").read_text())
    release = Release.load(write_release(contrast=[{"source": "contrast.json"}]))
    before = build_id(release)
    copy.write_text(copy.read_text().replace('"seed":0', '"seed":1'))

    assert build_id(release) != before


def test_only_features_of_the_site_are_linked(write_release: Any, result: Path, tmp_path: Path) -> None:
    """A site of two features links to these alone; the others are numbers."""
    top = [row["feature"] for row in Contrast.read(result)["sae"].top(2)]
    release = Release.load(write_release(contrast=[{"source": str(result), "slug": "boats"}]))
    sitegen.build(release, tmp_path / "site", cache=tmp_path / "cache", features=top[:1], progress=False)
    html = (tmp_path / "site/contrast/boats/index.html").read_text()

    assert f"feature.html?f={top[0]}" in html
    assert f"feature.html?f={top[1]}" not in html
    assert check(tmp_path / "site") == []


def test_the_sae_is_found_by_hook_architecture_and_size(result: Path) -> None:
    """The only one alike is meant; of several the one of that name; where none is alike there are no links."""
    options = [ContrastOptions(str(result))]

    assert open_contrasts(options, [Known("one"), Known("two", architecture="jumprelu")])[0].slugs == {"sae": "one"}
    assert open_contrasts(options, [Known("one"), Known("sae")])[0].slugs == {"sae": "sae"}
    assert open_contrasts(options, [Known("one", d_sae=128)])[0].slugs == {}
    assert open_contrasts([ContrastOptions(str(result), sae=("two",))], [Known("one"), Known("two")])[0].slugs == {"sae": "two"}
    assert open_contrasts(options, [Known("one")])[0].slug == "boats-co-against-clocks"


def test_links_and_labels_are_those_of_the_site(result: Path) -> None:
    """A feature that the site holds has its address and label there, another has neither."""
    (found,) = open_contrasts([ContrastOptions(str(result))], [Known("one")])
    features = {"one": {3: "the word `boat`", 4: ""}}

    assert found.link("sae", 3, features) == "../../sae/one/feature.html?f=3"
    assert found.link("sae", 5, features) is None
    assert found.link("other", 3, features) is None
    assert [found.label("sae", feature, features) for feature in (3, 4, 5)] == ["the word `boat`", "", ""]


def test_what_cannot_be_meant_is_refused(result: Path, tmp_path: Path) -> None:
    """Several SAEs alike, unknown slugs, other sizes, equal slugs, and files that are no contrast each give one error."""
    source = str(result)

    with pytest.raises(ReleaseError, match="could be any of one, two"):
        open_contrasts([ContrastOptions(source)], [Known("one"), Known("two")])
    with pytest.raises(ReleaseError, match="Did you mean 'one'"):
        open_contrasts([ContrastOptions(source, sae=("on",))], [Known("one")])
    with pytest.raises(ReleaseError, match="names 2 SAEs, and the contrast has 1"):
        open_contrasts([ContrastOptions(source, sae=("one", "one"))], [Known("one")])
    with pytest.raises(MismatchError, match="sae has 64 features, and one has 128"):
        open_contrasts([ContrastOptions(source, sae=("one",))], [Known("one", d_sae=128)])
    with pytest.raises(ReleaseError, match="Two contrasts have the slug"):
        open_contrasts([ContrastOptions(source), ContrastOptions(source)], [Known("one")])
    (tmp_path / "contrast.json").write_text("{}")
    with pytest.raises(FormatError, match='expected "kind"'):
        open_contrasts([ContrastOptions(str(tmp_path))], [Known("one")])
    with pytest.raises(ReleaseError, match=r"\[\[contrast\]\] slug: expected small letters"):
        ContrastOptions(source, slug="A b")
