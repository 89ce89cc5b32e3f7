"""A tiny LM and its SAEs through the real pass: every number of random features against a dense recomputation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from brute_force import Dense, assert_record

import sae_fast
from sae_fast.corpus.batch import Batch
from sae_fast.corpus.corpus import open_corpus
from sae_fast.corpus.options import CorpusOptions
from sae_fast.corpus.tokenise import Tokeniser, write_tokens
from sae_fast.corpus.tokens import TokenDataset
from sitegen.activation_index import ActivationIndexWriter
from sitegen.collect import Target, collect, from_model
from sitegen.facts import FactOptions, compute
from sitegen.vocabulary import Vocabulary

HOOK = "blocks.1.hook_resid_post"
BATCH_SIZE = 7


def dense_activations(lm: sae_fast.lm.LanguageModel, sae: sae_fast.SAE, dataset: TokenDataset, batch_size: int) -> np.ndarray:
    """Return float32 `[n_positions, d_sae]`, 0 at tokens that are not counted, from the same batches as the pass."""
    acts = np.zeros((dataset.n_contexts, dataset.context_length, sae.cfg.d_sae), dtype=np.float32)
    for first in range(0, dataset.n_contexts, batch_size):
        batch = Batch.of(dataset, np.arange(first, min(first + batch_size, dataset.n_contexts)))
        with torch.inference_mode():
            x = lm.activations(batch.token_ids, [HOOK], batch.attention_mask)[HOOK]
            values = sae.encode(x[batch.is_counted]).to_dense().numpy()
        rows, offsets = (index.numpy() for index in torch.nonzero(batch.is_counted, as_tuple=True))
        acts[batch.contexts[rows], offsets] = values
    return acts.reshape(-1, sae.cfg.d_sae)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "batchtopk"])
@pytest.mark.parametrize("model", [tiny.gpt2, tiny.gemma2], ids=["gpt2", "gemma2"])
def test_records_of_a_real_pass_equal_the_dense_recomputation(
    tmp_path: Path, model: Callable[[Path], Path], architecture: str
) -> None:
    """From the text to the record, every number is what dense activations give."""
    lm = sae_fast.lm.load(model(tmp_path / "lm"), dtype="float32")
    sae = sae_fast.load(tiny.sae(tmp_path / "sae", architecture=architecture, hook_name=HOOK))
    corpus = open_corpus(CorpusOptions(source=str(tiny.jsonl(tmp_path / "corpus.jsonl")), context_length=40))
    dataset = write_tokens(tmp_path / "tokens", corpus, Tokeniser(lm.tokenizer, 40, lm.tokenizer.bos_token_id))
    writer = ActivationIndexWriter(tmp_path / "index", sae.cfg.d_sae, 40, dataset.n_positions, "")
    # Parts of 14 contexts are whole batches, so that the dense recomputation sees the same ones.
    collect(from_model(lm), dataset, [Target("sae", sae, HOOK, writer)], BATCH_SIZE, 14 * 40)
    index = writer.finish()
    vocabulary = Vocabulary.from_tokenizer(lm.tokenizer, lm.d_vocab)
    W_U = lm.unembed().W_U.detach().float().numpy()
    dense = Dense(dataset, dense_activations(lm, sae, dataset, BATCH_SIZE), sae.W_dec.detach().float().numpy(), W_U)
    options = FactOptions(window=24, before=12)
    chosen = np.random.default_rng(0).choice(sae.cfg.d_sae, 8, replace=False).tolist()

    records = list(compute(index, dataset, sae, lm.unembed(), vocabulary, options, features=chosen))

    assert [record.id for record in records] == sorted(chosen)
    assert any(record.n_active for record in records)
    for record in records:
        assert_record(record, dense, options)
