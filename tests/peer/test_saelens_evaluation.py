"""SAELens's own evaluation beside ours: same SAE, language model and tokens; `run_saelens_evaluation.py` says what is alike."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peer.environments import PATIENCE_S, Peer

import sae_fast.lm
from sae_fast.config import SAEConfig, tensor_shapes
from sae_fast.sae import SAE

pytestmark = [pytest.mark.peer, pytest.mark.timeout(2 * PATIENCE_S)]

RESID, HEADS, D_SAE = "blocks.1.hook_resid_post", "blocks.1.attn.hook_z", 96
KINDS = {
    "standard": {"apply_b_dec_to_input": True},
    "topk": {"architecture": "topk", "k": 6},
    "jumprelu": {"architecture": "jumprelu"},
    "gated": {"architecture": "gated"},
    "abstopk": {"architecture": "abstopk", "k": 6},
    "layer_norm": {"architecture": "topk", "k": 6, "normalize_activations": "layer_norm"},
    "heads": {"hook_name": HEADS, "reshape_activations": "hook_z"},
}


def fitted(cfg: SAEConfig, x: torch.Tensor) -> SAE:
    """Directions at random, and the mean of what it reads as bias: better than nothing, so that no ratio is degenerate."""
    generator = torch.Generator().manual_seed(1)
    tensors = {name: torch.randn(shape, generator=generator) / 4 for name, shape in tensor_shapes(cfg).items()}
    tensors["W_dec"] = torch.nn.functional.normalize(tensors["W_dec"], dim=1)
    tensors |= {"W_enc": tensors["W_dec"].T.contiguous() / 3, "b_dec": x.mean(0)}
    if "threshold" in tensors:
        tensors["threshold"] = tensors["threshold"].abs()
    return SAE(cfg, **tensors)


def test_numbers_that_are_defined_alike_are_equal(saelens: Peer, gpt2_folder: Path, tmp_path: Path) -> None:
    """CE, KL, CE recovered, L0, L1, explained variance, MSE, cosine, norms: SAEs of several kinds, with BOS and without."""
    lm = sae_fast.lm.load(gpt2_folder, dtype="float32")
    token_ids = torch.randint(6, lm.d_vocab, (8, 14), generator=torch.Generator().manual_seed(9))
    found = lm.activations(token_ids, [RESID, HEADS])
    for name, kind in KINDS.items():
        cfg = SAEConfig(**{"architecture": "standard", "d_in": lm.d_model, "d_sae": D_SAE, "hook_name": RESID} | kind)  # type: ignore[arg-type]
        sae = fitted(cfg, found[str(cfg.hook_name)].flatten(0, 1).flatten(1))
        sae.replace(replace(cfg, model_name="tiny")).save(tmp_path / name)

    saelens.run("run_saelens_evaluation.py", gpt2_folder, *(tmp_path / name for name in KINDS))
