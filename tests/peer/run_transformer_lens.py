"""Runs inside sae-lens's environment: `run_transformer_lens.py KIND MODEL_FOLDER SAE_FOLDER` with KIND gpt2 or llama.

Compares the HookedTransformer of TransformerLens 3, through `sae_fast.lm.wrap`, with the transformers backend, and SAELens's
HookedSAETransformer with `run_with_saes`. Fails with what differs.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sae_lens import SAE, HookedSAETransformer
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_llama_weights

import sae_fast
import sae_fast.lm
from sae_fast.lm import FeatureEdit

HOOK = "blocks.1.hook_resid_post"
RAW = {"fold_ln": False, "center_writing_weights": False, "center_unembed": False, "fold_value_biases": False}
IDS = torch.randint(6, 300, (3, 11), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 11, [1] * 11])
REAL = MASK.bool()
GPT2 = {"act_fn": "gelu_new", "normalization_type": "LN", "eps": 1e-5, "original_architecture": "GPT2LMHeadModel"}
LLAMA = {
    "act_fn": "silu",
    "normalization_type": "RMS",
    "gated_mlp": True,
    "n_key_value_heads": 2,
    "positional_embedding_type": "rotary",
    "rotary_dim": 8,
    "rotary_adjacent_pairs": False,
    "final_rms": True,
    "original_architecture": "LlamaForCausalLM",
}


def assert_near(what: str, got: Tensor, expected: Tensor, ulps: float = 256) -> None:
    difference = float((got - expected).abs().max() / expected.abs().max())
    assert difference <= ulps * torch.finfo(torch.float32).eps, f"{what} differs by {difference:.3g} of the largest"


def hooked_transformer(kind: str, model: Any, **processing: bool) -> HookedSAETransformer:
    """The model's weights in a HookedTransformer, processed as asked."""
    config = model.config
    special = GPT2 if kind == "gpt2" else LLAMA | {"eps": config.rms_norm_eps, "rotary_base": 10_000}
    cfg = HookedTransformerConfig(
        n_layers=3,
        d_model=32,
        n_heads=4,
        d_head=8,
        d_mlp=128 if kind == "gpt2" else config.intermediate_size,
        d_vocab=config.vocab_size,
        n_ctx=config.max_position_embeddings,
        device="cpu",
        default_prepend_bos=False,
        **special,
    )
    hooked = HookedSAETransformer(cfg)
    weights = (convert_gpt2_weights if kind == "gpt2" else convert_llama_weights)(model, cfg)
    hooked.load_and_process_state_dict(weights, **RAW | processing)
    return hooked


def compare_hooks(plain: Any, hooked: Any) -> None:
    """Names, activations, edits, generation and unembedding."""
    assert hooked.hook_names() == plain.hook_names(), set(hooked.hook_names()) ^ set(plain.hook_names())
    expected = plain.activations(IDS, plain.hook_names(), MASK)
    found = hooked.activations(IDS, hooked.hook_names(), MASK)
    for name in expected:
        assert_near(name, found[name][REAL], expected[name][REAL])
        edits = {name: lambda a: a.flip(-1)}
        assert_near(f"edit at {name}", hooked.logits(IDS, MASK, edits)[REAL], plain.logits(IDS, MASK, edits)[REAL])
    edits = {HOOK: lambda a: 0.5 * a}
    arguments: dict[str, Any] = {"edits": edits, "attention_mask": MASK, "eos_token_id": None}
    assert torch.equal(hooked.generate(IDS, 5, **arguments).token_ids, plain.generate(IDS, 5, **arguments).token_ids)
    mine, theirs = plain.unembed(), hooked.unembed()
    assert_near("W_U", theirs.W_U, mine.W_U)
    assert_near("norm_weight", theirs.norm_weight, mine.norm_weight)
    assert (mine.centred, mine.softcap) == (theirs.centred, theirs.softcap)


def compare_saes(plain: Any, peer: HookedSAETransformer, folder: str) -> None:
    """`run_with_saes` against SAELens's, with the error term and without, under SAELens's names."""
    theirs, ours = SAE.load_from_disk(folder), sae_fast.load(folder)
    for error_term in (True, False):
        logits, cache = peer.run_with_cache_with_saes(IDS, saes=[theirs], use_error_term=error_term)
        run = plain.run_with_saes(IDS, ours, error_term=error_term)
        assert_near(f"logits, error_term={error_term}", run.logits, logits)
        for part in ("input", "acts_pre", "acts_post", "recons", *(["error"] if error_term else []), "output"):
            name = f"{HOOK}.hook_sae_{part}"
            got = run.cache[name]
            assert_near(f"{name}, error_term={error_term}", got if isinstance(got, Tensor) else got.to_dense(), cache[name])


def compare_centred(plain: Any, model: Any, folder: str) -> None:
    """An SAE of a centred stream does on the model as published what it does on processed weights."""
    sae = sae_fast.load(folder)
    centred = sae.replace(sae.cfg.__class__(**{**vars(sae.cfg), "centred": True}))
    processed = sae_fast.lm.wrap(hooked_transformer("gpt2", model, fold_ln=True, center_writing_weights=True))
    stream = processed.activations(IDS, [HOOK])[HOOK]
    assert float(stream.mean(-1).abs().max()) < 1e-5
    for error_term in (True, False):
        runs = [
            lm.run_with_saes(IDS, centred, error_term=error_term, edits=FeatureEdit(3, "add", 2.0)) for lm in (plain, processed)
        ]
        assert_near("centred logits", runs[0].logits, runs[1].logits, ulps=1024)
        assert_near("centred activations", *(run.cache.acts().to_dense() for run in runs), ulps=1024)


def main(kind: str, model_folder: str, sae_folder: str) -> None:
    plain = sae_fast.lm.load(model_folder, attn_implementation="eager")
    model = plain.model  # type: ignore[attr-defined]
    peer = hooked_transformer(kind, model)
    hooked = sae_fast.lm.wrap(peer)
    hooked.tokenizer = plain.tokenizer  # type: ignore[union-attr]
    with torch.no_grad():
        compare_hooks(plain, hooked)
        compare_saes(plain, peer, sae_folder)
        if kind == "gpt2":
            compare_centred(plain, model, sae_folder)


main(*sys.argv[1:])
