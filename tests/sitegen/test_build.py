"""The whole way from a release to a site, on tiny models."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import sae_fast
import sae_fast.lm
import sitegen
from sae_fast.corpus.tokens import COUNTED, PADDING, TokenDataset
from sitegen.recipe import build, default_cache
from sitegen.release import DEMO, Release

ROOT = Path(__file__).resolve().parents[2]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def manifest(site: Path) -> dict[str, Any]:
    """The manifest of a site."""
    content: dict[str, Any] = json.loads((site / "data" / "manifest.json").read_text())
    return content


def quiet_build(release: Any, out: Path, **arguments: Any) -> sitegen.recipe.BuildReport:
    """Build without progress."""
    return build(release, out, progress=False, **arguments)


def only(cache: Path, stage: str) -> Path:
    """The one folder of a stage in a cache."""
    (folder,) = cache.glob(f"{stage}-*")
    return folder


def test_a_release_becomes_a_site_whose_numbers_are_the_dense_ones(
    write_release: Any, gpt2_folder: Path, tmp_path: Path
) -> None:
    """Density and maximum of every feature on the site are those of the dense activations of the corpus."""
    tiny.sae(tmp_path / "sae", architecture="jumprelu")
    release = Release.load(write_release(evaluation={"tokens": 500}))
    report = quiet_build(release, tmp_path / "site", cache=tmp_path / "cache")
    dataset = TokenDataset.open(only(tmp_path / "cache", "tokens"))
    lm, sae = sae_fast.lm.load(gpt2_folder), sae_fast.load(tmp_path / "sae")
    mask = torch.from_numpy((np.asarray(dataset.kind) != PADDING).astype(np.int64))
    x = lm.activations(torch.from_numpy(dataset.tokens.astype(np.int64)), ["blocks.1.hook_resid_post"], mask)
    acts = sae.encode(x["blocks.1.hook_resid_post"].nan_to_num()).to_dense().numpy()[np.asarray(dataset.kind) == COUNTED]

    site = sitegen.open(tmp_path / "site")
    (slug,) = site
    for feature in range(64):
        record = site[slug][feature].record
        # Batches of other shapes round differently, and one token in many may fall on the other side of a threshold.
        assert abs(record.density * len(acts) - (acts[:, feature] != 0).sum()) <= 1
        if record.max_act:
            assert record.max_act == pytest.approx(acts[:, feature].max(), rel=1e-3)
    written = manifest(tmp_path / "site")
    assert written["corpus"]["n_tokens"] == dataset.n_counted
    assert written["saes"][0]["metrics"]["n_tokens"] >= 400
    assert [stage.name for stage in report.stages] == ["model", "tokens", "evaluation", "activations", "facts", "site"]
    assert "sitegen serve" in report.table()


def test_a_second_build_does_nothing_and_a_rebuild_gives_the_same_bytes(write_release: Any, tmp_path: Path) -> None:
    """An up-to-date site is left alone; one built anew from an empty cache is the same to the byte."""
    path = write_release()
    quiet_build(path, tmp_path / "site", cache=tmp_path / "cache")
    before = tree(tmp_path / "site")
    again = quiet_build(path, tmp_path / "site", cache=tmp_path / "cache")
    quiet_build(path, tmp_path / "other", cache=tmp_path / "other cache")

    assert again.stages == ()
    assert "up to date" in again.table()
    assert before == tree(tmp_path / "site") == tree(tmp_path / "other")


def test_an_up_to_date_site_costs_no_torch(write_release: Any, tmp_path: Path) -> None:
    """Finding out that there is nothing to do loads neither the LM nor an SAE."""
    path = write_release()
    quiet_build(path, tmp_path / "site", cache=tmp_path / "cache")
    code = (
        "import sys, sitegen\n"
        f"assert sitegen.build({str(path)!r}, {str(tmp_path / 'site')!r}, progress=False).stages == ()\n"
        "print(sorted({'transformers', 'datasets', 'sitegen.workbench'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"


def test_another_sae_computes_only_its_own_share(write_release: Any, tmp_path: Path) -> None:
    """With an SAE added, tokens and the first SAE's index and records stay as they are; the title alone rewrites pages."""
    quiet_build(write_release(), tmp_path / "site", cache=tmp_path / "cache")
    stages = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != "lock"
    }
    tiny.sae(tmp_path / "second", architecture="jumprelu", hook_name="blocks.0.hook_mlp_out", seed=1)
    path = write_release(sae=[{"source": "sae"}, {"source": "second"}])
    quiet_build(path, tmp_path / "site", cache=tmp_path / "cache")

    assert stages == {path: path.stat().st_mtime_ns for path in stages}
    assert [sae["slug"] for sae in manifest(tmp_path / "site")["saes"]] == ["1-resid-post-topk", "0-mlp-out-jumprelu"]
    write_release(sae=[{"source": "sae"}, {"source": "second"}], site={"title": "Another"})
    report = quiet_build(path, tmp_path / "site", cache=tmp_path / "cache")
    assert [stage.skipped for stage in report.stages] == [True] * 5 + [False]
    assert manifest(tmp_path / "site")["title"] == "Another"


def test_chosen_features_have_the_records_of_the_whole(write_release: Any, tmp_path: Path) -> None:
    """`features` builds these records and no others, equal to those of the whole site."""
    path = write_release()
    quiet_build(path, tmp_path / "whole", cache=tmp_path / "cache")
    quiet_build(path, tmp_path / "few", cache=tmp_path / "cache", features=[50, 3, 17])
    whole, few = sitegen.open(tmp_path / "whole"), sitegen.open(tmp_path / "few")
    (slug,) = few

    assert [feature.id for feature in few[slug]] == [3, 17, 50]
    assert [few[slug][feature].record for feature in (3, 17, 50)] == [whole[slug][feature].record for feature in (3, 17, 50)]


def test_a_llama_with_sentencepiece_and_a_gemma_scope_sae(write_release: Any, llama_folder: Path, tmp_path: Path) -> None:
    """A Llama folder, a SentencePiece-style tokenizer, JSON lines and a params.npz go through; BOS is there once."""
    sae = sae_fast.load(tiny.sae(tmp_path / "saelens", architecture="jumprelu"))
    sae.save(tmp_path / "scope", format="gemma_scope")
    source = next((tmp_path / "scope").rglob("params.npz")).parent
    path = write_release(
        model={"source": str(llama_folder)}, sae=[{"source": str(source), "hook_name": "blocks.1.hook_resid_post"}]
    )
    quiet_build(path, tmp_path / "site", cache=tmp_path / "cache")
    dataset = TokenDataset.open(only(tmp_path / "cache", "tokens"))

    assert (dataset.tokens == 2).sum(axis=1).tolist() == [1] * dataset.n_contexts
    assert manifest(tmp_path / "site")["saes"][0]["architecture"] == "jumprelu"
    assert len(list(sitegen.open(tmp_path / "site")["1-resid-post-jumprelu"])) == 64


def test_a_chat_corpus_becomes_a_site(write_release: Any, llama_folder: Path, tmp_path: Path) -> None:
    """Chats are read through the template; only what people wrote is in the facts."""
    lines = [json.dumps({"messages": messages}) for messages in tiny.conversations()]
    (tmp_path / "chat.jsonl").write_text("\n".join(lines))
    path = write_release(model={"source": str(llama_folder)}, corpus={"source": "chat.jsonl", "context_length": 64})
    quiet_build(path, tmp_path / "site", cache=tmp_path / "cache")
    dataset = TokenDataset.open(only(tmp_path / "cache", "tokens"))

    assert manifest(tmp_path / "site")["corpus"]["n_tokens"] == dataset.n_counted
    template_tokens = np.asarray(dataset.tokens)[np.asarray(dataset.kind) == COUNTED]
    assert not np.isin(template_tokens, [2, 4, 5]).any()


def test_a_vocabulary_of_256_000_reaches_the_page(write_release: Any, wide_vocabulary_folder: Path, tmp_path: Path) -> None:
    """The last id of 256,000 comes through the LM and the index into an example, with its text."""
    word = tiny.last_word()
    tiny.jsonl(tmp_path / "wide.jsonl", [f"{word} {word} and {word}", "a small dog"])
    tiny.sae(tmp_path / "wide", d_in=8, d_sae=16, hook_name="blocks.0.hook_resid_post")
    path = write_release(
        model={"source": str(wide_vocabulary_folder)}, corpus={"source": "wide.jsonl"}, sae=[{"source": "wide"}]
    )
    quiet_build(path, tmp_path / "site", cache=tmp_path / "cache")
    site = sitegen.open(tmp_path / "site")
    texts = [feature.text(example) for feature in site["0-resid-post-topk"] for example in feature.examples]

    assert manifest(tmp_path / "site")["models"][0]["d_vocab"] == 256_000
    assert any(word in text for text in texts)


def test_the_cache_lies_beside_the_release(release: Release, tmp_path: Path) -> None:
    """A release file has its own cache; the demo's is in the current folder, since the package may not be writable."""
    assert default_cache(release) == tmp_path / ".sitegen" / "release"
    assert (
        default_cache(Release(release.model, release.corpus, release.sae, path=DEMO.resolve()))
        == Path.cwd() / ".sitegen" / "demo"
    )


def run_until(command: list[str], has_come: Any, signal_number: int) -> int:
    """Start a command, send a signal once `has_come()` says so, and return its exit status."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not has_come():
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal_number)
        return process.wait(timeout=60)
    finally:
        process.kill()


def test_a_build_that_was_killed_continues_to_the_same_bytes(write_release: Any, tmp_path: Path) -> None:
    """A kill -9 in the middle of the LM pass leaves whole parts; the next build keeps them and ends in identical bytes."""
    path = write_release(build={"batch_size": 2, "part_tokens": 64})
    quiet_build(path, tmp_path / "expected", cache=tmp_path / "cache a")
    cache, out = tmp_path / "cache b", tmp_path / "site"
    command = [sys.executable, "-m", "sitegen", "build", str(path), "--out", str(out), "--cache", str(cache)]
    status = run_until(command, lambda: any(cache.glob("activations-*/part-00002.safetensors")), signal.SIGKILL)
    parts = {part: part.stat().st_mtime_ns for part in cache.glob("activations-*/part-*.safetensors")}
    finished = any(cache.glob("activations-*/index.json"))
    quiet_build(path, out, cache=cache)

    assert (status, finished) == (-signal.SIGKILL, False)
    assert len(parts) >= 3
    assert parts == {part: part.stat().st_mtime_ns for part in parts}
    assert tree(tmp_path / "expected") == tree(out)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_kills_at_any_moment_leave_the_old_site_and_a_cache_to_continue_from(
    write_release: Any, tmp_path: Path, seed: int
) -> None:
    """Whenever the build is killed, there is a whole site, the old one until the new one is put in place; and the build that is
    let through gives the expected bytes.
    """
    tiny.sae(tmp_path / "second", architecture="jumprelu", seed=1)
    quiet_build(write_release("old.toml", site={"title": "Old"}), tmp_path / "site", cache=tmp_path / "old cache")
    before = tree(tmp_path / "site")
    path = write_release(sae=[{"source": "sae"}, {"source": "second"}], build={"batch_size": 2, "part_tokens": 64})
    quiet_build(path, tmp_path / "expected", cache=tmp_path / "cache a")
    command = [
        sys.executable,
        "-m",
        "sitegen",
        "build",
        str(path),
        "--out",
        str(tmp_path / "site"),
        "--cache",
        str(tmp_path / "b"),
    ]
    chance = random.Random(seed)
    for _ in range(4):
        end = time.monotonic() + chance.uniform(0.5, 12)
        status = run_until(command, lambda end=end: time.monotonic() > end, signal.SIGKILL)
        if status == 0:
            break
        there = tree(tmp_path / "site")
        if there != before:
            assert there == tree(tmp_path / "expected")
            break
    quiet_build(path, tmp_path / "site", cache=tmp_path / "b")

    assert tree(tmp_path / "expected") == tree(tmp_path / "site")
    assert not list(tmp_path.glob("site.partial-*"))
