"""SAEs spliced into a pass against passes with hand-written replacements."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sae_fast
import sitegen
from sae_fast.errors import ArgumentError, HookNotFoundError, ShapeError
from sae_fast.lm.feature_edits import FeatureEdit
from sae_fast.lm.places import sae_input
from sae_fast.lm.transformers import TransformersLM
from sae_fast.sae import SAE
from sae_fast.sparse import SparseActs

MakeSae = Callable[..., SAE]
HOOK = "blocks.1.hook_resid_post"
ARCHITECTURES = ("standard", "gated", "topk", "jumprelu")
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")


def assert_near(got: Tensor, expected: Tensor, ulps: float = 64) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= ulps * torch.finfo(torch.float32).eps * expected.abs().max()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_replaced_activation_is_the_saes_output(
    main_lm: TransformersLM, token_ids: Tensor, make_sae: MakeSae, architecture: str
) -> None:
    """Without the error term the logits are those of a pass whose activation was replaced by hand."""
    sae = make_sae(HOOK, architecture)
    x = main_lm.activations(token_ids, [HOOK])[HOOK]
    x_hat = sae.encode(x).to_dense() @ sae.W_dec + sae.b_dec

    run = main_lm.run_with_saes(token_ids, sae, error_term=False)

    assert_near(run.logits, main_lm.logits(token_ids, edits={HOOK: lambda _: x_hat}))
    assert (run.logits - main_lm.logits(token_ids)).abs().max() > 0.01


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_with_the_error_term_nothing_changes(
    main_lm: TransformersLM, token_ids: Tensor, make_sae: MakeSae, normalisation: str
) -> None:
    """SAEs at several hooks, error kept, no edit: bitwise the model's own logits, with gradients recorded or not."""
    saes = [
        make_sae(HOOK, normalize_activations=normalisation),
        make_sae("blocks.0.hook_mlp_in", transcoder=True, skip=True, hook_name_out="blocks.0.hook_mlp_out"),
        make_sae("blocks.2.hook_attn_out", "topk", seed=3, normalize_activations=normalisation),
    ]
    clean = main_lm.logits(token_ids)

    assert torch.equal(main_lm.run_with_saes(token_ids, saes).logits, clean)
    assert torch.equal(main_lm.run_with_saes(token_ids, saes, grad=True).logits, clean)


def test_a_skip_transcoder_is_its_forward(main_lm: TransformersLM, token_ids: Tensor, make_sae: MakeSae) -> None:
    """Read at one hook, written at another, skip term included."""
    read, write = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"
    sae = make_sae(read, transcoder=True, skip=True, hook_name_out=write)
    x = main_lm.activations(token_ids, [read])[read]
    y = sae.encode(x).to_dense() @ sae.W_dec + sae.b_dec + x @ sae.tensors()["W_skip"].T
    assert_near(sae.forward(x), y)

    run = main_lm.run_with_saes(token_ids, sae, error_term=False)

    assert_near(run.logits, main_lm.logits(token_ids, edits={write: lambda _: y}))
    cached = run.cache[f"{write}.hook_sae_recons"]
    assert isinstance(cached, Tensor)
    assert_near(cached, y)
    assert torch.equal(run.cache[f"{read}.hook_sae_input"], x)  # type: ignore[arg-type]


def test_layers_of_a_cross_layer_transcoder_add_up(main_lm: TransformersLM, token_ids: Tensor, make_sae: MakeSae) -> None:
    """What two layers write at one hook is summed, each from its own reading."""
    outs = [f"blocks.{layer}.hook_mlp_out" for layer in range(3)]
    layers = [
        make_sae(f"blocks.{layer}.hook_mlp_in", seed=layer, transcoder=True, hook_names_out=tuple(outs[layer:]))
        for layer in range(3)
    ]
    written: dict[str, Tensor] = {}
    read: dict[str, Tensor] = {}

    def reading(layer: int) -> Callable[[Tensor], Tensor]:
        def read_here(x: Tensor) -> Tensor:
            acts = layers[layer].encode(x).to_dense()
            for index, out in enumerate(outs[layer:]):
                part = acts @ layers[layer].W_dec[:, index] + layers[layer].b_dec[index]
                written[out] = written.get(out, 0) + part
            read[outs[layer]] = x
            return x

        return read_here

    by_hand = {f"blocks.{layer}.hook_mlp_in": reading(layer) for layer in range(3)}
    expected = main_lm.logits(token_ids, edits=by_hand | {out: lambda y, o=out: written[o] for out in outs})

    run = main_lm.run_with_saes(token_ids, layers, error_term=False)

    assert_near(run.logits, expected)
    assert_near(run.cache["blocks.1.hook_mlp_in.hook_sae_output"][..., 1, :], written[outs[2]])  # type: ignore[index]
    assert torch.equal(main_lm.run_with_saes(token_ids, layers).logits, main_lm.logits(token_ids))


def test_a_centred_sae_reads_and_writes_the_stream_without_its_mean(
    gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae
) -> None:
    """As on processed weights: the mean over d_model is taken away before, and put back after."""
    sae = make_sae(HOOK, centred=True)
    x = gpt2.activations(token_ids, [HOOK])[HOOK]
    mean = x.mean(-1, keepdim=True)
    assert mean.abs().max() > 0.05
    x_hat = sae.encode(x - mean).to_dense() @ sae.W_dec + sae.b_dec + mean

    run = gpt2.run_with_saes(token_ids, sae, error_term=False)

    assert_near(run.logits, gpt2.logits(token_ids, edits={HOOK: lambda _: x_hat}))
    assert_near(run.cache[f"{HOOK}.hook_sae_output"], x_hat)  # type: ignore[arg-type]
    read = run.cache[f"{HOOK}.hook_sae_input"]
    assert isinstance(read, Tensor)
    assert read.mean(-1).abs().max() <= 8 * torch.finfo(torch.float32).eps * x.abs().max()
    assert torch.equal(sae_input(sae, x, "blocks.1.attn.hook_z"), x)
    parts = [run.cache[f"{HOOK}.hook_sae_{part}"] for part in ("recons", "error")]
    assert_near(sum(parts), x - mean)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_the_cache_holds_what_its_names_say(
    gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae, architecture: str, normalisation: str
) -> None:
    """Input = reconstruction + error; post-activations are the encoding; pre-activations give them where they fire."""
    sae = make_sae(HOOK, architecture, normalize_activations=normalisation, apply_b_dec_to_input=True)
    run = gpt2.run_with_saes(token_ids, sae, error_term=False, hook_names=["blocks.2.hook_resid_pre"])
    cache = run.cache

    acts = cache[f"{HOOK}.hook_sae_acts_post"]
    assert isinstance(acts, SparseActs)
    x = cache[f"{HOOK}.hook_sae_input"]
    assert torch.equal(x, gpt2.activations(token_ids, [HOOK])[HOOK])  # type: ignore[arg-type]
    assert torch.equal(acts.to_dense(), sae.encode(x).to_dense())  # type: ignore[arg-type]
    assert_near(cache[f"{HOOK}.hook_sae_recons"] + cache[f"{HOOK}.hook_sae_error"], x)  # type: ignore[operator, arg-type]
    assert_near(cache[f"{HOOK}.hook_sae_output"], sae(x))  # type: ignore[arg-type]
    assert torch.equal(cache["blocks.2.hook_resid_pre"], cache[f"{HOOK}.hook_sae_output"])  # type: ignore[arg-type]
    pre = cache[f"{HOOK}.hook_sae_acts_pre"]
    assert isinstance(pre, Tensor)
    fired = acts.to_dense() != 0
    assert fired.any()
    assert_near(pre[fired], acts.to_dense()[fired])
    assert len(cache) == 7 == len(list(cache))
    assert all(name in cache for name in cache)
    assert cache.acts() is acts


def test_a_name_that_is_not_in_the_cache_is_refused(gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae) -> None:
    """The message lists the names that are there; mapping methods behave as for any missing key."""
    cache = gpt2.run_with_saes(token_ids, make_sae(HOOK)).cache
    name = "blocks.0.hook_resid_post.hook_sae_acts_post"

    with pytest.raises(HookNotFoundError, match=r"no 'blocks\.0.*expected one of blocks\.1\.hook_resid_post\.hook_sae_input"):
        cache[name]
    assert cache.get(name) is None
    assert name not in cache


def test_encode_stops_early_and_equals_the_cache(gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae) -> None:
    """`encode` gives the same activations as a whole pass, without running what comes after the last hook."""
    saes = [make_sae("blocks.0.hook_resid_post"), make_sae("blocks.1.hook_resid_pre", "topk")]
    ran: list[int] = []
    handle = gpt2.model.transformer.h[1].register_forward_hook(lambda *_: ran.append(1))
    try:
        found = gpt2.encode(token_ids, saes)
    finally:
        handle.remove()
    cache = gpt2.run_with_saes(token_ids, saes).cache

    assert not ran
    assert list(found) == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"]
    for hook, acts in found.items():
        assert torch.equal(acts.to_dense(), cache.acts(hook).to_dense())


def test_padding_is_left_alone(main_lm: TransformersLM, token_ids: Tensor, make_sae: MakeSae) -> None:
    """A padded batch gives at real tokens what each text gives alone, and `where` restricts the splice to some of them."""
    sae = make_sae(HOOK)
    mask = torch.ones_like(token_ids)
    mask[0, :4] = 0

    run = main_lm.run_with_saes(token_ids, sae, mask, error_term=False, where=slice(1, None))

    x = main_lm.activations(token_ids[:1, 4:], [HOOK])[HOOK]
    y = torch.cat([x[:, :1], sae(x)[:, 1:]], 1)
    assert_near(run.logits[:1, 4:], main_lm.logits(token_ids[:1, 4:], edits={HOOK: lambda _: y}), ulps=256)


def test_gradients_flow_through_the_features_and_not_through_the_error(
    gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae
) -> None:
    """The gradient with respect to activations is the decoder row times the gradient at the hook."""
    sae = make_sae(HOOK)
    gpt2.model.requires_grad_(False)
    stream: list[Tensor] = []

    def leaf(x: Tensor) -> Tensor:
        stream.append(x.detach().clone().requires_grad_())
        return stream[-1]

    (at_hook,) = torch.autograd.grad(gpt2.logits(token_ids, edits={HOOK: leaf}, grad=True)[0, -1, 5], stream[0])
    run = gpt2.run_with_saes(token_ids, sae, edits={HOOK: leaf}, grad=True)
    acts = run.cache.acts()
    (of_features, of_stream) = torch.autograd.grad(run.logits[0, -1, 5], [acts.values, stream[1]])

    expected = (at_hook.reshape(-1, 32)[acts.row_indices()] * sae.W_dec[acts.col_indices.long()]).sum(-1)
    assert_near(of_features, expected)
    by_row = torch.zeros(33, 32).index_add(0, acts.row_indices(), of_features[:, None] * sae.W_enc.T[acts.col_indices.long()])
    assert_near(of_stream.reshape(-1, 32), by_row)


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ([HOOK, HOOK], "expected one SAE a hook, got two that write at blocks.1.hook_resid_post"),
        ([None], "expected the name of the hook that it reads, got none"),
    ],
)
def test_saes_that_cannot_be_placed_are_refused(
    gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae, hooks: list[str | None], message: str
) -> None:
    """Two SAEs that would write at one place, and one that belongs nowhere."""
    saes = [make_sae(hook) for hook in hooks]
    with pytest.raises(ArgumentError, match=message):
        gpt2.run_with_saes(token_ids, saes)


def test_an_sae_of_another_width_or_model_is_refused(gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae) -> None:
    """Before the pass: the width is compared with the hook's, the hook with the model's."""
    with pytest.raises(ShapeError, match=r"d_in of the SAE at blocks.1.mlp.hook_post: expected 128"):
        gpt2.run_with_saes(token_ids, make_sae("blocks.1.mlp.hook_post"))
    with pytest.raises(HookNotFoundError, match=r"blocks\.7"):
        gpt2.run_with_saes(token_ids, make_sae("blocks.7.hook_resid_post"))
    backwards = make_sae("blocks.2.hook_resid_post", transcoder=True, hook_name_out="blocks.1.hook_mlp_out")
    with pytest.raises(ArgumentError, match="to read before that"):
        gpt2.run_with_saes(token_ids, backwards, error_term=False)


def test_heads_are_read_and_written_side_by_side(main_lm: TransformersLM, token_ids: Tensor, make_sae: MakeSae) -> None:
    """An SAE on `attn.hook_z`, with the width that the model's heads have together."""
    hook = "blocks.1.attn.hook_z"
    width = main_lm.d_hook(hook)
    sae = make_sae(hook, d_in=width, reshape_activations="hook_z")
    z = main_lm.activations(token_ids, [hook])[hook]

    run = main_lm.run_with_saes(token_ids, sae, error_term=False)

    assert_near(run.logits, main_lm.logits(token_ids, edits={hook: lambda _: sae(z)}))
    assert run.cache[f"{hook}.hook_sae_recons"].shape == z.shape


def test_half_precision_changes_nothing_where_nothing_is_edited(
    build_lm: Callable[[str], TransformersLM], token_ids: Tensor, make_sae: MakeSae
) -> None:
    """In bf16, tokens without an edit keep every bit, and an edit is rounded once."""
    lm = TransformersLM(build_lm("llama").model.bfloat16(), tokenizer=None)
    sae = make_sae(HOOK)
    x = lm.activations(token_ids, [HOOK])[HOOK]
    assert x.dtype == torch.bfloat16

    run = lm.run_with_saes(token_ids, sae, edits=FeatureEdit(5, "add", 3.0, positions=[4]))

    written = run.cache[f"{HOOK}.hook_sae_output"]
    assert isinstance(written, Tensor)
    assert torch.equal(written[:, :4], x[:, :4])
    assert torch.equal(written[:, 4], (x[:, 4].float() + 3.0 * sae.W_dec[5]).bfloat16())
    assert torch.equal(lm.run_with_saes(token_ids, sae).logits, lm.logits(token_ids))


def test_an_encoder_alone_is_read_and_cannot_write(gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae) -> None:
    """Without a decoder the activations are there, and everything that needs it says so."""
    sae = make_sae(HOOK).replace(W_dec=None)

    run = gpt2.run_with_saes(token_ids, sae)

    assert run.cache.acts().nnz > 0
    with pytest.raises(ArgumentError, match="W_dec"):
        gpt2.run_with_saes(token_ids, sae, error_term=False)


def test_the_demo_model_with_its_saes() -> None:
    """The same on the demo: splicing by hand, an edit by hand, and generation that equals whole passes."""
    demo = Path(sitegen.__file__).parent / "demo"
    if not (demo / "saes" / "topk").is_dir():
        pytest.skip("the demo's SAEs are not in sitegen/demo")
    lm = sae_fast.lm.load(demo / "lm", dtype="float32")
    sae = sae_fast.load(demo / "saes" / "topk")
    hook = str(sae.cfg.hook_name)
    token_ids, mask = lm.tokenize(["import os\nimport", "class Point:\n    def __init__(self"], prepend_bos=True)
    x = lm.activations(token_ids, [hook], mask)[hook]
    acts = sae.encode(x)
    feature = int(acts.col_indices[acts.values.argmax()])
    real = mask.bool()[..., None]

    replaced = lm.run_with_saes(token_ids, sae, mask, error_term=False).logits
    by_hand = lm.logits(token_ids, mask, {hook: lambda a: torch.where(real, sae.decode(acts), a)})
    assert_near(replaced[mask.bool()], by_hand[mask.bool()])

    edit = FeatureEdit(feature, "scale", 3.0)
    change = (2 * acts[..., feature])[..., None] * sae.W_dec[feature].float()
    edited = lm.run_with_saes(token_ids, sae, mask, edits=edit).logits
    by_hand = lm.logits(token_ids, mask, {hook: lambda a: torch.where(real, a + change, a)})
    assert_near(edited[mask.bool()], by_hand[mask.bool()], ulps=1024)

    got = lm.generate(token_ids, 5, attention_mask=mask, saes=sae, edits=edit, eos_token_id=None)
    for step in range(5):
        length = token_ids.shape[1] + step
        run = lm.run_with_saes(got.token_ids[:, :length], sae, got.attention_mask[:, :length], edits=edit)
        assert torch.equal(run.logits[:, -1].argmax(-1), got.token_ids[:, length])
