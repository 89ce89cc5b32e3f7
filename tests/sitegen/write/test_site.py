"""A whole site from records."""

import dataclasses
import gzip
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sitegen.check import check
from sitegen.errors import MismatchError, NonFiniteError
from sitegen.records import CorpusInfo, Dead, Example, ExampleGroup, FeatureRecord, Label, Logits, Manifest, ModelInfo, SaeInfo
from sitegen.write import OutputDir, SiteSize, write_site
from sitegen.write.shards import COLD_VIEW_BYTES, SHARD_BYTES

DOCUMENTS = ["a/one.py", "b/two.py"]
Records = dict[str, list[FeatureRecord]]


def record(feature: int, n_features: int, n_examples: int = 2, d_vocab: int = 100) -> FeatureRecord:
    """Return an invented record; every fifth feature is dead."""
    if feature % 5 == 4:
        return FeatureRecord(id=feature, density=0.0, n_active=0, dead=Dead(1000))
    chosen = random.Random(feature)
    examples = [
        Example(
            feature % 2, 3, 1, [chosen.randrange(d_vocab) for _ in range(64)], [(1, chosen.random() + 1), (5, chosen.random())]
        )
        for _ in range(n_examples)
    ]
    return FeatureRecord(
        id=feature,
        density=10 ** -(1 + feature % 4),
        n_active=20,
        max_act=2.0,
        mean_act=1.0,
        label=Label(f"label {feature}", "rule", "token", 0.9, 0.8, 12) if feature % 3 else None,
        logits=Logits([(d_vocab - 1, 1.5)], [(0, -1.5)]),
        groups=[ExampleGroup("top", examples)],
        neighbours=[((feature + 1) % n_features, 0.5), ((feature + 7) % n_features, 0.25)],
        top_tokens=[(feature % d_vocab, 20, 1.0)],
    )


def manifest(n_features: int, d_vocab: int = 100, slugs: tuple[str, ...] = ("one",), d_sae: int | None = None) -> Manifest:
    """Return a manifest as it is before writing."""
    saes = [
        SaeInfo(slug, slug, "lm", "blocks.0.hook_resid_post", "topk", 8, d_sae or n_features, 0, 0, 1000, 0) for slug in slugs
    ]
    models = [ModelInfo("lm", "LM", "gpt2", 8, d_vocab)]
    return Manifest("Test", "A <test> & more.", "build", "sitegen test", models, CorpusInfo("text", 2, 4, 1000, 128), saes)


def write(folder: Path, records: Records, described: Manifest, d_vocab: int = 100, **options: Any) -> SiteSize:
    """Write a site of records."""
    entries = [f" t{token}" if token % 7 else {"b": "f09f"} for token in range(d_vocab)]
    with OutputDir(folder) as out:
        return write_site(out, described, records, {"lm": entries}, DOCUMENTS, **options)


def read(path: Path) -> Any:
    """Read a data file as a browser would."""
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def shards(folder: Path, slug: str = "one") -> list[dict[str, Any]]:
    """Return the shards of an SAE in order."""
    return [
        read(path)
        for path in sorted((folder / "data" / slug / "f").rglob("*.gz"), key=lambda path: int(path.name.split(".")[0]))
    ]


def test_a_site_follows_its_own_contract(tmp_path: Path) -> None:
    """`check` finds no problem in what `write_site` writes, and its report counts the files."""
    records = [record(feature, 40) for feature in range(40)]
    size = write(tmp_path / "site", {"one": records, "two": records}, manifest(40, slugs=("one", "two")))

    assert check(tmp_path / "site") == []
    files = [path for path in (tmp_path / "site").rglob("*") if path.is_file()]
    assert (len(files), sum(path.stat().st_size for path in files)) == (size.n_files, size.n_bytes)
    assert max(path.stat().st_size for path in files) == size.largest_file[1]


def test_every_record_is_found_by_arithmetic(tmp_path: Path) -> None:
    """Feature f is in shard f // shard_size, unchanged but for rounding, with the names that it refers to."""
    records = [record(feature, 50) for feature in range(50)]
    write(tmp_path / "site", {"one": records}, manifest(50))
    info = read(tmp_path / "site/data/manifest.json")["saes"][0]
    for original in records:
        number = original.id // info["shard_size"]
        shard = read(tmp_path / f"site/data/one/f/{number // 256}/{number}.json.gz")
        found = next(one for one in shard["features"] if one["id"] == original.id)
        assert found["density"] == pytest.approx(original.density, rel=1e-4)
        for neighbour, _ in original.neighbours or ():
            label = records[neighbour].label
            assert shard["labels"].get(str(neighbour)) == (label.text if label else None)
        for group in original.groups or ():
            assert [example["tokens"] for example in found["groups"][0]["examples"]] == [
                example.tokens for example in group.examples
            ]
            assert all(shard["documents"][str(example.document)] == DOCUMENTS[example.document] for example in group.examples)


def test_the_manifest_is_completed(tmp_path: Path) -> None:
    """Counts, density histogram, featured features and paths are filled in from the records."""
    records = [record(feature, 40) for feature in range(40)]
    write(tmp_path / "site", {"one": records}, manifest(40), n_featured=5)
    written = read(tmp_path / "site/data/manifest.json")
    info = written["saes"][0]

    assert (info["n_features"], info["n_dead"]) == (40, 8)
    assert sum(info["density_histogram"]["counts"]) == 32
    assert 0 < len(info["featured"]) <= 5
    assert all(records[feature].label for feature in info["featured"])
    assert read(tmp_path / "site" / written["corpus"]["documents"]) == DOCUMENTS
    assert len(read(tmp_path / "site" / written["models"][0]["vocabulary"])) == 100


def test_features_chosen_before_are_kept(tmp_path: Path) -> None:
    """Features that the manifest names as featured stay, in their order, unless they do not exist."""
    described = manifest(10)
    described = dataclasses.replace(described, saes=[dataclasses.replace(described.saes[0], featured=[7, 2, 99])])
    write(tmp_path / "site", {"one": [record(feature, 10) for feature in range(10)]}, described)
    assert read(tmp_path / "site/data/manifest.json")["saes"][0]["featured"] == [7, 2]


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    """The same records give the same files, whatever the day and the folder."""
    trees = []
    for name in ("a", "b"):
        write(tmp_path / name, {"one": [record(feature, 30) for feature in range(30)]}, manifest(30))
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        trees.append({str(path.relative_to(tmp_path / name)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    assert trees[0] == trees[1]


def test_shards_shrink_until_a_cold_view_fits(tmp_path: Path) -> None:
    """Heavy records get fewer features per shard, light ones sixteen; no shard is above the budget."""
    heavy = [record(feature, 64, n_examples=60, d_vocab=5000) for feature in range(64)]
    size = write(tmp_path / "heavy", {"one": heavy}, manifest(64, 5000), 5000)
    light = [FeatureRecord(id=feature, density=0.01) for feature in range(64)]
    write(tmp_path / "light", {"one": light}, manifest(64))

    assert read(tmp_path / "heavy/data/manifest.json")["saes"][0]["shard_size"] < 16
    assert 0 < size.largest_shard["one"] <= SHARD_BYTES < COLD_VIEW_BYTES
    assert read(tmp_path / "light/data/manifest.json")["saes"][0]["shard_size"] == 16


def test_a_large_vocabulary_travels_with_the_shards(tmp_path: Path) -> None:
    """Above 64,000 tokens there is no vocabulary file; shards and table carry every text they name, the last id included."""
    d_vocab = 70_000
    records = [record(feature, 20, d_vocab=d_vocab) for feature in range(20)]
    write(tmp_path / "site", {"one": records}, manifest(20, d_vocab), d_vocab)
    written = read(tmp_path / "site/data/manifest.json")

    assert "vocabulary" not in written["models"][0]
    assert written["saes"][0]["strings_in_shards"] is True
    shard = shards(tmp_path / "site")[0]
    assert shard["strings"][str(d_vocab - 1)] == f" t{d_vocab - 1}"
    assert shard["strings"]["0"] == {"b": "f09f"}
    table = read(tmp_path / "site/data/one/features.json.gz")
    assert {str(token) for token in table["top_token"] if token is not None} == set(table["strings"])
    assert check(tmp_path / "site") == []


def test_a_site_of_chosen_features(tmp_path: Path) -> None:
    """A few features of many keep their ids and their shards' numbers."""
    records = [dataclasses.replace(record(feature, 1000), coactive=[]) for feature in (12, 99, 400, 401, 955)]
    write(tmp_path / "site", {"one": records}, manifest(5, d_sae=1000))

    assert [one["id"] for shard in shards(tmp_path / "site") for one in shard["features"]] == [12, 99, 400, 401, 955]
    assert read(tmp_path / "site/data/manifest.json")["saes"][0]["n_features"] == 5
    assert check(tmp_path / "site") == []


def test_least_records_make_a_site(tmp_path: Path) -> None:
    """Records of id and density alone, no vocabulary, no documents and no metrics are enough."""
    records = [FeatureRecord(id=feature, density=0.0) for feature in range(3)]
    with OutputDir(tmp_path / "site") as out:
        write_site(out, manifest(3), {"one": records}, {}, [])
    assert check(tmp_path / "site") == []


def test_texts_cannot_break_out_of_a_page(tmp_path: Path) -> None:
    """Titles, labels and tokens with markup in them are shown as text."""
    evil = "</script><script>alert(1)</script>"
    described = dataclasses.replace(manifest(2), title=evil, description=evil)
    bad = dataclasses.replace(record(1, 2), label=Label(evil + "`<b>`", "rule", precision=0.9, recall=0.9), density=0.01)
    write(tmp_path / "site", {"one": [record(0, 2), bad]}, described)
    for page in (tmp_path / "site").rglob("*.html"):
        assert "<script>alert" not in page.read_text()
    assert check(tmp_path / "site") == []


def test_records_are_read_once_and_one_at_a_time(tmp_path: Path) -> None:
    """A generator is enough, and progress is told of each record."""
    told: list[int] = []

    def stream() -> Iterator[FeatureRecord]:
        for feature in range(30):
            yield record(feature, 30)
            assert sum(told) == feature + 1

    with OutputDir(tmp_path / "site") as out:
        write_site(out, manifest(30), {"one": stream()}, {"lm": None}, DOCUMENTS, progress=told.append)
    assert sum(told) == 30


@pytest.mark.parametrize(
    ("records", "match"),
    [
        ({}, "No records for the SAEs one"),
        ({"one": [record(2, 5), record(1, 5)]}, "ascending"),
        ({"one": [record(1, 5), record(1, 5)]}, "ascending"),
        ({"one": [record(7, 5)]}, "d_sae is 5"),
        ({"one": [FeatureRecord(0, 0.1, groups=[ExampleGroup("top", [Example(9, 0, 0, [1], [(0, 1.0)])])])]}, "document 9"),
    ],
)
def test_records_that_do_not_fit_are_refused(tmp_path: Path, records: Records, match: str) -> None:
    """Missing, unordered or impossible records give one clear error and no site."""
    with pytest.raises(MismatchError, match=match):
        write(tmp_path / "site", records, manifest(5))
    assert list(tmp_path.iterdir()) == []


def test_nan_in_a_record_is_refused(tmp_path: Path) -> None:
    """A number that is not finite never becomes part of a site."""
    with pytest.raises(NonFiniteError):
        write(tmp_path / "site", {"one": [FeatureRecord(0, float("nan"))]}, manifest(5))
    assert list(tmp_path.iterdir()) == []


def test_writing_imports_no_torch() -> None:
    """Pages can be written, checked, read and served where torch is not installed."""
    code = "import sys, sitegen.write, sitegen.check, sitegen.reader, sitegen.serve; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
