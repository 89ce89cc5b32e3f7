"""Effects of features on a metric, against finite differences, completeness and hand-written edits."""

from typing import Any

import pytest
import torch
from random_saes import make_sae, transcoders

from sae_fast import SAE, SAEConfig
from sae_fast.attribution import attribute, log_probability, logit, logit_difference
from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.lm import Edit, LanguageModel
from sae_fast.lm.places import sae_input

HOOK = "blocks.1.hook_resid_post"
KINDS: dict[str, Any] = {
    "standard": {"hook_name": HOOK, "apply_b_dec_to_input": True},
    "gated": {"architecture": "gated", "hook_name": HOOK},
    "topk": {"architecture": "topk", "k": 5, "hook_name": HOOK},
    "layer_norm": {"hook_name": HOOK, "normalize_activations": "layer_norm"},
    "rescaled": {"architecture": "topk", "k": 5, "hook_name": HOOK, "rescale_acts_by_decoder_norm": True},
    "transcoder": {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out", "transcoder": True},
    "skip": {
        "hook_name": "blocks.1.ln2.hook_normalized",
        "hook_name_out": "blocks.1.hook_mlp_out",
        "transcoder": True,
        "skip": True,
    },
}


@pytest.fixture(params=KINDS)
def sae(request: pytest.FixtureRequest) -> SAE:
    """An SAE of each kind."""
    return make_sae(**KINDS[request.param])


def seen(lm: LanguageModel, sae: SAE, token_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dense activations [pos, d_sae], what is where it writes [pos, d], error [pos, d]) by the public interface."""
    write = str(sae.cfg.hook_name_write)
    found = lm.activations(token_ids, [str(sae.cfg.hook_name), write])
    x = sae_input(sae, found[str(sae.cfg.hook_name)])
    acts = sae.encode(x)
    return acts.to_dense()[0], found[write][0], (found[write] - sae(x))[0]


def change(sae: SAE, lm: LanguageModel, token_ids: torch.Tensor, position: int, feature: int, factor: float) -> torch.Tensor:
    """`decode(a') - decode(a)` [1, pos, d] for one activation multiplied by `factor`."""
    x = sae_input(sae, lm.activations(token_ids, [str(sae.cfg.hook_name)])[str(sae.cfg.hook_name)])
    acts = sae.encode(x)
    edited = acts.to_dense()
    edited[0, position, feature] *= factor
    return sae.decode(edited, acts.mean, acts.scale) - sae.decode(acts.to_dense(), acts.mean, acts.scale)


def logits_with(lm: LanguageModel, token_ids: torch.Tensor, sae: SAE, extra: torch.Tensor) -> torch.Tensor:
    return lm.logits(token_ids, edits={str(sae.cfg.hook_name_write): lambda y: y + extra})


def test_gradient_equals_finite_differences(gpt2: LanguageModel, sae: SAE, token_ids: torch.Tensor) -> None:
    """The slope of a logit along each of the strongest features is that of central differences."""
    metric = logit_difference(5, 9)
    (effects,) = attribute(gpt2, sae, token_ids, metric).values()
    largest = float(effects.effect.abs().max())

    for position, feature, activation, effect in effects.top(6):
        step = 1e-2
        up, down = (
            metric(logits_with(gpt2, token_ids, sae, change(sae, gpt2, token_ids, position, feature, 1 + sign * step)))
            for sign in (1, -1)
        )
        slope = float(up - down) / (2 * step)
        assert activation != 0
        # Central differences: an error of the order of step² of the effect, and float32 rounding of logits over step.
        assert abs(slope - effect) <= 1e-2 * largest + 1e-6 / step


def test_features_are_those_that_are_active(gpt2: LanguageModel, sae: SAE, token_ids: torch.Tensor) -> None:
    """Positions, features and activations are the non-zero entries of the SAE's encoding, in their order."""
    (effects,) = attribute(gpt2, sae, token_ids, logit(5)).values()
    dense = seen(gpt2, sae, token_ids)[0]

    assert torch.equal(torch.stack([effects.position, effects.feature], 1), dense.nonzero())
    torch.testing.assert_close(effects.activation, dense[dense != 0])


def test_a_linear_readout_is_exact(gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """At the last hook, with a metric that is linear in what is there, gradient × activation is the effect itself."""
    sae = make_sae(hook_name="ln_final.hook_normalized")
    metric = logit_difference(5, 9)
    effects = {
        method: attribute(gpt2, sae, token_ids, metric, method)["ln_final.hook_normalized"]
        for method in ("gradient", "integrated", "ablation")
    }

    for method in ("integrated", "ablation"):
        torch.testing.assert_close(effects[method].effect, effects["gradient"].effect, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(effects[method].error, effects["gradient"].error, rtol=1e-4, atol=1e-5)
    assert bool((effects["gradient"].effect[effects["gradient"].position != 6] == 0).all())


def test_integrated_gradients_are_complete(gpt2: LanguageModel, sae: SAE, token_ids: torch.Tensor) -> None:
    """Features and errors together account for the metric minus that of a pass with both gone."""
    metric = log_probability(5)
    (effects,) = attribute(gpt2, sae, token_ids, metric, "integrated", steps=48).values()
    acts, _, error = seen(gpt2, sae, token_ids)
    x = sae_input(sae, gpt2.activations(token_ids, [str(sae.cfg.hook_name)])[str(sae.cfg.hook_name)])
    encoded = sae.encode(x)
    features = sae.decode(encoded) - sae.decode(torch.zeros(1, *acts.shape), encoded.mean, encoded.scale)
    without = metric(logits_with(gpt2, token_ids, sae, -(features + error)))
    clean = metric(gpt2.logits(token_ids))

    # The quadrature's own error: what doubling its points changes.
    (finer,) = attribute(gpt2, sae, token_ids, metric, "integrated", steps=96).values()
    tolerance = 4 * abs(finer.total - effects.total) + 1e-4 * float(clean.abs())
    assert abs(finer.total - float(clean - without)) <= tolerance
    assert tolerance < 0.05 * abs(float(clean - without)) + 1e-2
    assert abs(float(clean - without)) > 1e-2


def test_ablation_equals_hand_written_edits(gpt2: LanguageModel, sae: SAE, token_ids: torch.Tensor) -> None:
    """Each effect is the metric minus the metric of a pass with that one activation set to zero, in any batches."""
    metric = logit(7)
    (effects,) = attribute(gpt2, sae, token_ids, metric, "ablation", batch_size=5).values()
    clean = metric(gpt2.logits(token_ids))

    for position, feature, _, effect in effects.top(5):
        ablated = metric(logits_with(gpt2, token_ids, sae, change(sae, gpt2, token_ids, position, feature, 0.0)))
        assert effect == pytest.approx(float(clean - ablated), rel=1e-3, abs=2e-5)
    error = seen(gpt2, sae, token_ids)[2]
    for position in range(7):
        only = torch.zeros(1, 7, 32)
        only[0, position] = error[position]
        expected = float(clean - metric(logits_with(gpt2, token_ids, sae, -only)))
        assert float(effects.error[position]) == pytest.approx(expected, rel=1e-3, abs=2e-5)


def test_top_ablates_the_steepest_alone(gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """With `top`, the features with the largest gradient × activation have the effects of a full run, the others none."""
    sae = make_sae(hook_name=HOOK)
    slopes = attribute(gpt2, sae, token_ids, logit(7))[HOOK]
    full = attribute(gpt2, sae, token_ids, logit(7), "ablation")[HOOK]
    some = attribute(gpt2, sae, token_ids, logit(7), "ablation", top=3)[HOOK]
    chosen = slopes.effect.abs().topk(3).indices

    torch.testing.assert_close(some.effect[chosen], full.effect[chosen], rtol=1e-4, atol=1e-5)
    assert int(some.effect.isnan().sum()) == some.effect.numel() - 3
    assert some.total == pytest.approx(float(full.effect[chosen].sum() + full.error.sum()), rel=1e-3, abs=1e-4)


def test_another_prompt_as_baseline(gpt2: LanguageModel, sae: SAE, token_ids: torch.Tensor) -> None:
    """Integrated gradients from a patch prompt account for the effect of what it has at the hook."""
    other = token_ids.roll(2, dims=1)
    metric = logit_difference(5, 9)
    write = str(sae.cfg.hook_name_write)
    patch = gpt2.activations(other, [write])[write]
    patched = metric(gpt2.logits(token_ids, edits={write: lambda y: patch}))
    (effects,) = attribute(gpt2, sae, token_ids, metric, "integrated", baseline=other, steps=64).values()
    clean = metric(gpt2.logits(token_ids))
    a, b = seen(gpt2, sae, token_ids)[0], seen(gpt2, sae, other)[0]

    assert effects.total == pytest.approx(float(clean - patched), rel=2e-3, abs=2e-3)
    assert torch.equal(torch.stack([effects.position, effects.feature], 1), ((a != 0) | (b != 0)).nonzero())


def test_positions_restrict(gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """Only chosen tokens are attributed, with the effects that they have among all."""
    sae = make_sae(hook_name=HOOK)
    chosen = torch.tensor([False, True, True, False, False, False, True])
    full = attribute(gpt2, sae, token_ids, logit(7))[HOOK]
    some = attribute(gpt2, sae, token_ids, logit(7), positions=chosen)[HOOK]

    assert torch.equal(some.effect, full.effect[chosen[full.position]])
    assert torch.equal(some.error, full.error * chosen)


def test_several_layers_at_once(gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """Effects are total: with SAEs at several layers each has the effects that it has alone."""
    saes = [make_sae(seed, hook_name=f"blocks.{seed}.hook_resid_post") for seed in range(3)] + [transcoders(skip=True)[1]]
    together = attribute(gpt2, saes, token_ids, logit(7))

    assert list(together) == [*(f"blocks.{layer}.hook_resid_post" for layer in range(3)), "blocks.1.hook_mlp_out"]
    for sae in saes:
        name = str(sae.cfg.hook_name_write)
        torch.testing.assert_close(together[name].effect, attribute(gpt2, sae, token_ids, logit(7))[name].effect)


def test_a_cross_layer_transcoder(gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """A layer that writes at several hooks is ablated at all of them; its slope is that of its writes together."""
    hooks = ("blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out", "blocks.2.hook_mlp_out")
    generator = torch.Generator().manual_seed(5)
    plain = make_sae()
    layer = SAE(
        SAEConfig(
            architecture="standard", d_in=32, d_sae=48, hook_name="blocks.0.ln2.hook_normalized", hook_names_out=hooks,
            transcoder=True,
        ),
        W_enc=plain.W_enc, b_enc=plain.b_enc,
        W_dec=torch.randn(48, 3, 32, generator=generator), b_dec=0.1 * torch.randn(3, 32, generator=generator),
    )  # fmt: skip
    (effects,) = attribute(gpt2, layer, token_ids, logit(7), "ablation").values()
    (slopes,) = attribute(gpt2, layer, token_ids, logit(7)).values()
    clean = gpt2.logits(token_ids)[0, -1, 7]
    position, feature, activation, effect = effects.top(1)[0]

    def less(index: int, share: float = 1.0) -> Edit:
        change = torch.zeros(1, 7, 32)
        change[0, position] = share * activation * layer.W_dec[feature, index]
        return lambda y: y - change

    ablated = gpt2.logits(token_ids, edits={hook: less(index) for index, hook in enumerate(hooks)})[0, -1, 7]
    assert effect == pytest.approx(float(clean - ablated), rel=1e-3, abs=2e-5)
    assert bool((effects.error == 0).all())
    # To first order the two are the same: a feature with a hundredth of its activation.
    small = slopes.effect[(slopes.position == position) & (slopes.feature == feature)]
    moved = float(clean - gpt2.logits(token_ids, edits={h: less(i, 0.01) for i, h in enumerate(hooks)})[0, -1, 7]) * 100
    assert float(small) == pytest.approx(moved, rel=0.1, abs=5e-3)


def test_sums_over_positions(gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """`by_feature` adds up positions and orders by size."""
    effects = attribute(gpt2, make_sae(hook_name=HOOK), token_ids, logit(7))[HOOK]
    sums = effects.by_feature()

    assert list(map(abs, sums.values())) == sorted(map(abs, sums.values()), reverse=True)
    for feature, total in sums.items():
        assert total == pytest.approx(float(effects.effect[effects.feature == feature].sum()), rel=1e-5, abs=1e-6)


def test_gemma_with_softcaps_and_post_norms(gemma2: LanguageModel, token_ids: torch.Tensor) -> None:
    """Ablation on a Gemma 2 equals the hand-written edit where its post-norm writes."""
    sae = transcoders()[1]
    (effects,) = attribute(gemma2, sae, token_ids, logit(7), "ablation", top=4).values()
    clean = gemma2.logits(token_ids)[0, -1, 7]

    for position, feature, _, effect in effects.top(4):
        edited = logits_with(gemma2, token_ids, sae, change(sae, gemma2, token_ids, position, feature, 0.0))[0, -1, 7]
        assert effect == pytest.approx(float(clean - edited), rel=1e-3, abs=2e-5)


def test_wrong_arguments_are_refused(gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """Each wrong argument is one clear error."""
    sae = make_sae(hook_name=HOOK)
    run: Any = attribute

    with pytest.raises(ArgumentError, match="expected one of gradient, integrated, ablation"):
        run(gpt2, sae, token_ids, logit(7), "patching")
    with pytest.raises(ArgumentError, match="steps: expected a positive integer"):
        run(gpt2, sae, token_ids, logit(7), steps=0)
    with pytest.raises(ShapeError, match="expected one prompt"):
        run(gpt2, sae, token_ids.repeat(2, 1), logit(7))
    with pytest.raises(ShapeError, match="baseline: expected 7 tokens"):
        run(gpt2, sae, token_ids, logit(7), baseline=token_ids[:, :3])
    with pytest.raises(ShapeError, match="positions: expected bool"):
        run(gpt2, sae, token_ids, logit(7), positions=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ShapeError, match=r"metric: expected one number for each row, \[1\], got \[1, 7\]"):
        run(gpt2, sae, token_ids, lambda logits: logits[..., 0])
    with pytest.raises(ArgumentError, match="at least one SAE"):
        run(gpt2, [], token_ids, logit(7))
