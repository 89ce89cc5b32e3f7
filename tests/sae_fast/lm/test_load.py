"""Loading an LM from a folder, and one clear error for each way in which that can fail."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import sae_fast.lm
from sae_fast.errors import ArgumentError, FormatError, MissingExtraError, ModelNotFoundError, NonFiniteError


@pytest.fixture
def folder(gpt2_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny GPT-2 that a test may spoil."""
    return Path(shutil.copytree(gpt2_folder, tmp_path / "model"))


@pytest.fixture
def change_config(folder: Path) -> Callable[..., None]:
    def change(**values: Any) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def test_load_gives_model_and_tokenizer_of_a_folder(llama_folder: Path) -> None:
    """Sizes, BOS and tokenizer are those of the folder; dropout is off."""
    lm = sae_fast.lm.load(llama_folder)
    config = json.loads((llama_folder / "config.json").read_text())

    assert (lm.d_model, lm.d_vocab, lm.n_ctx) == (
        config["hidden_size"],
        config["vocab_size"],
        config["max_position_embeddings"],
    )
    assert lm.bos_token_id == lm.tokenizer.bos_token_id == config["bos_token_id"]
    assert lm.hook_names()[0] == "hook_embed"
    assert not lm.model.training


def test_dtype_is_the_checkpoints_unless_given(folder: Path, change_config: Callable[..., None]) -> None:
    """A bf16 checkpoint runs in bf16 by default, in float32 when asked, by name or by torch dtype."""
    weights = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    change_config(dtype="bfloat16")
    token_ids, hook = torch.tensor([[5, 6, 7]]), "blocks.0.hook_resid_post"

    dtypes = [
        sae_fast.lm.load(folder, **arguments).activations(token_ids, [hook])[hook].dtype
        for arguments in ({}, {"dtype": "float32"}, {"dtype": torch.float32})
    ]

    assert dtypes == [torch.bfloat16, torch.float32, torch.float32]
    with pytest.raises(ArgumentError, match="dtype: expected float32, bfloat16, float16 or a torch dtype, got 'int8'"):
        sae_fast.lm.load(folder, dtype="int8")


def test_from_pretrained_arguments_go_through(folder: Path) -> None:
    """Further keywords reach `from_pretrained`; one that it does not know is an `ArgumentError`."""
    lm = sae_fast.lm.load(folder, attn_implementation="eager")

    assert lm.model.config._attn_implementation == "eager"
    with pytest.raises(ArgumentError, match="no_such_argument"):
        sae_fast.lm.load(folder, no_such_argument=1)


def test_an_unknown_backend_is_refused(folder: Path) -> None:
    """The message names the backends there are."""
    with pytest.raises(ArgumentError, match="backend: expected one of transformers, transformer_lens, nnsight, got 'jax'"):
        sae_fast.lm.load(folder, backend="jax")


def test_a_missing_folder_is_named_in_full(tmp_path: Path) -> None:
    """Paths given as Path, with a slash in front, or with several parts are never looked up on the hub."""
    for source in (tmp_path / "nowhere", str(tmp_path / "nowhere"), "./nowhere", "models/of/mine"):
        with pytest.raises(ModelNotFoundError, match=r"no language model at /.*(nowhere|mine).*no such folder.*Check the path"):
            sae_fast.lm.load(source)


def test_a_folder_without_a_model_says_what_is_in_it(tmp_path: Path) -> None:
    """A folder without config.json is not a model's; its files are listed."""
    (tmp_path / "notes.txt").write_text("x")

    with pytest.raises(ModelNotFoundError, match=r"expected config\.json, weights and a tokenizer, got notes\.txt"):
        sae_fast.lm.load(tmp_path)


def test_a_hub_name_that_cannot_be_had_says_where_it_was_looked_for() -> None:
    """The message names the local folder that was tried and what the hub client said."""
    with pytest.raises(ModelNotFoundError, match=r"'owner/no-such-model': neither a local folder \(/.*owner/no-such-model\)"):
        sae_fast.lm.load("owner/no-such-model", local_files_only=True)


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _without_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def _with_half_the_weights_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5])


def _with_broken_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_weights, r"cannot load the language model: got .*model\.safetensors"),
        (_without_tokenizer, "no tokenizer: expected tokenizer.json"),
        (_with_half_the_weights_file, "cannot load the language model: got SafetensorError"),
        (_with_broken_json, "not a valid JSON file"),
    ],
)
def test_a_spoilt_folder_is_refused(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    """Missing or broken files give one error that names the folder and the part."""
    spoil(folder)

    with pytest.raises(FormatError, match=message) as caught:
        sae_fast.lm.load(folder)

    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_embd": "wide"}, "expected int, got str"),
        ({"n_head": 5}, "divisible by num_heads"),
        ({"n_embd": 64}, "cannot load the language model"),
        ({"n_layer": 4}, r"weights: expected every weight of the model, got 12 missing \(transformer\.h\.3"),
        ({"model_type": "no-such-type"}, "no-such-type"),
        ({"model_type": "clip"}, "CLIPConfig"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    folder: Path, change_config: Callable[..., None], values: dict[str, Any], message: str
) -> None:
    """A config of wrong types, of another model, or that asks for more weights never gives a half-random model."""
    change_config(**values)

    with pytest.raises(FormatError, match=message):
        sae_fast.lm.load(folder)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, bad: float) -> None:
    """One NaN or infinity among the weights is found and the weight named."""
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("h.1.mlp.c_fc.weight"))
    weights[name][2, 3] = bad
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(NonFiniteError, match=r"h\.1\.mlp\.c_fc\.weight: expected finite numbers, got NaN or infinity in 1 of"):
        sae_fast.lm.load(folder)


def test_a_missing_transformers_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without transformers the error says what to install."""
    monkeypatch.setitem(sys.modules, "transformers", None)

    with pytest.raises(MissingExtraError, match=r'pip install "sae-fast\[lm\]"'):
        sae_fast.lm.load(folder)


def test_a_model_of_another_family_offers_module_paths(tmp_path: Path) -> None:
    """Where no TransformerLens names are known, module paths work and the unembedding leaves the norm out."""
    import transformers

    from sae_fast.lm.transformers import TransformersLM

    config = transformers.OPTConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=32,
        word_embed_proj_dim=16,
        do_layer_norm_before=False,
    )
    lm = TransformersLM(transformers.OPTForCausalLM(config), tokenizer=None)

    assert lm.hook_names() == []
    assert lm.d_hook("model.decoder.layers.1.output") == 16
    assert lm.unembed().norm_weight is None


def test_arguments_reach_from_pretrained(gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Placement, quantisation and attention go through; a quantised model is placed by `device_map`, for it cannot move."""
    import transformers

    given: dict[str, Any] = {}
    original = transformers.AutoModelForCausalLM.from_pretrained

    def recording(place: str, **arguments: Any) -> Any:
        given.update(arguments)
        return original(place, output_loading_info=True, attn_implementation=arguments.get("attn_implementation"))

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", recording)
    config = object()
    lm = sae_fast.lm.load(gpt2_folder, quantization_config=config, attn_implementation="eager", dtype="bfloat16")

    assert given["quantization_config"] is config
    assert given["device_map"] == {"": "cpu"}
    assert given["dtype"] is torch.bfloat16
    assert lm.model.config._attn_implementation == "eager"  # type: ignore[attr-defined]
    sae_fast.lm.load(gpt2_folder, quantization_config=config, device_map="auto")
    assert given["device_map"] == "auto"
