"""Crosscoders in passes and in generation, and whole cross-layer transcoders, against passes written by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sae_fast.lm
from sae_fast.attribution import direct_logit_attribution
from sae_fast.errors import ArgumentError, HookNotFoundError, ShapeError
from sae_fast.lm.feature_edits import Condition, FeatureEdit
from sae_fast.lm.transformers import TransformersLM
from sae_fast.sae import SAE, SAEConfig

MakeSae = Callable[..., SAE]
HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_mlp_out", "blocks.2.hook_resid_pre")
NAME = "+".join(HOOKS)
D = 32
N_NEW = 4
MASK = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 11, [0] * 8 + [1] * 3])
EDITS = {
    "none": [],
    "add": [FeatureEdit(3, "add", 6.0, positions=slice(2, None))],
    "clamp": [FeatureEdit([3, 4], "clamp", 5.0, positions="generated"), FeatureEdit(5, "ablate")],
    "condition": [FeatureEdit(4, "scale", 3.0, condition=Condition(above=0.0, feature=7))],
}


def assert_near(got: Tensor, expected: Tensor, ulps: float = 256) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= ulps * torch.finfo(torch.float32).eps * expected.abs().max()


@pytest.fixture
def crosscoder(make_sae: MakeSae) -> SAE:
    return make_sae(None, d_in=3 * D, hook_names=HOOKS)


def by_hand(lm: TransformersLM, sae: SAE, ids: Tensor, mask: Tensor | None = None, edits: Any = None) -> dict[str, Tensor]:
    """What the crosscoder makes of each hook of the clean pass, `[batch, pos, d]`."""
    found = lm.activations(ids, HOOKS, mask, edits)
    dense = sae.encode(torch.cat([found[hook] for hook in HOOKS], -1)).to_dense()
    return {hook: dense @ sae.W_dec[:, i * D : (i + 1) * D] + sae.b_dec[i * D : (i + 1) * D] for i, hook in enumerate(HOOKS)}


def putting(values: dict[str, Tensor], at: Tensor | None = None) -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        hook: lambda y, value=value: value if at is None else torch.where(at[..., None], value, y)
        for hook, value in values.items()
    }


def test_it_writes_at_all_hooks_what_it_read_of_a_clean_pass(
    main_lm: TransformersLM, token_ids: Tensor, crosscoder: SAE
) -> None:
    """Without the error term the logits are those of a second pass whose activations were replaced by hand."""
    x_hat = by_hand(main_lm, crosscoder, token_ids)

    run = main_lm.run_with_saes(token_ids, crosscoder, error_term=False)

    assert_near(run.logits, main_lm.logits(token_ids, edits=putting(x_hat)))
    assert (run.logits - main_lm.logits(token_ids)).abs().max() > 0.01


def test_with_the_error_term_nothing_changes(
    main_lm: TransformersLM, token_ids: Tensor, crosscoder: SAE, make_sae: MakeSae
) -> None:
    """Beside another SAE, recorded for gradients or not: bitwise the model's own logits."""
    saes = [crosscoder, make_sae("blocks.1.hook_attn_out", "topk", seed=3)]
    clean = main_lm.logits(token_ids)

    assert torch.equal(main_lm.run_with_saes(token_ids, saes).logits, clean)
    assert torch.equal(main_lm.run_with_saes(token_ids, saes, grad=True).logits, clean)


def test_a_perfect_crosscoder_changes_nothing(main_lm: TransformersLM, token_ids: Tensor) -> None:
    """Every coordinate by its positive and its negative part: its output has no error, and the logits are the model's."""
    eye = torch.eye(3 * D)
    cfg = SAEConfig(architecture="standard", d_in=3 * D, d_sae=6 * D, hook_names=HOOKS)
    W_enc = torch.cat([eye, -eye], 1)
    perfect = SAE(cfg, W_enc=W_enc, W_dec=W_enc.T, b_enc=torch.zeros(6 * D), b_dec=torch.zeros(3 * D))

    run = main_lm.run_with_saes(token_ids, perfect, error_term=False)

    assert_near(run.logits, main_lm.logits(token_ids), ulps=16)


def test_an_edit_adds_decoder_rows_to_the_clean_pass_at_all_hooks(
    main_lm: TransformersLM, token_ids: Tensor, crosscoder: SAE
) -> None:
    """Where it applies; elsewhere the activations are those that follow from it. Recorded for gradients it is the same."""
    at = torch.zeros_like(token_ids, dtype=torch.bool)
    at[:, 4:] = True
    clean = main_lm.activations(token_ids, HOOKS)
    rows = crosscoder.parts(6.0 * crosscoder.W_dec[3])
    expected = main_lm.logits(
        token_ids, edits=putting({hook: clean[hook] + row for hook, row in zip(HOOKS, rows, strict=True)}, at)
    )
    edit = FeatureEdit(3, "add", 6.0, positions=slice(4, None))

    for grad in (False, True):
        run = main_lm.run_with_saes(token_ids, crosscoder, edits=edit, grad=grad)
        assert_near(run.logits, expected)
    assert (expected - main_lm.logits(token_ids)).abs().max() > 0.01
    assert torch.equal(run.logits[:, :4], main_lm.logits(token_ids)[:, :4])


def test_ablation_and_replacement_apply_together(main_lm: TransformersLM, token_ids: Tensor, crosscoder: SAE) -> None:
    """Edited features, the error dropped at some tokens only, and a function at a hook that both passes undergo."""
    halved: dict[str, Any] = {"blocks.0.hook_attn_out": lambda y: y / 2}
    found = main_lm.activations(token_ids, HOOKS, edits=halved)
    acts = crosscoder.encode(torch.cat([found[hook] for hook in HOOKS], -1)).to_dense()
    feature = int(acts.flatten(0, 1).sum(0).argmax())
    acts[..., feature] = 0
    x_hat = dict(zip(HOOKS, crosscoder.parts(acts @ crosscoder.W_dec + crosscoder.b_dec), strict=True))
    at = torch.zeros_like(token_ids, dtype=torch.bool)
    at[:, 2:7] = True

    edits = {HOOKS[1]: FeatureEdit(feature, "ablate"), **halved}
    run = main_lm.run_with_saes(token_ids, crosscoder, error_term=False, where=slice(2, 7), edits=edits)

    assert_near(run.logits, main_lm.logits(token_ids, edits=halved | putting(x_hat, at)))


def test_the_cache_holds_what_its_names_say(gpt2: TransformersLM, token_ids: Tensor, crosscoder: SAE) -> None:
    """Side by side; any of its hooks names it; input is reconstruction and error."""
    clean = gpt2.activations(token_ids, HOOKS)
    x = torch.cat([clean[hook] for hook in HOOKS], -1)

    run = gpt2.run_with_saes(token_ids, crosscoder, error_term=False, hook_names=["blocks.2.hook_resid_pre"])

    assert torch.equal(run.cache[f"{NAME}.hook_sae_input"], x)  # type: ignore[arg-type]
    assert run.cache.acts(HOOKS[1]) is run.cache[f"{NAME}.hook_sae_acts_post"]
    recons, error = (run.cache[f"{NAME}.hook_sae_{part}"] for part in ("recons", "error"))
    assert_near(recons, crosscoder(x))  # type: ignore[arg-type]
    assert_near(recons + error, x)  # type: ignore[operator]
    assert torch.equal(run.cache[f"{NAME}.hook_sae_output"], recons)  # type: ignore[arg-type]
    assert torch.equal(run.cache["blocks.2.hook_resid_pre"], crosscoder.parts(recons)[2])  # type: ignore[arg-type]
    assert all(name in run.cache for name in run.cache)


def test_encode_takes_one_pass_that_stops_after_the_last_hook(
    gpt2: TransformersLM, token_ids: Tensor, crosscoder: SAE, make_sae: MakeSae
) -> None:
    """Under the names of its hooks joined, beside other SAEs."""
    ran: list[int] = []
    handles = [gpt2.model.transformer.h[i].register_forward_hook(lambda *_, i=i: ran.append(i)) for i in (0, 2)]
    try:
        found = gpt2.encode(token_ids, [crosscoder, make_sae("blocks.1.hook_attn_out")])
    finally:
        for handle in handles:
            handle.remove()

    assert ran == [0]
    assert list(found) == [NAME, "blocks.1.hook_attn_out"]
    expected = gpt2.run_with_saes(token_ids, {NAME: crosscoder}).cache.acts()
    assert torch.equal(found[NAME].to_dense(), expected.to_dense())


def assert_generation_is_recomputation(lm: TransformersLM, ids: Tensor, **settings: Any) -> None:
    options = {"eos_token_id": None, "return_dict_in_generate": True, "output_logits": True}

    got = lm.generate(ids, N_NEW, attention_mask=MASK, **settings, **options)

    mask = MASK
    for step in range(N_NEW):
        logits = lm.run_with_saes(ids, attention_mask=mask, prompt_length=11, **settings).logits[:, -1]
        assert_near(got.details.logits[step], logits)
        ids = torch.cat([ids, got.token_ids[:, 11 + step, None]], 1)
        mask = torch.cat([mask, mask.new_ones(3, 1)], 1)


@pytest.mark.parametrize(("name", "error_term"), [("none", True), ("add", True), ("condition", True), ("clamp", False)])
def test_cached_generation_equals_full_recomputation(
    gpt2: TransformersLM, token_ids: Tensor, crosscoder: SAE, name: str, error_term: bool
) -> None:
    """Both passes of each step continue a cache of their own; batched and left-padded."""
    assert_generation_is_recomputation(gpt2, token_ids, saes=crosscoder, edits=EDITS[name], error_term=error_term)


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3.5"])
def test_caches_of_any_kind_are_kept_apart(family: str, build_lm: Any, token_ids: Tensor, crosscoder: SAE) -> None:
    """Whole, sliding and of linear attention."""
    assert_generation_is_recomputation(build_lm(family), token_ids, saes=crosscoder, edits=EDITS["clamp"])


def test_samples_of_a_prompt_and_no_cache(gpt2: TransformersLM, token_ids: Tensor, crosscoder: SAE) -> None:
    """Several rows a prompt, and whole passes where the cache is turned off, give the same; beams are refused."""
    settings: dict[str, Any] = {"saes": crosscoder, "edits": EDITS["add"], "attention_mask": MASK, "eos_token_id": None}
    greedy = gpt2.generate(token_ids, 3, **settings).token_ids

    samples = gpt2.generate(token_ids, 3, do_sample=True, top_k=1, num_return_sequences=2, **settings)

    assert torch.equal(samples.token_ids, greedy.repeat_interleave(2, 0))
    assert torch.equal(gpt2.generate(token_ids, 3, use_cache=False, **settings).token_ids, greedy)
    with pytest.raises(ArgumentError, match=r"num_beams: expected 1 with a crosscoder, got 2\. Sample instead"):
        gpt2.generate(token_ids, 3, num_beams=2, **settings)


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
def test_every_backend_does_the_same(backend: str, gpt2_folder: Any, crosscoder: SAE) -> None:
    """Passes, edits, encoding and generation, left-padded."""
    pytest.importorskip(backend)
    ids = torch.randint(6, 300, (3, 11), generator=torch.Generator().manual_seed(1))
    plain = sae_fast.lm.load(gpt2_folder, attn_implementation="eager")
    other = sae_fast.lm.load(gpt2_folder, backend=backend, attn_implementation="eager")
    real = MASK.bool()

    for settings in ({"error_term": False}, {"edits": EDITS["add"]}):
        expected = plain.run_with_saes(ids, crosscoder, MASK, **settings)  # type: ignore[arg-type]
        got = other.run_with_saes(ids, crosscoder, MASK, **settings)  # type: ignore[arg-type]
        assert_near(got.logits[real], expected.logits[real], ulps=1024)
    assert torch.equal(other.run_with_saes(ids, crosscoder, MASK).logits, other.logits(ids, MASK))
    acts, expected_acts = (lm.encode(ids, crosscoder, MASK)[NAME].to_dense()[real] for lm in (other, plain))
    assert_near(acts, expected_acts, ulps=1024)
    generated = [
        lm.generate(ids, 3, saes=crosscoder, edits=EDITS["add"], attention_mask=MASK, eos_token_id=None).token_ids
        for lm in (plain, other)
    ]
    assert torch.equal(*generated)


def test_gradients_reach_its_features_through_all_hooks(gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae) -> None:
    """That of a feature is the sum over hooks of its decoder row times the gradient at the hook; the error is a constant."""
    hooks = tuple(f"blocks.{layer}.hook_mlp_out" for layer in range(3))
    crosscoder = make_sae(None, d_in=3 * D, hook_names=hooks)
    leaves: dict[str, Tensor] = {}

    def leaf_at(hook: str) -> Callable[[Tensor], Tensor]:
        def leaf(x: Tensor) -> Tensor:
            leaves[hook] = x.detach().clone().requires_grad_()
            return leaves[hook]

        return leaf

    logits = gpt2.logits(token_ids, edits={hook: leaf_at(hook) for hook in hooks}, grad=True)
    at_hooks = torch.cat(torch.autograd.grad(logits[0, -1, 5], [leaves[hook] for hook in hooks]), -1).reshape(-1, 3 * D)

    run = gpt2.run_with_saes(token_ids, crosscoder, edits={"hook_embed": leaf_at("x")}, grad=True)
    acts = run.cache.acts()
    (of_features,) = torch.autograd.grad(run.logits[0, -1, 5], acts.values)

    assert_near(of_features, (at_hooks[acts.row_indices()] * crosscoder.W_dec[acts.col_indices.long()]).sum(-1))


def test_widths_differ_and_a_centred_stream_is_centred_by_itself(
    gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae
) -> None:
    """An MLP's hidden layer beside the residual stream: only the latter has its mean taken away, and put back."""
    hooks = ("blocks.0.mlp.hook_post", "blocks.1.hook_resid_post")
    sae = make_sae(None, d_in=128 + D, hook_names=hooks, hook_widths=(128, D), centred=True)
    found = gpt2.activations(token_ids, hooks)
    mean = found[hooks[1]].mean(-1, keepdim=True)
    x = torch.cat([found[hooks[0]], found[hooks[1]] - mean], -1)
    hidden, stream = sae.parts(sae(x))

    run = gpt2.run_with_saes(token_ids, sae, error_term=False)

    assert_near(run.logits, gpt2.logits(token_ids, edits=putting({hooks[0]: hidden, hooks[1]: stream + mean})))
    assert_near(sae_fast.lm.sae_input(sae, found), x)
    assert_near(sae_fast.lm.sae_input(sae, torch.cat([found[hook] for hook in hooks], -1)), x)
    with pytest.raises(ShapeError, match=r"hook_widths of the SAE at .*: expected 32, the width at blocks.0.hook_resid_post"):
        gpt2.run_with_saes(token_ids, {"blocks.0.hook_resid_post+blocks.1.hook_resid_post": sae})


def test_a_module_of_any_kind(crosscoder: SAE) -> None:
    """As in a language model: clean pass, then a pass that is written to."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(D, D) for _ in range(4)))
    module = sae_fast.lm.wrap(model)
    hooks, x = ("0.output", "1.output", "2.output"), torch.randn(5, D)
    named = {"+".join(hooks): crosscoder}
    found = module.activations(hooks, x)
    expected = crosscoder(torch.cat([found[hook] for hook in hooks], -1))

    run = module.run_with_saes(named, x, error_term=False)

    assert_near(run.output, model[3](crosscoder.parts(expected)[2]))
    assert torch.equal(module.run_with_saes(named, x).output, model(x))
    assert torch.equal(next(iter(module.encode(named, x).values())).to_dense(), run.cache.acts().to_dense())


def test_what_cannot_be_placed_is_refused(gpt2: TransformersLM, token_ids: Tensor, crosscoder: SAE, make_sae: MakeSae) -> None:
    """Hooks shared with another SAE, unknown hooks, two models, attribution: each says what to do instead."""
    unnamed = make_sae(None, d_in=2 * D, hook_widths=(D, D))
    of_two = make_sae(None, d_in=2 * D, hook_widths=(D, D), metadata={"models": ["base", "chat"]})

    with pytest.raises(ArgumentError, match=r"one SAE a hook, got two that write at blocks\.1\.hook_mlp_out"):
        gpt2.run_with_saes(token_ids, [make_sae(HOOKS[1]), crosscoder])
    with pytest.raises(ArgumentError, match=r"the names of the 2 hooks that it reads, got none\. Load it with hook_names"):
        gpt2.run_with_saes(token_ids, unnamed)
    with pytest.raises(ArgumentError, match="the names of the 2 hooks that it reads, got a"):
        gpt2.run_with_saes(token_ids, {"a": unnamed})
    with pytest.raises(ArgumentError, match=r"hooks of one model, got a crosscoder of several: base, chat\. Run each model"):
        gpt2.encode(token_ids, of_two)
    with pytest.raises(ArgumentError, match=r"attribution: .*got a crosscoder at blocks\.0"):
        direct_logit_attribution(gpt2, crosscoder, token_ids[:1], [5])
    with pytest.raises(HookNotFoundError, match=r"blocks\.7"):
        gpt2.encode(token_ids, {"blocks.0.hook_resid_post+blocks.7.hook_resid_post": unnamed})


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_perfect_cross_layer_transcoder_changes_nothing(build_lm: Any, token_ids: Tensor, family: str) -> None:
    """All its layers in one pass: the stream after two blocks is the sum of what four of them write there."""
    lm: TransformersLM = build_lm(family)
    first, second = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
    eye = torch.eye(D)
    layers = []
    for read, outs in (
        ("blocks.0.hook_resid_mid", (first, second)),
        ("blocks.0.hook_mlp_out", (first, second)),
        ("blocks.1.hook_attn_out", (second,)),
        ("blocks.1.hook_mlp_out", (second,)),
    ):
        sizes: dict[str, int] = {"d_in": D, "d_sae": 2 * D}
        cfg = SAEConfig(architecture="standard", hook_name=read, hook_names_out=outs, **sizes)
        W_dec = torch.cat([eye, -eye])[:, None].repeat(1, len(outs), 1)
        biases = {"b_enc": torch.zeros(2 * D), "b_dec": torch.zeros(len(outs), D)}
        layers.append(SAE(cfg, W_enc=torch.cat([eye, -eye], 1), W_dec=W_dec, **biases))
    clean = lm.logits(token_ids).log_softmax(-1)

    logits = lm.run_with_saes(token_ids, layers, error_term=False).logits.log_softmax(-1)

    assert (clean.exp() * (clean - logits)).sum(-1).abs().max() < 1e-6
    assert_near(logits, clean)
    less = lm.run_with_saes(token_ids, layers[1:], error_term=False).logits.log_softmax(-1)
    assert (less - clean).abs().max() > 0.1
