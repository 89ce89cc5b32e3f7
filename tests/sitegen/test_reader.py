"""Reading a built site from Python."""

import gzip
import shutil
from pathlib import Path

import pytest
from e2e.sample_site import read_text, records, write_sample

from sitegen import reader
from sitegen.check import check
from sitegen.errors import OutputError

N_FEATURES = 40


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> reader.Site:
    """A site of two SAEs."""
    folder = tmp_path_factory.mktemp("reader") / "site"
    write_sample(folder, n_saes=2, n_features=N_FEATURES)
    return reader.open(folder)


@pytest.fixture(scope="module")
def sae(site: reader.Site) -> reader.Sae:
    """Its first SAE."""
    return site[next(iter(site))]


def test_records_come_back_as_they_were_written(sae: reader.Sae) -> None:
    """Every record equals the one written, up to rounding."""
    text = read_text()
    for original in records(text, 0, N_FEATURES):
        found = sae[original.id].record
        assert found.density == pytest.approx(original.density, rel=1e-4)
        assert found.n_active == original.n_active
        assert (found.label and found.label.text) == (original.label and original.label.text)
        assert (found.dead is None) == (original.dead is None)
        for group, expected in zip(found.groups or [], original.groups or [], strict=True):
            assert [example.tokens for example in group.examples] == [example.tokens for example in expected.examples]
            acts = [act for example in expected.examples for _, act in example.acts]
            assert [act for example in group.examples for _, act in example.acts] == pytest.approx(acts, rel=1e-4)


def test_a_site_is_a_mapping_and_an_sae_a_sequence(site: reader.Site, sae: reader.Sae) -> None:
    """Lengths and iteration agree with the table; unknown names and ids say what there is."""
    assert len(site) == 2
    assert [feature.id for feature in sae] == list(range(N_FEATURES)) == sae.table.id
    assert len(sae) == N_FEATURES
    with pytest.raises(KeyError, match="Did you mean"):
        site[sae.info.slug[:-1]]
    for wrong in (-1, N_FEATURES, 10**9):
        with pytest.raises(KeyError, match="no feature"):
            sae[wrong]


def test_search_finds_all_words_best_first(sae: reader.Sae) -> None:
    """Labels that hold every word are found whatever their case, by falling precision."""
    found = sae.search("TOKEN")
    precisions = [feature.record.label.precision or 0.0 for feature in found if feature.record.label]
    assert len(found) == sum(bool(label) for label in sae.table.label)
    assert precisions == sorted(precisions, reverse=True)
    assert sae.search("token no-such-word") == []


def test_examples_spell_their_text(site: reader.Site, sae: reader.Sae) -> None:
    """Texts join characters that are split over tokens, and documents have their names."""
    texts = [feature.text(example) for feature in sae for example in feature.examples]
    assert any("😀" in text for text in texts)
    example = next(feature for feature in sae if feature.examples).examples[0]
    assert sae[0].document(example) == site.documents[example.document] or sae[0].document(example).startswith("document")


def test_a_notebook_shows_the_feature(sae: reader.Sae) -> None:
    """The HTML is self-contained and escapes what it shows; the text form shows the peak."""
    for feature in sae:
        html = feature._repr_html_()
        assert "<script" not in html
        assert "<img" not in html
        assert "<link" not in html
        assert html.count("<div") == html.count("</div>")
        if feature.examples:
            assert "background:rgba" in html
            assert "»" in repr(feature)
        else:
            assert "not active on" in repr(feature)


def test_large_vocabularies_and_host_decompression_are_read(site: reader.Site, tmp_path: Path) -> None:
    """A site whose `.gz` files were stored decompressed reads the same."""
    copy = Path(shutil.copytree(site.root, tmp_path / "site"))
    for path in copy.rglob("*.gz"):
        path.write_bytes(gzip.decompress(path.read_bytes()))
    assert [problem for problem in check(copy) if "first look" not in problem.message] == []
    slug = next(iter(site))
    assert reader.open(copy)[slug][0].record == site[slug][0].record


def test_a_folder_without_a_site_is_an_error(tmp_path: Path) -> None:
    """The message names the folder and says what to do."""
    with pytest.raises(OutputError, match="sitegen build"):
        reader.open(tmp_path)
