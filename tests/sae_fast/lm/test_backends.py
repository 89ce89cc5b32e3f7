"""Every backend gives what the transformers backend gives: names, activations, edits, SAEs in the pass, generation."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sae_fast.lm
from sae_fast.errors import ArgumentError, HookNotFoundError, MissingExtraError, ShapeError
from sae_fast.lm.feature_edits import FeatureEdit
from sae_fast.lm.transformers import TransformersLM
from sae_fast.sae import SAE

MakeSae = Callable[..., SAE]
MODELS = ("gpt2", "neox", "llama", "gemma2")
PACKAGES = {"transformer_lens": "transformer_lens", "nnsight": "nnsight"}
HOOK = "blocks.1.hook_resid_post"
IDS = torch.randint(6, 300, (3, 11), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 11, [1] * 11])
REAL = MASK.bool()


def assert_near(got: Tensor, expected: Tensor, ulps: float = 256) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= ulps * torch.finfo(torch.float32).eps * expected.abs().max()


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(f"{request.param}_folder")
    return found


@pytest.fixture(scope="module")
def plain(folder: Path) -> TransformersLM:
    """The model through transformers, with the attention that TransformerLens asks for."""
    lm = sae_fast.lm.load(folder, attn_implementation="eager")
    assert isinstance(lm, TransformersLM)
    return lm


@pytest.fixture(scope="module", params=PACKAGES)
def other(request: pytest.FixtureRequest, folder: Path) -> Any:
    """The same model through each other backend."""
    pytest.importorskip(PACKAGES[request.param])
    return sae_fast.lm.load(folder, backend=request.param, attn_implementation="eager")


def test_the_same_names_give_the_same_activations(plain: TransformersLM, other: Any) -> None:
    """At every hook, left padding included; sizes, BOS and unembedding agree too."""
    assert other.hook_names() == plain.hook_names()
    expected = plain.activations(IDS, plain.hook_names(), MASK)
    found = other.activations(IDS, other.hook_names(), MASK)
    for name, activation in expected.items():
        assert_near(found[name][REAL], activation[REAL])
        assert other.d_hook(name) == plain.d_hook(name)
    for name in ("d_model", "d_vocab", "n_ctx", "bos_token_id"):
        assert getattr(other, name) == getattr(plain, name)
    mine, theirs = plain.unembed(), other.unembed()
    assert torch.equal(mine.W_U, theirs.W_U)
    assert torch.equal(mine.norm_weight, theirs.norm_weight)  # type: ignore[arg-type]
    assert (mine.softcap, mine.centred) == (theirs.softcap, theirs.centred)


def test_an_edit_at_any_hook_does_the_same(plain: TransformersLM, other: Any) -> None:
    """Turning one activation round gives the same logits; returning it unchanged gives bitwise the unedited ones."""
    clean = other.logits(IDS, MASK)
    assert_near(clean[REAL], plain.logits(IDS, MASK)[REAL])
    for name in [name for name in plain.hook_names() if not name.startswith(("blocks.0", "blocks.2"))]:
        edits = {name: lambda a: a.flip(-1)}
        expected = plain.logits(IDS, MASK, edits)
        assert (expected - plain.logits(IDS, MASK))[REAL].abs().max() > 1e-3
        assert_near(other.logits(IDS, MASK, edits)[REAL], expected[REAL])
    assert torch.equal(other.logits(IDS, MASK, dict.fromkeys(other.hook_names(), lambda a: a)), clean)


def test_saes_in_the_pass_do_the_same(plain: TransformersLM, other: Any, make_sae: MakeSae) -> None:
    """Spliced SAEs with a transcoder between them, centred, with edits, error kept and dropped."""
    saes = [
        make_sae("blocks.0.hook_mlp_in", transcoder=True, skip=True, hook_name_out="blocks.0.hook_mlp_out"),
        make_sae(HOOK, normalize_activations="layer_norm", centred=True, seed=2),
    ]
    edits = {HOOK: FeatureEdit(3, "add", 4.0, positions=slice(2, None))}
    for error_term in (True, False):
        expected = plain.run_with_saes(IDS, saes, MASK, error_term=error_term, edits=edits)
        got = other.run_with_saes(IDS, saes, MASK, error_term=error_term, edits=edits)
        assert_near(got.logits[REAL], expected.logits[REAL], ulps=1024)
    assert torch.equal(other.run_with_saes(IDS, saes, MASK).logits, other.logits(IDS, MASK))
    expected_acts, acts = plain.encode(IDS, saes, MASK)[HOOK], other.encode(IDS, saes, MASK)[HOOK]
    assert_near(acts.to_dense()[REAL], expected_acts.to_dense()[REAL], ulps=1024)


def test_generation_does_the_same(plain: TransformersLM, other: Any, make_sae: MakeSae) -> None:
    """Cached and left-padded, with an edit."""
    arguments: dict[str, Any] = {"saes": make_sae(HOOK), "edits": FeatureEdit(3, "add", 6.0), "attention_mask": MASK}

    got = other.generate(IDS, 5, **arguments, eos_token_id=None)

    assert torch.equal(got.token_ids, plain.generate(IDS, 5, **arguments, eos_token_id=None).token_ids)
    assert not torch.equal(got.token_ids, plain.generate(IDS, 5, attention_mask=MASK, eos_token_id=None).token_ids)


def test_gradients_do_the_same(plain: TransformersLM, other: Any) -> None:
    """The gradient of a logit at a leaf that an edit returned, in the stream, inside it and behind a norm."""
    for hook in ("hook_resid_post", "hook_mlp_in", "ln2.hook_normalized", "hook_attn_out"):
        gradients = []
        for lm in (plain, other):
            leaves: list[Tensor] = []

            def leaf(activation: Tensor, leaves: list[Tensor] = leaves) -> Tensor:
                leaves.append(activation.detach().clone().requires_grad_())
                return leaves[-1]

            logits = lm.logits(IDS, edits={f"blocks.1.{hook}": leaf}, grad=True)
            gradients += torch.autograd.grad(logits[1, -1, 7], leaves[0])
        assert gradients[0].abs().max() > 0
        assert_near(gradients[1], gradients[0], ulps=1024)


def test_errors_of_edits_and_names_come_through(other: Any) -> None:
    """As the errors they are, with nothing left behind for the next pass."""
    clean = other.logits(IDS)
    with pytest.raises(ShapeError, match="what the edit at"):
        other.logits(IDS, edits={HOOK: lambda a: a[0]})
    with pytest.raises(HookNotFoundError, match=r"blocks\.7.*Nearest"):
        other.activations(IDS, ["blocks.7.hook_resid_post"])
    assert torch.equal(other.logits(IDS), clean)


def test_a_trace_for_nnsights_servers_gives_the_same(gemma2_folder: Path) -> None:
    """`remote="local"` sends and receives the trace here: activations and edits are those of a pass in this process."""
    pytest.importorskip("nnsight")
    remote = sae_fast.lm.load(gemma2_folder, backend="nnsight", remote="local")
    here = sae_fast.lm.load(gemma2_folder)
    names = ["blocks.1.ln2.hook_normalized", "blocks.0.hook_resid_mid", "blocks.1.hook_mlp_out"]

    found = remote.activations(IDS, names, MASK)

    for name, expected in here.activations(IDS, names, MASK).items():
        assert torch.equal(found[name], expected)
        edits = {name: partial(torch.mul, torch.tensor(0.5))}  # of a package that a server has too
        assert torch.equal(remote.logits(IDS, MASK, edits), here.logits(IDS, MASK, edits))
    with pytest.raises(ArgumentError, match="generate: expected a model that is loaded here, got remote='local'"):
        remote.generate(IDS, 2)


def test_a_bridge_offers_its_own_hook_points_too(gpt2_folder: Path) -> None:
    """Any hook point of TransformerLens is a hook, and `wrap` takes a bridge as it is."""
    bridges = pytest.importorskip("transformer_lens.model_bridge")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    bridge = bridges.TransformerBridge.boot_transformers(str(gpt2_folder), tokenizer=tokenizer, device="cpu")
    lm = sae_fast.lm.wrap(bridge)

    found = lm.activations(IDS, ["blocks.1.attn.hook_q", "blocks.1.ln1.hook_scale"])  # type: ignore[call-arg, arg-type]

    cache = bridge.run_with_cache(IDS)[1]
    assert_near(found["blocks.1.attn.hook_q"], cache["blocks.1.attn.hook_q"].flatten(2))
    assert_near(found["blocks.1.ln1.hook_scale"], cache["blocks.1.ln1.hook_scale"])


@pytest.mark.parametrize("backend", PACKAGES)
def test_a_backend_whose_package_is_missing_names_the_extra(
    gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """The message says what to install."""
    for name in [name for name in sys.modules if name.split(".")[0] == backend]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(MissingExtraError, match=rf"sae-fast\[{backend.replace('_', '-')}\]"):
        sae_fast.lm.load(gpt2_folder, backend=backend)


def test_processed_weights_give_a_centred_sae_what_it_gets_elsewhere(gpt2_folder: Path, make_sae: MakeSae) -> None:
    """A bridge with folded and centred weights: the same features, and the same predictions with the SAE and an edit in it."""
    bridges = pytest.importorskip("transformer_lens.model_bridge")
    plain = sae_fast.lm.load(gpt2_folder, attn_implementation="eager")
    bridge = bridges.TransformerBridge.boot_transformers(str(gpt2_folder), tokenizer=plain.tokenizer, device="cpu")
    bridge.enable_compatibility_mode()
    processed = sae_fast.lm.wrap(bridge)
    assert isinstance(processed, sae_fast.lm.LanguageModel)
    sae, edit = make_sae(HOOK, "topk", centred=True), FeatureEdit(3, "add", 2.0)
    stream = processed.activations(IDS, [HOOK])[HOOK]
    assert stream.mean(-1).abs().max() < 1e-5 < plain.activations(IDS, [HOOK])[HOOK].mean(-1).abs().max()

    for error_term in (True, False):
        runs = [lm.run_with_saes(IDS, sae, error_term=error_term, edits=edit) for lm in (plain, processed)]
        assert_near(*(run.cache.acts().to_dense() for run in runs), ulps=1024)
        assert_near(*(run.logits.log_softmax(-1) for run in runs), ulps=1024)
    unembed = processed.unembed()
    normalized = processed.activations(IDS, ["ln_final.hook_normalized"])["ln_final.hook_normalized"]
    assert_near(normalized * unembed.norm_weight @ unembed.W_U + unembed.bias, processed.logits(IDS))  # type: ignore[operator]
