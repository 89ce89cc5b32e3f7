"""The demo that ships: a real model, within its size, whose every number is what dense activations give."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from brute_force import Dense, assert_record
from conftest import Demo

import sae_fast
from sae_fast.commands import evaluate as command
from sae_fast.corpus.batch import Batch
from sae_fast.corpus.tokens import TokenDataset
from sae_fast.evaluation.card import section
from sae_fast.evaluation.report import EvaluationReport
from sitegen import reader
from sitegen.demo import evaluate
from sitegen.facts import FactOptions

FOLDER = Path(__file__).resolve().parent.parent / "sitegen" / "demo"
SAES = ("topk", "jumprelu", "batchtopk")


def test_weights_stay_small() -> None:
    """All weights together are under 25 MB, and the SAEs have 4,096 features."""
    files = list(FOLDER.rglob("*.safetensors"))

    assert 4 == len(files)
    assert sum(file.stat().st_size for file in files) < 25e6
    assert {4096} == {sae_fast.formats.info(FOLDER / "saes" / name).cfg.d_sae for name in SAES}


def test_card_reports_a_working_model() -> None:
    """The measured numbers show a model better than bigrams and SAEs that keep its loss; the card holds them."""
    lm = json.loads((FOLDER / "lm" / "metrics.json").read_text())
    report = EvaluationReport.read(FOLDER)
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    table = [line for line in section(report).splitlines() if line.startswith("|")]

    assert lm["held_out_loss_nats"] < lm["bigram_loss_nats"] - 1
    assert [sae.name for sae in report.saes] == list(SAES)
    for sae in report.saes:
        assert (sae.metrics["ce_recovered"] or 0) > 0.9
        assert sae.n_not_seen < 0.1 * sae.d_sae
        assert (sae.metrics["ce_clean"] or 9) < lm["bigram_loss_nats"] - 1
    assert "\n".join(table) in card


def test_the_command_of_the_card_is_one() -> None:
    """`python -m sitegen.demo.evaluate` gives `sae-fast eval` arguments that it takes, and sources that are there."""
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    parsed = parser.parse_args(evaluate.arguments(FOLDER / "out"))

    assert (parsed.corpus, parsed.split, parsed.card) == ("standard-library", "held_out", Path("README.md"))
    assert all((FOLDER / source.partition("=")[2]).is_dir() for source in parsed.sae)
    assert (FOLDER / parsed.model).is_dir()


@pytest.mark.parametrize("slug", SAES)
def test_numbers_on_random_pages_equal_the_dense_recomputation(demo: Demo, slug: str) -> None:
    """Read back from the finished site, every number of random features is what dense activations give."""
    release = demo.release
    (tokens,) = demo.cache.glob("tokens-*")
    dataset = TokenDataset.open(tokens)
    lm = sae_fast.lm.load(FOLDER / "lm", dtype="float32", **release.model.arguments)
    sae = sae_fast.load(FOLDER / "saes" / slug, dtype=torch.float32)
    hook = sae.cfg.hook_name
    assert hook is not None
    acts = np.zeros((dataset.n_contexts, dataset.context_length, sae.cfg.d_sae), dtype=np.float32)
    size = release.build.batch_size
    for first in range(0, dataset.n_contexts, size):
        batch = Batch.of(dataset, np.arange(first, min(first + size, dataset.n_contexts)))
        x = lm.activations(batch.token_ids, [hook], batch.attention_mask)[hook]
        rows, offsets = (index.numpy() for index in torch.nonzero(batch.is_counted, as_tuple=True))
        acts[batch.contexts[rows], offsets] = sae.encode(x[batch.is_counted]).to_dense().detach().numpy()
    W_U = lm.unembed().W_U.detach().float().numpy()
    dense = Dense(dataset, acts.reshape(-1, sae.cfg.d_sae), sae.W_dec.detach().numpy(), W_U)
    site = reader.open(demo.site)
    active = np.flatnonzero(acts.any(axis=(0, 1)))

    for feature in np.random.default_rng(0).choice(active, 8, replace=False).tolist():
        assert_record(site[slug][feature].record, dense, FactOptions())
