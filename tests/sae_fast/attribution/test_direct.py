"""Direct logit attribution against the computation by hand."""

import pytest
import torch
from random_saes import make_sae

from sae_fast.attribution import direct_logit_attribution
from sae_fast.errors import ArgumentError
from sae_fast.lm import LanguageModel

LAST = "blocks.2.hook_resid_post"
TOKENS = [5, 9, 11]


def test_the_last_layer_adds_up_to_the_logits(gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """At the last residual stream, features, error and constant together are the logits less what bias there is."""
    sae = make_sae(hook_name=LAST, normalize_activations="layer_norm")
    effects = direct_logit_attribution(gpt2, sae, token_ids, TOKENS)[LAST]
    norm = gpt2.model.transformer.ln_f  # type: ignore[attr-defined]
    bias = norm.bias.detach() @ gpt2.unembed().W_U[:, TOKENS]

    total = effects.effect.sum(0) + effects.error + effects.constant + bias
    torch.testing.assert_close(total, gpt2.logits(token_ids)[0, -1, TOKENS], rtol=1e-4, atol=1e-5)


def test_effects_equal_the_hand_computation(gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """Each feature's effect is its decoder row through the final norm, held as it is, and W_U; only its own position counts."""
    sae = make_sae(hook_name="blocks.1.hook_resid_post")
    effects = direct_logit_attribution(gpt2, sae, token_ids, TOKENS, position=-2)["blocks.1.hook_resid_post"]
    x = gpt2.activations(token_ids, ["blocks.1.hook_resid_post", LAST])
    acts = sae.encode(x["blocks.1.hook_resid_post"]).to_dense()[0, -2]
    norm = gpt2.model.transformer.ln_f  # type: ignore[attr-defined]
    deviation = (x[LAST][0, -2].var(unbiased=False) + norm.eps).sqrt()
    direction = sae.W_dec - sae.W_dec.mean(1, keepdim=True)
    by_hand = acts[:, None] * (direction / deviation * norm.weight.detach()) @ gpt2.unembed().W_U[:, TOKENS]

    assert torch.equal(effects.feature, acts.nonzero()[:, 0])
    torch.testing.assert_close(effects.effect, by_hand[effects.feature], rtol=1e-4, atol=1e-6)


def test_gemma_multiplies_by_one_plus_the_weight(gemma2: LanguageModel, token_ids: torch.Tensor) -> None:
    """On a Gemma 2 the sum is the logit before soft-capping."""
    sae = make_sae(hook_name=LAST)
    effects = direct_logit_attribution(gemma2, sae, token_ids, TOKENS)[LAST]
    total = effects.effect.sum(0) + effects.error + effects.constant
    cap = gemma2.unembed().softcap

    torch.testing.assert_close(cap * torch.tanh(total / cap), gemma2.logits(token_ids)[0, -1, TOKENS], rtol=1e-4, atol=1e-5)


def test_other_hooks_are_refused(gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """What does not write to the residual stream has no direct effect."""
    with pytest.raises(ArgumentError, match="expected one that writes to the residual stream"):
        direct_logit_attribution(gpt2, make_sae(hook_name="ln_final.hook_normalized"), token_ids, TOKENS)
