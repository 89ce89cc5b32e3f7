"""Encoders, vision towers and plain modules: activations, edits and SAEs by module path."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import sae_fast.lm
from sae_fast.errors import ArgumentError, FormatError, HookNotFoundError, ShapeError
from sae_fast.lm.feature_edits import FeatureEdit
from sae_fast.lm.module import HookedModule
from sae_fast.lm.transformers import TransformersLM
from sae_fast.sae import SAE

MakeSae = Callable[..., SAE]
_ENCODER: dict[str, Any] = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48)


def assert_near(got: Tensor, expected: Tensor, ulps: float = 64) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= ulps * torch.finfo(torch.float32).eps * expected.abs().max()


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random vision transformer on disk."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    transformers.ViTModel(transformers.ViTConfig(**_ENCODER, image_size=16, patch_size=4)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_vision_tower_is_read_and_spliced_by_module_path(vit_folder: Path, pixels: Tensor, make_sae: MakeSae) -> None:
    """An SAE on the patches of a layer: encoded with early stop, put in the place of the activation, edited at some patches."""
    vit = sae_fast.lm.load_module(vit_folder, dtype="float32", attn_implementation="eager")
    path = next(name for name in vit.hook_names() if name.endswith("1.output") and name.count(".") <= 3)
    sae = make_sae(path)
    clean = vit.run(pixel_values=pixels).last_hidden_state
    x = vit.activations([path], pixel_values=pixels)[path]
    assert x.shape == (2, 17, 32)

    def replaced(_: Tensor) -> Tensor:
        return sae.encode(x).to_dense() @ sae.W_dec + sae.b_dec

    run = vit.run_with_saes(sae, pixel_values=pixels, error_term=False)
    assert_near(run.output.last_hidden_state, vit.run(pixel_values=pixels, edits={path: replaced}).last_hidden_state)
    assert torch.equal(vit.encode(sae, pixel_values=pixels)[path].to_dense(), run.cache.acts().to_dense())
    assert torch.equal(vit.run_with_saes(sae, pixel_values=pixels).output.last_hidden_state, clean)

    def added(activation: Tensor) -> Tensor:
        new = activation.clone()
        new[:, 3] += 2.0 * sae.W_dec[5]
        return new

    edited = vit.run_with_saes(sae, pixel_values=pixels, edits=FeatureEdit(5, "add", 2.0, positions=3))
    assert_near(edited.output.last_hidden_state, vit.run(pixel_values=pixels, edits={path: added}).last_hidden_state)
    assert (edited.output.last_hidden_state - clean).abs().max() > 0.01


def test_an_encoder_takes_whatever_arguments_it_takes(token_ids: Tensor) -> None:
    """A BERT with an attention mask, positional and by name; activations equal its own hidden states."""
    torch.manual_seed(0)
    bert = sae_fast.lm.wrap(transformers.BertModel(transformers.BertConfig(**_ENCODER, vocab_size=70), add_pooling_layer=False))
    assert isinstance(bert, HookedModule)
    mask = torch.ones_like(token_ids)
    mask[0, 6:] = 0

    found = bert.activations(["encoder.layer.1.output", "encoder.layer.0.attention.input"], token_ids, attention_mask=mask)

    hidden = bert.model(token_ids, attention_mask=mask, output_hidden_states=True).hidden_states
    assert torch.equal(found["encoder.layer.1.output"], hidden[2])
    assert torch.equal(found["encoder.layer.0.attention.input"], hidden[0])
    assert not found["encoder.layer.1.output"].requires_grad


def test_a_text_model_without_a_head_keeps_its_names(llama_folder: Path, token_ids: Tensor) -> None:
    """`AutoModel` of a Llama offers TransformerLens-style names, with the values of the causal LM."""
    trunk = sae_fast.lm.load_module(llama_folder)
    lm = sae_fast.lm.load(llama_folder)
    name = "blocks.1.ln2.hook_normalized"

    found = trunk.activations([name], token_ids, use_cache=False)[name]

    assert_near(found, lm.activations(token_ids, [name])[name])
    assert trunk.hook_names()[0] == "hook_embed"


def test_gradients_and_edits_in_a_plain_module(make_sae: MakeSae) -> None:
    """Any PyTorch module: an edit returns a leaf, and its gradient is that of the layers behind it."""
    torch.manual_seed(0)
    module = sae_fast.lm.wrap(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)))
    assert isinstance(module, HookedModule)
    leaves: list[Tensor] = []

    def leaf(activation: Tensor) -> Tensor:
        leaves.append(activation.detach().clone().requires_grad_())
        return leaves[-1]

    output = module.run(torch.ones(5, 8), edits={"1.output": leaf}, grad=True)

    (gradient,) = torch.autograd.grad(output[:, 0].sum(), leaves[0])
    assert torch.equal(gradient, module.model[2].weight[0].expand(5, 32))  # type: ignore[index, operator, union-attr]
    assert module.run_with_saes(make_sae("1.output"), torch.ones(5, 8), edits=FeatureEdit(3, "ablate")).output.shape == (5, 2)


def test_what_is_not_there_is_named(make_sae: MakeSae) -> None:
    """Hooks that do not exist or do not run, SAEs of another width, classes and objects that are no models."""
    module = HookedModule(nn.Sequential(nn.Linear(8, 32), nn.ModuleList([nn.Linear(1, 1)])[0:0]))
    with pytest.raises(HookNotFoundError, match=r"no hook '3.output' in this Sequential. Nearest: [01]\.output"):
        module.activations(["3.output"], torch.ones(1, 8))
    sae = make_sae("0.input")
    linear = HookedModule(nn.Sequential(nn.Linear(8, 32)))
    with pytest.raises(ShapeError, match=r"expected \[\.\.\., d_in = 32\]"):
        linear.run_with_saes(sae, torch.ones(1, 8))
    with pytest.raises(ArgumentError, match="model: expected a PyTorch module"):
        sae_fast.lm.wrap("gpt2")


def test_load_module_refuses_what_it_cannot_load(vit_folder: Path, llama_folder: Path) -> None:
    """An unknown class, and a class whose weights the files lack."""
    with pytest.raises(ArgumentError, match="model_class: expected a class of transformers"):
        sae_fast.lm.load_module(vit_folder, model_class="AutoModle")
    with pytest.raises(FormatError, match="weights: expected every weight of the model"):
        sae_fast.lm.load_module(llama_folder, model_class="LlamaForSequenceClassification")


def test_wrap_makes_a_language_model_of_a_causal_lm(gpt2: TransformersLM, token_ids: Tensor) -> None:
    """A causal LM gives the whole interface; its base model and an encoder-decoder do not."""
    lm = sae_fast.lm.wrap(gpt2.model)

    assert isinstance(lm, TransformersLM)
    assert torch.equal(lm.logits(token_ids), gpt2.logits(token_ids))
    assert isinstance(sae_fast.lm.wrap(gpt2.model.transformer), HookedModule)
    t5 = transformers.T5Config(d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=2, vocab_size=20)
    assert isinstance(sae_fast.lm.wrap(transformers.T5ForConditionalGeneration(t5)), HookedModule)
