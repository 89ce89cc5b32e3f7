"""Activation stores: what is read is what the model gave, in any order, after any interruption."""

import json
import shutil
from collections import namedtuple
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

import sae_fast
from sae_fast.activations import ActivationStore, store_bytes, write_store, writing
from sae_fast.activations.codec import StoreDtype, packed, unpacked
from sae_fast.corpus import open_corpus
from sae_fast.corpus.options import CorpusOptions
from sae_fast.corpus.tokenise import Tokeniser, write_tokens
from sae_fast.corpus.tokens import COUNTED, TokenDataset
from sae_fast.errors import ArgumentError, DiskFullError, MismatchError, NonFiniteError, StoreError
from sae_fast.lm import LanguageModel

HOOKS = ["blocks.0.hook_resid_post", "blocks.1.mlp.hook_post"]


@pytest.fixture(scope="module")
def lm(gpt2_folder: Path) -> LanguageModel:
    return sae_fast.lm.load(gpt2_folder)


@pytest.fixture(scope="module")
def dataset(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    corpus = open_corpus(CorpusOptions(str(tiny.jsonl(tmp_path_factory.mktemp("corpus") / "corpus.jsonl"))))
    tokeniser = Tokeniser(lm.tokenizer, context_length=24, prefix=lm.bos_token_id)
    return write_tokens(tmp_path_factory.mktemp("tokens"), corpus, tokeniser, max_tokens=1500)


@pytest.fixture(scope="module")
def store(lm: LanguageModel, dataset: TokenDataset, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return collect(tmp_path_factory.mktemp("store") / "store", lm, dataset, dtype="float32")


def collect(folder: Path, lm: LanguageModel, dataset: TokenDataset, **options: Any) -> ActivationStore:
    return write_store(folder, lm, dataset, HOOKS, **{"batch_size": 4, "shard_tokens": 240, "show_progress": False, **options})


def activations(lm: LanguageModel, dataset: TokenDataset, hook: str) -> Tensor:
    """All counted tokens, one context after another, without batching."""
    rows = []
    for context in range(dataset.n_contexts):
        kind = np.asarray(dataset.kind[context])
        real = kind != 0
        ids = torch.from_numpy(dataset.tokens[context][real].astype(np.int64))[None]
        rows.append(lm.activations(ids, [hook])[hook][0][torch.from_numpy(kind[real] == COUNTED)])
    return torch.cat(rows)


@pytest.mark.parametrize("hook", HOOKS)
def test_rows_are_the_models_activations(hook: str, store: ActivationStore, lm: LanguageModel, dataset: TokenDataset) -> None:
    """Every counted token of every context is there, at every hook, in order."""
    expected = activations(lm, dataset, hook)

    assert store.n_rows == dataset.n_counted == len(expected)
    assert store.hooks[hook] == expected.shape[1]
    torch.testing.assert_close(store.rows(hook, slice(None)), expected, rtol=1e-5, atol=1e-5)
    assert np.array_equal(store.positions, np.flatnonzero(dataset.kind.reshape(-1) == COUNTED))


def test_rows_come_in_the_order_asked_for(store: ActivationStore) -> None:
    """Rows may be named in any order, more than once, over all shards."""
    everything = store.rows(HOOKS[0], slice(None))
    wanted = np.random.default_rng(0).integers(0, store.n_rows, 500)

    assert len(store.info["shards"]) > 3
    assert torch.equal(store.rows(HOOKS[0], wanted), everything[wanted])
    assert store.rows(HOOKS[0], np.empty(0, dtype=np.int64)).shape == (0, 32)


def test_statistics_are_those_of_all_rows(store: ActivationStore) -> None:
    """Mean, variance and norm scale equal those of the whole matrix in float64."""
    x = store.rows(HOOKS[1], slice(None)).double()

    torch.testing.assert_close(store.mean(HOOKS[1]), x.mean(0), rtol=1e-12, atol=1e-12)
    assert store.variance(HOOKS[1]) == pytest.approx(float((x - x.mean(0)).square().sum(1).mean()), rel=1e-9)
    assert store.norm_scale(HOOKS[1]) == pytest.approx(x.shape[1] ** 0.5 / float(x.norm(dim=1).mean()), rel=1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "int8"])
def test_each_dtype_loses_what_it_says(dtype: StoreDtype, tmp_path: Path, lm: LanguageModel, dataset: TokenDataset) -> None:
    """Stored values are off by at most half a step of their dtype, and the size is the one that was stated before."""
    small = collect(tmp_path / "store", lm, dataset, dtype=dtype)
    exact, stored = activations(lm, dataset, HOOKS[0]), small.rows(HOOKS[0], slice(None)).float()
    step = exact.abs().amax(1, keepdim=True) / 127 if dtype == "int8" else exact.abs() * torch.finfo(getattr(torch, dtype)).eps
    tiny = 1e-4 if dtype == "float32" else 1e-5

    assert bool(((stored - exact).abs() <= step * 0.51 + tiny).all())
    files = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.name != "store.json")
    assert files == pytest.approx(store_bytes(small.n_rows, list(small.hooks.values()), dtype), rel=0.05)


def test_packing_is_inverse_to_unpacking() -> None:
    """int8 keeps the largest value of a row exactly in place, zero rows stay zero."""
    x = torch.tensor([[0.0, 0.0], [1.0, -2.0], [1e-30, 3e-30]])

    torch.testing.assert_close(unpacked(packed(x, "int8"), "int8"), x, rtol=0.5 / 127, atol=1e-2)
    assert torch.equal(unpacked(packed(x, "bfloat16"), "bfloat16"), x.bfloat16())


def test_batches_give_every_row_once_an_epoch(store: ActivationStore) -> None:
    """An epoch is a permutation of all rows, aligned over the hooks; the next one has another order."""
    size = store.n_rows // 7
    found = list(islice(store.batches(size, seed=3), 9))
    rows = [np.sort(store._places(store.n_rows, step * size, size, seed=3)) for step in range(9)]

    assert len(set(np.concatenate(rows[:7]))) == 7 * size
    assert set(rows[0]) != set(rows[7])
    for batch, chosen in zip(found, rows, strict=True):
        assert all(torch.equal(batch[hook], store.rows(hook, chosen)) for hook in HOOKS)


def test_batches_begin_anywhere(store: ActivationStore) -> None:
    """Beginning at a step gives what an uninterrupted run reads there, across epochs."""
    whole = list(islice(store.batches(300, seed=5), 12))
    resumed = list(islice(store.batches(300, seed=5, first_step=8), 4))

    for a, b in zip(whole[8:], resumed, strict=True):
        assert all(torch.equal(a[hook], b[hook]) for hook in HOOKS)


def test_batches_are_mixed_over_the_whole_corpus(store: ActivationStore) -> None:
    """A batch holds rows from all over the store, not from a neighbourhood."""
    places = store._places(store.n_rows, 0, 256, seed=0)

    assert np.ptp(places) > 0.9 * store.n_rows
    assert np.histogram(places, bins=4, range=(0, store.n_rows))[0].min() > 30


def test_documents_are_held_out_whole(store: ActivationStore, dataset: TokenDataset) -> None:
    """The two sides share no document and together are everything; batches of a side stay on it."""
    training, held_out = store.split_by_document(dataset, 0.3)
    rows = [side.rows(np.arange(len(side))) for side in (training, held_out)]
    documents = [set(dataset.document[store.positions[side] // dataset.context_length]) for side in rows]

    assert documents[0].isdisjoint(documents[1])
    assert sorted(np.concatenate(rows)) == list(range(store.n_rows))
    batch = next(store.batches(64, split=held_out, hooks=HOOKS[:1]))[HOOKS[0]]
    allowed = {tuple(x) for x in store.rows(HOOKS[0], rows[1]).tolist()}
    assert {tuple(x) for x in batch.tolist()} <= allowed
    scanned = torch.cat(list(store.scan(HOOKS[0], held_out, chunk=50)))
    assert torch.equal(scanned, store.rows(HOOKS[0], rows[1]))
    with pytest.raises(ArgumentError, match="both sides"):
        store.split_by_document(dataset, 0.0)


def test_an_interrupted_pass_goes_on_to_the_same_bytes(tmp_path: Path, lm: LanguageModel, dataset: TokenDataset) -> None:
    """Finished shards are kept and not computed again; the store is that of an uninterrupted pass."""
    whole = collect(tmp_path / "whole", lm, dataset)
    calls = []

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(lm, name)

        def activations(self, *arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == 12:
                raise KeyboardInterrupt
            return lm.activations(*arguments)

    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path / "again", Failing(), dataset)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="not finished"):
        ActivationStore.open(tmp_path / "again")
    collect(tmp_path / "again", Failing(), dataset)  # type: ignore[arg-type]

    assert len(calls) < 12 + dataset.n_contexts // 4
    for file in sorted(path for path in whole.folder.rglob("*") if path.is_file()):
        assert (tmp_path / "again" / file.relative_to(whole.folder)).read_bytes() == file.read_bytes(), file.name


def test_a_finished_store_is_opened_without_the_model(store: ActivationStore, lm: LanguageModel, dataset: TokenDataset) -> None:
    """Writing what is there already runs nothing."""
    before = (store.folder / "store.json").stat().st_mtime_ns

    again = collect(store.folder, lm, dataset, dtype="float32")

    assert again.info == store.info
    assert (store.folder / "store.json").stat().st_mtime_ns == before


def test_a_changed_corpus_is_noticed(tmp_path: Path, store: ActivationStore, lm: LanguageModel, dataset: TokenDataset) -> None:
    """Neither another dataset nor another dtype is mixed into a store, and a split by a foreign dataset is refused."""
    shutil.copytree(store.folder, tmp_path / "store")
    other = TokenDataset(dataset.tokens[:-1], dataset.kind[:-1], dataset.document[:-1], dataset.start[:-1], dataset.documents)

    with pytest.raises(MismatchError, match=r"something else .other dataset."):
        collect(tmp_path / "store", lm, other, dtype="float32")
    with pytest.raises(MismatchError, match="other dtype"):
        collect(tmp_path / "store", lm, dataset, dtype="int8")
    with pytest.raises(MismatchError, match="other tokens"):
        store.split_by_document(other, 0.3)


def test_damage_is_noticed_at_opening(tmp_path: Path, store: ActivationStore) -> None:
    """A short shard, a missing one, and a store of another version are errors that name the file."""
    shard = shutil.copytree(store.folder, tmp_path / "short") / "hook-1" / "shard-00001.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"shard-00001.bin: size of a shard of blocks.1.mlp.hook_post"):
        ActivationStore.open(tmp_path / "short")
    file = shutil.copytree(store.folder, tmp_path / "old") / "store.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 0}))
    with pytest.raises(StoreError, match="expected 1, got 0"):
        ActivationStore.open(tmp_path / "old")
    with pytest.raises(MismatchError, match=r"no activations at blocks\.9"):
        store.rows("blocks.9.hook_resid_post", slice(1))


def test_a_full_disk_is_found_before_the_pass(
    tmp_path: Path, lm: LanguageModel, dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size is known before, and nothing is written where it does not fit."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: usage(0, 0, 1000))

    with pytest.raises(DiskFullError, match="are free"):
        collect(tmp_path / "store", lm, dataset)
    assert not (tmp_path / "store").exists()


def test_values_that_do_not_fit_are_errors(tmp_path: Path, lm: LanguageModel, dataset: TokenDataset) -> None:
    """NaN from the model names the document, and what is too large for float16 says so."""

    class Broken:
        def __init__(self, value: float) -> None:
            self.value = value

        def __getattr__(self, name: str) -> Any:
            return getattr(lm, name)

        def activations(self, *arguments: Any) -> Any:
            found = lm.activations(*arguments)
            found[HOOKS[0]][0, 3, 0] = self.value
            return found

    with pytest.raises(NonFiniteError, match=r"NaN or infinity at blocks.0.hook_resid_post, first in context 0 .document"):
        collect(tmp_path / "nan", Broken(float("nan")), dataset)  # type: ignore[arg-type]
    with pytest.raises(NonFiniteError, match=r"1e\+06 do not fit float16"):
        collect(tmp_path / "large", Broken(1e6), dataset, dtype="float16")  # type: ignore[arg-type]
