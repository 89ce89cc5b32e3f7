"""Runs inside sae-lens's environment: `run_saelens_evaluation.py MODEL_FOLDER SAE_FOLDER…`.

Measures each SAE with SAELens's `run_evals` on a HookedTransformer and with ours on transformers, on the same tokens, and fails
with what differs though it is defined alike. What is defined otherwise is compared after theirs is brought to our definition:

* theirs counts the KL divergence at the last position of a context, from which nothing is predicted;
* theirs counts the loss where the token *before* is ordinary, ours where the predicted one is: predicting from BOS counts here;
* theirs ablates every token to zero, BOS too; ours those that are counted;
* theirs averages the bias γ of batches; ours pools it.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sae_lens import SAE
from sae_lens.evals import get_eval_everything_config, get_recons_loss, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

import sae_fast
import sae_fast.lm
from sae_fast.evaluation import Metrics, evaluate

BOS, LENGTH, N_BATCHES, BATCH = 0, 14, 3, 5
RAW = {"fold_ln": False, "center_writing_weights": False, "center_unembed": False, "fold_value_biases": False}
REL = 2e-5
"""float32 of two implementations."""


class Store:
    """The tokens, as SAELens asks an ActivationsStore for them."""

    store_batch_size_prompts, context_size = BATCH, LENGTH

    def __init__(self, token_ids: Tensor) -> None:
        self.token_ids, self.place = token_ids, 0

    def get_batch_tokens(self, n: int) -> Tensor:
        self.place += n
        return self.token_ids[self.place - n : self.place]

    def reset_input_dataset(self) -> None:
        self.place = 0


def hooked_transformer(model: Any) -> HookedTransformer:
    config = model.config
    cfg = HookedTransformerConfig(
        n_layers=config.n_layer,
        d_model=config.n_embd,
        n_heads=config.n_head,
        d_head=config.n_embd // config.n_head,
        d_mlp=4 * config.n_embd,
        d_vocab=config.vocab_size,
        n_ctx=config.n_positions,
        act_fn="gelu_new",
        normalization_type="LN",
        eps=1e-5,
        original_architecture="GPT2LMHeadModel",
        device="cpu",
        default_prepend_bos=False,
    )
    hooked = HookedTransformer(cfg)
    hooked.load_and_process_state_dict(convert_gpt2_weights(model, cfg), **RAW)
    return hooked


def theirs(sae: SAE, model: HookedTransformer, token_ids: Tensor, ignored: list[int]) -> dict[str, float]:
    """SAELens's numbers by our names."""
    n = len(token_ids) // BATCH
    config = get_eval_everything_config(BATCH, n, n)
    found, _ = run_evals(sae, Store(token_ids), model, ActivationScaler(), config, exclude_special_tokens=ignored)
    names = {
        "ce_sae": ("model_performance_preservation", "ce_loss_with_sae"),
        "ce_clean": ("model_performance_preservation", "ce_loss_without_sae"),
        "ce_zero_ablation": ("model_performance_preservation", "ce_loss_with_ablation"),
        "ce_recovered_zero": ("model_performance_preservation", "ce_loss_score"),
        "kl_sae": ("model_behavior_preservation", "kl_div_with_sae"),
        "kl_zero_ablation": ("model_behavior_preservation", "kl_div_with_ablation"),
        "kl_recovered_zero": ("model_behavior_preservation", "kl_div_score"),
        "explained_variance": ("reconstruction_quality", "explained_variance"),
        "mse": ("reconstruction_quality", "mse"),
        "cosine": ("reconstruction_quality", "cossim"),
        "norm_in": ("shrinkage", "l2_norm_in"),
        "norm_out": ("shrinkage", "l2_norm_out"),
        "norm_ratio": ("shrinkage", "l2_ratio"),
        "relative_reconstruction_bias": ("shrinkage", "relative_reconstruction_bias"),
        "l0": ("sparsity", "l0"),
        "l1": ("sparsity", "l1"),
    }
    return {ours: found[group][name] for ours, (group, name) in names.items()}


def in_our_terms(sae: SAE, model: HookedTransformer, token_ids: Tensor, ignored: list[int]) -> dict[str, float]:
    """Cross entropy and KL from SAELens's numbers by position, over the predictions that we count: all of ordinary tokens."""
    found = get_recons_loss(sae, model, ActivationScaler(), token_ids, True, True, ignored or None)
    counted = torch.stack([token_ids != token for token in (*ignored, -1)]).all(0)[:, 1:]
    names = {"ce_sae": "ce_loss_with_sae", "ce_clean": "ce_loss_without_sae", "kl_sae": "kl_div_with_sae"}
    return {ours: float(found[name][:, : LENGTH - 1][counted].double().mean()) for ours, name in names.items()}


def compare(what: str, got: Metrics, expected: dict[str, float]) -> None:
    for name, value in expected.items():
        mine = getattr(got, name)
        allowed = REL * max(abs(value), 0.01)
        if name == "ce_recovered_zero":
            # A ratio of differences of cross entropies, which theirs averages in float32.
            gap = abs(got.ce_zero_ablation - got.ce_clean)  # type: ignore[operator]
            allowed = 1e-6 * got.ce_clean / gap * max(abs(value), 1)  # type: ignore[operator]
        assert abs(mine - value) <= allowed, f"{what}: {name} is {mine}, sae-lens has {value}"


def main(model_folder: str, *sae_folders: str) -> None:
    lm = sae_fast.lm.load(model_folder, dtype="float32")
    model = hooked_transformer(lm.model)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(5)
    plain = torch.randint(6, lm.d_vocab, (N_BATCHES * BATCH, LENGTH), generator=generator)
    with_bos = plain.clone()
    with_bos[:, 0] = BOS
    for folder in sae_folders:
        peer, sae, name = SAE.load_from_disk(folder), sae_fast.load(folder), Path(folder).name
        if "hook_z" in str(sae.cfg.hook_name):
            peer.turn_off_forward_pass_hook_z_reshaping()
        ours = {
            key: evaluate(lm, {name: sae}, [(ids, ids != BOS, torch.ones_like(ids)) for ids in tokens.split(BATCH)])[name]
            for key, tokens in (("plain", plain), ("one batch", plain[:BATCH]), ("with BOS", with_bos))
        }
        # Every token counted, one batch: all but KL's last position is defined alike.
        one = theirs(peer, model, plain[:BATCH], [])
        of_kl = {key: one.pop(key) for key in ("kl_sae", "kl_zero_ablation", "kl_recovered_zero")}
        compare(f"{name}, one batch", ours["one batch"], one)
        assert 0.8 < of_kl["kl_sae"] / ours["one batch"].kl_sae < 1.25, "KL with the last position is of that size"  # type: ignore[operator]
        compare(f"{name}, one batch, our terms", ours["one batch"], in_our_terms(peer, model, plain[:BATCH], []))
        # Several batches: theirs averages γ over them.
        several = {key: value for key, value in theirs(peer, model, plain, []).items() if "kl" not in key}
        del several["relative_reconstruction_bias"]
        compare(f"{name}, several batches", ours["plain"], several)
        # BOS left out: reconstruction alike; predictions after theirs are brought to our definition.
        left_out = theirs(peer, model, with_bos, [BOS])
        alike = ("explained_variance", "mse", "cosine", "norm_in", "norm_out", "norm_ratio", "l0", "l1")
        compare(f"{name}, BOS left out", ours["with BOS"], {key: left_out[key] for key in alike})
        compare(f"{name}, BOS left out, our terms", ours["with BOS"], in_our_terms(peer, model, with_bos, [BOS]))


with torch.no_grad():
    main(*sys.argv[1:])
