"""Published numbers are reproduced: Gemma Scope's L0, and Neuronpedia's maxima of gpt2-small-res-jb."""

import gzip
import json
from collections import defaultdict
from typing import Any

import pytest
import torch

import sae_fast
from sae_fast.lm.interface import LanguageModel
from sae_fast.sources.http import read_all

NEURONPEDIA = "https://neuronpedia-datasets.s3.us-east-1.amazonaws.com/v1"
PILE = "monology/pile-uncopyrighted"
"""The data set of Gemma Scope's own L0."""
N_CONTEXTS, CONTEXT = 16, 1024
L0_TOLERANCE = 0.1
"""Relative: other documents of the same data set, and positions counted from the second."""
VALUE_TOLERANCE = 5e-3
"""Relative to the largest value of a window: Neuronpedia rounds, and ran another build of the model."""


def lines(address: str) -> list[dict[str, Any]]:
    """The records of a compressed dump."""
    content, _ = read_all(address)
    return [json.loads(line) for line in gzip.decompress(content).splitlines()]


def test_gemma_scope_has_its_l0() -> None:
    """Layer 20, 16k, average_l0_71: its mean number of active features on the Pile is 71."""
    datasets = pytest.importorskip("datasets")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lm = sae_fast.lm.load("google/gemma-2-2b", device=device, dtype="bfloat16")
    sae = sae_fast.load("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", device=device)
    n_active = n_tokens = 0
    for token_ids in contexts(lm, datasets.load_dataset(PILE, split="train", streaming=True)):
        (acts,) = lm.encode(token_ids[None], sae).values()
        # BOS is left out, as in the published number.
        after_bos = acts.to_dense()[:, 1:]
        n_active, n_tokens = n_active + int((after_bos != 0).sum()), n_tokens + after_bos.shape[1]

    assert n_tokens == N_CONTEXTS * (CONTEXT - 1)
    assert n_active / n_tokens == pytest.approx(71, rel=L0_TOLERANCE)


def contexts(lm: LanguageModel, documents: Any) -> list[torch.Tensor]:
    """Contexts of `CONTEXT` tokens with BOS, from documents that are long enough."""
    found: list[torch.Tensor] = []
    for document in documents:
        ids = lm.tokenizer(document["text"], add_special_tokens=False).input_ids[: CONTEXT - 1]
        if len(ids) == CONTEXT - 1:
            found.append(torch.tensor([lm.bos_token_id, *ids]))
        if len(found) == N_CONTEXTS:
            break
    return found


def test_neuronpedias_maxima_are_ours() -> None:
    """Activations of gpt2-small-res-jb's layer 8 on Neuronpedia's own windows, and the maximum of each feature."""
    lm = sae_fast.lm.load("openai-community/gpt2")
    sae = sae_fast.load("gpt2-small-res-jb/blocks.8.hook_resid_pre")
    records = defaultdict(list)
    for record in lines(f"{NEURONPEDIA}/gpt2-small/8-res-jb/activations/batch-0.jsonl.gz"):
        records[int(record["index"])].append(record)
    maxima = {
        int(feature["index"]): feature["maxActApprox"]
        for feature in lines(f"{NEURONPEDIA}/gpt2-small/8-res-jb/features/batch-0.jsonl.gz")
    }
    n_compared = 0
    for feature, examples in sorted(records.items())[:100]:
        top = max(examples, key=lambda record: record["maxValue"])
        token_ids = ids_of(lm, top["tokens"])
        if token_ids is None or maxima.get(feature, 0) <= 0:
            continue
        (acts,) = lm.encode(token_ids[None], sae).values()
        values = acts[..., feature][0]
        torch.testing.assert_close(values, torch.tensor(top["values"]), rtol=0, atol=VALUE_TOLERANCE * top["maxValue"])
        assert float(values.max()) == pytest.approx(maxima[feature], rel=VALUE_TOLERANCE)
        n_compared += 1

    assert n_compared >= 20


def ids_of(lm: LanguageModel, tokens: list[str]) -> torch.Tensor | None:
    """The ids of a window that begins a context and whose tokens can be told from their texts, else None."""
    if tokens[0] != lm.tokenizer.bos_token or any("\ufffd" in token for token in tokens):
        return None
    ids = [lm.tokenizer(token, add_special_tokens=False).input_ids for token in tokens]
    return torch.tensor([one[0] for one in ids]) if all(len(one) == 1 for one in ids) else None
