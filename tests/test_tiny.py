"""The tiny models are what the other tests take them for."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

FAMILIES = ("gpt2", "neox", "llama", "gemma2")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def test_model_loads_and_predicts(family: str, tmp_path: Path) -> None:
    """A tiny model and its tokenizer load through the Auto classes and give finite, varied logits."""
    folder = getattr(tiny, family)(tmp_path / family)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    logits = model(torch.tensor([tokenizer(tiny.texts()[0]).input_ids[: tiny.N_CTX]])).logits
    assert logits.shape[-1] == model.config.vocab_size >= len(tokenizer)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0.5


def test_no_weight_hides_a_mistake(family: str, tmp_path: Path) -> None:
    """No norm weight is 0 or 1 and no bias is 0, so that leaving one out changes the result."""
    weights = load_file(getattr(tiny, family)(tmp_path / family) / "model.safetensors")
    vectors = {name: tensor for name, tensor in weights.items() if tensor.ndim == 1}
    assert vectors
    for name, tensor in vectors.items():
        assert tensor.abs().min() > 0, name
        assert not torch.any(tensor == 1), name


def test_same_seed_same_weights(tmp_path: Path) -> None:
    """The same seed gives the same model, another seed another one."""
    first, again, other = (
        load_file(tiny.gpt2(tmp_path / str(i), seed) / "model.safetensors") for i, seed in enumerate((3, 3, 4))
    )
    name = "transformer.wte.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", tiny.texts(8), ids=range(8))
def test_tokenizer_loses_nothing(family: str, text: str, request: pytest.FixtureRequest) -> None:
    """Every document of the corpus survives encoding and decoding, emoji and white space included."""
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(f"{family}_folder"))
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


@pytest.mark.parametrize(
    ("fixture", "n_bos"), [("gpt2_folder", 0), ("neox_folder", 0), ("llama_folder", 1), ("gemma2_folder", 1)]
)
def test_bos_as_the_family_has_it(fixture: str, n_bos: int, request: pytest.FixtureRequest) -> None:
    """SentencePiece-style tokenizers put one BOS before a text, byte-level ones none."""
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(fixture))
    ids = tokenizer("A small dog").input_ids
    assert ids.count(tokenizer.bos_token_id) == n_bos
    assert ids[:n_bos] == [tokenizer.bos_token_id] * n_bos


def test_chat_template_writes_bos_itself(llama_folder: Path) -> None:
    """The chat template puts the BOS, as templates of published models do."""
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    for messages in tiny.conversations():
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids.count(tokenizer.convert_tokens_to_ids("<|end|>")) == len(messages)


def test_wide_vocabulary_reaches_its_last_id(wide_vocabulary_folder: Path) -> None:
    """A tokenizer of 256,000 tokens gives its last id for its last word."""
    tokenizer = AutoTokenizer.from_pretrained(wide_vocabulary_folder)
    assert len(tokenizer) == 256_000
    assert tokenizer(f"a {tiny.last_word()}").input_ids[-1] == 255_999


@pytest.mark.parametrize("architecture", ["standard", "gated", "topk", "abstopk", "jumprelu", "batchtopk"])
def test_sae_folder_has_the_published_tensors(architecture: str, tmp_path: Path) -> None:
    """Each architecture has SAELens's tensors with its shapes, and its own name, or jumprelu, in cfg.json."""
    folder = tiny.sae(tmp_path, architecture=architecture, metadata={"prepend_bos": False})
    cfg = json.loads((folder / "cfg.json").read_text())
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(folder / "sae_weights.safetensors").items()}
    assert cfg["architecture"] == ("jumprelu" if architecture == "batchtopk" else architecture)
    assert cfg["metadata"]["prepend_bos"] is False
    assert shapes["W_enc"] == (32, 64)
    assert shapes["W_dec"] == (64, 32)
    extra = {"gated": {"b_gate", "b_mag", "r_mag"}, "jumprelu": {"b_enc", "threshold"}, "batchtopk": {"b_enc", "threshold"}}
    assert set(shapes) == {"W_enc", "W_dec", "b_dec"} | extra.get(architecture, {"b_enc"})


def test_gemma_scope_is_one_npz(tmp_path: Path) -> None:
    """A Gemma Scope folder holds params.npz alone, with the five JumpReLU arrays."""
    folder = tiny.gemma_scope(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["params.npz"]
    with np.load(folder / "params.npz") as arrays:
        assert set(arrays) == {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}


def test_corpus_holds_a_repeat_and_awkward_text(tmp_path: Path) -> None:
    """The corpus repeats one document, holds multi-byte text, and survives its jsonl file."""
    documents = tiny.texts()
    assert documents[-1] == documents[-2]
    assert any(len(text.encode()) > len(text) for text in documents)
    lines = tiny.jsonl(tmp_path / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == documents
