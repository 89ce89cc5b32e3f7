"""Edits: identity changes nothing, a replacement reaches every reader of the activation, and only those."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sae_fast.errors import ShapeError
from sae_fast.lm.transformers import TransformersLM


def assert_near(got: Tensor, expected: Tensor, ulps: float = 64) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= ulps * torch.finfo(torch.float32).eps * expected.abs().max()


class Recorder:
    """Edits that change nothing and keep what they see."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def at(self, name: str) -> Callable[[Tensor], Tensor]:
        def keep(activation: Tensor) -> Tensor:
            self.seen[name] = activation.clone()
            return activation

        return keep


@pytest.fixture
def other_ids(token_ids: Tensor) -> Tensor:
    return token_ids.flip(0).roll(3, dims=1)


def test_an_identity_edit_gives_bitwise_the_same_logits(lm: TransformersLM, token_ids: Tensor) -> None:
    """At every hook, alone and all together, returning the argument or a copy of it changes no bit."""
    clean = lm.logits(token_ids)
    for name in lm.hook_names():
        assert torch.equal(lm.logits(token_ids, edits={name: lambda a: a.clone()}), clean)
    everywhere = dict.fromkeys(lm.hook_names(), lambda a: a)
    assert torch.equal(lm.logits(token_ids, edits=everywhere), clean)
    assert torch.equal(lm.logits(token_ids), clean)


STREAM = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")


@pytest.mark.parametrize("hook", STREAM)
def test_patching_the_residual_stream_gives_the_other_texts_logits(
    lm: TransformersLM, token_ids: Tensor, other_ids: Tensor, hook: str
) -> None:
    """Everything behind the stream reads the replacement: with another text's stream the logits are that text's."""
    name = f"blocks.1.{hook}"
    if name not in lm.hook_names():
        pytest.skip("parallel residual")
    other = lm.activations(other_ids, [name])[name]

    logits = lm.logits(token_ids, edits={name: lambda _: other})

    assert_near(logits, lm.logits(other_ids))
    assert (logits - lm.logits(token_ids)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("edited", "then_other", "unchanged"),
    [
        ("ln1.hook_normalized", "hook_attn_out", "hook_resid_pre"),
        ("attn.hook_z", "hook_attn_out", "hook_resid_pre"),
        ("hook_mlp_in", "hook_mlp_out", "hook_attn_out"),
        ("ln2.hook_normalized", "hook_mlp_out", "hook_attn_out"),
        ("mlp.hook_in", "hook_mlp_out", "hook_attn_out"),
        ("mlp.hook_post", "hook_mlp_out", "hook_attn_out"),
    ],
)
def test_patching_inside_a_block_reaches_what_reads_it_and_nothing_else(
    lm: TransformersLM, token_ids: Tensor, other_ids: Tensor, edited: str, then_other: str, unchanged: str
) -> None:
    """The next hook becomes the other text's, and the stream beside it stays this text's."""
    edited, then_other, unchanged = (f"blocks.1.{name}" for name in (edited, then_other, unchanged))
    other = lm.activations(other_ids, [edited, then_other])
    clean = lm.activations(token_ids, [unchanged])[unchanged]
    stream = "blocks.1.hook_resid_post"
    recorder = Recorder()
    watch = {name: recorder.at(name) for name in (then_other, unchanged, stream)}

    lm.logits(token_ids, edits={edited: lambda _: other[edited], **watch})

    assert_near(recorder.seen[then_other], other[then_other])
    assert torch.equal(recorder.seen[unchanged], clean)
    if then_other.endswith("mlp_out"):
        before_mlp = lm.activations(token_ids, ["blocks.1.hook_resid_pre", "blocks.1.hook_attn_out"])
        assert_near(recorder.seen[stream], sum(before_mlp.values()) + other[then_other])


@pytest.mark.parametrize("hook", ["hook_attn_out", "hook_mlp_out"])
def test_patching_an_output_replaces_what_is_added_to_the_stream(
    lm: TransformersLM, token_ids: Tensor, other_ids: Tensor, hook: str
) -> None:
    """Attention and MLP outputs are what the residual stream receives, post-norms included."""
    name, pre, post = f"blocks.2.{hook}", "blocks.2.hook_resid_pre", "blocks.2.hook_resid_post"
    other = lm.activations(other_ids, [name])[name]
    recorder = Recorder()
    names = (pre, "blocks.2.hook_attn_out", "blocks.2.hook_mlp_out", post)
    watch = {n: recorder.at(n) for n in names if n != name}

    lm.logits(token_ids, edits={name: lambda _: other, **watch})

    parts = recorder.seen | {name: other}
    assert_near(parts[post], parts[pre] + parts["blocks.2.hook_attn_out"] + parts["blocks.2.hook_mlp_out"])


def test_patching_the_final_norm_gives_the_other_texts_logits(lm: TransformersLM, token_ids: Tensor, other_ids: Tensor) -> None:
    """`ln_final.hook_normalized` is edited before the norm's weight and bias."""
    name = "ln_final.hook_normalized"
    other = lm.activations(other_ids, [name])[name]

    assert_near(lm.logits(token_ids, edits={name: lambda _: other}), lm.logits(other_ids))


def test_an_edit_may_write_into_its_argument(lm: TransformersLM, token_ids: Tensor) -> None:
    """An edit in place does what the same edit on a copy does, at every hook."""

    def on_a_copy(activation: Tensor) -> Tensor:
        new = activation.clone()
        new[:, 2:5] = 0.5
        return new

    def in_place(activation: Tensor) -> Tensor:
        activation[:, 2:5] = 0.5
        return activation

    for name in lm.hook_names():
        expected = lm.logits(token_ids, edits={name: on_a_copy})
        assert torch.equal(lm.logits(token_ids, edits={name: in_place}), expected)


def test_edits_hold_under_left_padding(lm: TransformersLM, token_ids: Tensor) -> None:
    """An edit sees the padded batch as it was given, and its result at real tokens does not depend on the side."""
    mask = torch.ones_like(token_ids)
    mask[0, :4] = 0
    name = "blocks.1.hook_resid_post"

    logits = lm.logits(token_ids, mask, {name: lambda a: 0.5 * a})

    alone = lm.logits(token_ids[:1, 4:], edits={name: lambda a: 0.5 * a})
    assert_near(logits[:1, 4:], alone, ulps=256)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: a[0], r"expected a tensor of shape \(3, 11, 32\), got \(11, 32\)"),
        (lambda a: None, r"expected a tensor of shape \(3, 11, 32\), got None"),
        (lambda a: 3, "got int"),
    ],
)
def test_a_wrong_replacement_is_refused(
    gpt2: TransformersLM, token_ids: Tensor, edit: Callable[[Tensor], Tensor], message: str
) -> None:
    """What an edit returns must be a tensor of the activation's shape."""
    with pytest.raises(ShapeError, match=message):
        gpt2.logits(token_ids, edits={"blocks.1.hook_mlp_out": edit})


def test_a_replacement_is_cast_to_the_models_dtype(gpt2: TransformersLM, token_ids: Tensor) -> None:
    """A float64 replacement neither fails nor changes the dtype of the logits."""
    logits = gpt2.logits(token_ids, edits={"blocks.1.hook_resid_post": lambda a: a.double()})

    assert torch.equal(logits, gpt2.logits(token_ids))
