"""Further families: their hooks hold what the block's structure says they must, and edits reach what reads them."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from sae_fast.lm import families
from sae_fast.lm.feature_edits import FeatureEdit
from sae_fast.lm.module import HookedModule
from sae_fast.lm.transformers import TransformersLM


def assert_near(got: Tensor, expected: Tensor, ulps: float = 64) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= ulps * torch.finfo(torch.float32).eps * expected.abs().max()


def block(lm: TransformersLM, token_ids: Tensor, layer: int) -> dict[str, Tensor]:
    """The activations of one block by hook, without the prefix."""
    prefix = f"blocks.{layer}."
    found = lm.activations(token_ids, [name for name in lm.hook_names() if name.startswith(prefix)])
    return {name.removeprefix(prefix): activation for name, activation in found.items()}


def norm_of(lm: TransformersLM, layer: int, hook: str) -> Any:
    return lm.model.get_submodule(lm._points[f"blocks.{layer}.{hook}"].module)


@torch.no_grad()
def test_the_hooks_of_a_block_belong_together(other_lm: TransformersLM, token_ids: Tensor) -> None:
    """The stream adds up; norms, weights put back, give what comes behind them; every hook is `[batch, pos, d]`."""
    lm = other_lm
    hidden_states = lm.model(token_ids, output_hidden_states=True).hidden_states
    for layer in range(3):
        acts = block(lm, token_ids, layer)
        assert_near(acts["hook_resid_pre"], hidden_states[layer])
        if "hook_attn_out" in acts:
            assert_near(acts["hook_resid_pre"] + acts["hook_attn_out"] + acts["hook_mlp_out"], acts["hook_resid_post"])
        if "hook_resid_mid" in acts:
            assert_near(acts["hook_resid_mid"] + acts["hook_mlp_out"], acts["hook_resid_post"])
            assert torch.equal(acts["hook_mlp_in"], acts["hook_resid_mid"])
        if "ln2.hook_normalized" in acts:
            norm, offset = norm_of(lm, layer, "ln2.hook_normalized"), lm._norm_offset
            assert_near(norm(acts["hook_mlp_in"]), acts["mlp.hook_in"])
            weighted = acts["ln2.hook_normalized"] * (getattr(norm, "weight", torch.tensor(1.0)) + offset)
            bias = getattr(norm, "bias", None)
            assert_near(weighted + (0 if bias is None else bias), acts["mlp.hook_in"])
        else:
            stream = acts.get("hook_resid_mid")
            norm = None if stream is not None else norm_of(lm, layer, "ln1.hook_normalized")
            assert_near(acts["mlp.hook_in"], stream if stream is not None else norm(acts["hook_resid_pre"]))
        for name, activation in acts.items():
            assert activation.shape == (3, 11, lm.d_hook(f"blocks.{layer}.{name}"))


@torch.no_grad()
def test_the_first_block_reads_the_embedding_and_the_head_the_final_norm(other_lm: TransformersLM, token_ids: Tensor) -> None:
    """Embedding hooks add up to the first block's input; the normalised stream and `unembed` give the logits."""
    names = [name for name in ("hook_embed", "hook_pos_embed") if name in other_lm.hook_names()]
    found = other_lm.activations(token_ids, [*names, "blocks.0.hook_resid_pre", "ln_final.hook_normalized"])
    unembed = other_lm.unembed()
    norm_bias = getattr(other_lm.model.get_submodule(other_lm._points["ln_final.hook_normalized"].module), "bias", None)

    assert_near(sum(found[name] for name in names), found["blocks.0.hook_resid_pre"])
    final = found["ln_final.hook_normalized"] * unembed.norm_weight + (0 if norm_bias is None else norm_bias)
    logits = final @ unembed.W_U + (0 if unembed.bias is None else unembed.bias)
    assert_near(logits, other_lm.logits(token_ids))


def test_identity_edits_change_no_bit_and_patches_carry_over(other_lm: TransformersLM, token_ids: Tensor) -> None:
    """All hooks edited to what they are give bitwise the same logits; another text's stream gives that text's logits."""
    clean = other_lm.logits(token_ids)
    everywhere = dict.fromkeys(other_lm.hook_names(), lambda a: a.clone())
    assert torch.equal(other_lm.logits(token_ids, edits=everywhere), clean)
    other_ids = token_ids.flip(0).roll(3, dims=1)
    for hook in ("hook_resid_pre", "hook_resid_mid", "hook_resid_post"):
        if (name := f"blocks.1.{hook}") in other_lm.hook_names():
            other = other_lm.activations(other_ids, [name])[name]
            got = other_lm.logits(token_ids, edits={name: lambda _, o=other: o})
            assert_near(got, other_lm.logits(other_ids), ulps=256)
            assert (got - clean).abs().max() > 0.01


def test_padding_and_cached_generation_are_right(other_lm: TransformersLM, token_ids: Tensor, make_sae: Any) -> None:
    """Left-padded activations equal those of the text alone; cached generation with an edit equals whole passes."""
    mask = torch.ones_like(token_ids)
    mask[0, :4] = 0
    name = "blocks.2.hook_resid_post"
    padded = other_lm.activations(token_ids, [name], mask)[name][:1, 4:]
    assert_near(padded, other_lm.activations(token_ids[:1, 4:], [name])[name], ulps=512)

    sae, edit = make_sae("blocks.1.hook_resid_post"), FeatureEdit(3, "add", 6.0, positions=slice(2, None))
    got = other_lm.generate(token_ids, 4, saes=sae, edits=edit, attention_mask=mask, eos_token_id=None)
    ids = token_ids
    for _ in range(4):
        whole = torch.cat([mask, mask.new_ones(3, ids.shape[1] - 11)], 1)
        run = other_lm.run_with_saes(ids, sae, whole, edits=edit, prompt_length=11)
        ids = torch.cat([ids, run.logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(got.token_ids, ids)


def test_names_of_transformer_lens_4_are_found(gpt2: TransformersLM, token_ids: Tensor) -> None:
    """`blocks.1.hook_out` is `blocks.1.hook_resid_post`, and so on for each alias."""
    for new, old in families.ALIASES.items():
        found = gpt2.activations(token_ids, [f"blocks.1.{new}", f"blocks.1.{old}"])
        assert torch.equal(*found.values())


def test_blocks_with_norms_behind_the_sum_have_no_names() -> None:
    """OPT 350m and Bloom's variant have no pre-norm stream: module paths alone are offered."""
    opt = transformers.OPTConfig(do_layer_norm_before=False)
    bloom = transformers.BloomConfig(apply_residual_connection_post_layernorm=True)

    assert families.family_of(opt) is None
    assert families.family_of(bloom) is None


@pytest.fixture
def vision_language_model() -> Any:
    """A tiny Gemma 3 with a vision tower."""
    torch.manual_seed(0)
    text = {"vocab_size": 70, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    text |= {"intermediate_size": 48, "head_dim": 8, "max_position_embeddings": 64}
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision | {"patch_size": 14}, mm_tokens_per_image=4, image_token_index=69
    )
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.get_parameter("model.multi_modal_projector.mm_input_projection_weight").normal_()
    return model


def test_the_text_model_inside_a_vision_model_has_names(vision_language_model: Any) -> None:
    """A Gemma 3 with a vision tower offers the hooks of its text model."""
    lm = TransformersLM(vision_language_model, tokenizer=None)
    ids = torch.arange(5, 14)[None]

    hidden = lm.model(ids, output_hidden_states=True).hidden_states

    found = lm.activations(ids, ["blocks.1.hook_resid_pre", "ln_final.hook_normalized"])
    assert torch.equal(found["blocks.1.hook_resid_pre"], hidden[1])
    assert lm.generate(ids, 2, eos_token_id=None).token_ids.shape == (1, 11)


def test_a_model_that_sees_is_hooked_while_it_sees(vision_language_model: Any) -> None:
    """`HookedModule` of the same model takes its images: text hooks by name, the tower by module path."""
    module = HookedModule(vision_language_model)
    image, text = vision_language_model.config.image_token_id, torch.arange(5, 9)
    ids = torch.cat([torch.full((4,), image), text])[None]
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    types = (ids == image).long()
    tower = next(name for name in module.hook_names() if name.endswith("encoder.layers.0.output"))

    found = module.activations(
        [tower, "blocks.1.hook_resid_post"], input_ids=ids, pixel_values=pixels, token_type_ids=types, use_cache=False
    )

    assert found[tower].shape == (1, 4, 16)
    assert found["blocks.1.hook_resid_post"].shape == (1, 8, 32)
    blind = module.run(
        input_ids=ids, pixel_values=pixels, token_type_ids=types, use_cache=False, edits={tower: torch.zeros_like}
    )
    seeing = module.run(input_ids=ids, pixel_values=pixels, token_type_ids=types, use_cache=False)
    assert (blind.logits - seeing.logits).abs().max() > 1e-3
