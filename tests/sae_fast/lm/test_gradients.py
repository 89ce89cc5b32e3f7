"""Autograd through a pass: leaves that edits return, early stop, and in-place replacement of the stream."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sae_fast.lm
from sae_fast.lm.transformers import TransformersLM

STEP = 1e-2
LAST = "blocks.2.hook_resid_post"


def leaf_at(lm: TransformersLM, token_ids: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """(The activation at a hook as a leaf, the logits of the pass that went on from it.)"""
    leaves: list[Tensor] = []

    def leaf(activation: Tensor) -> Tensor:
        leaves.append(activation.detach().clone().requires_grad_())
        return leaves[-1]

    logits = lm.logits(token_ids, edits={name: leaf}, grad=True)
    return leaves[0], logits


def test_gradients_equal_finite_differences(lm: TransformersLM, token_ids: Tensor) -> None:
    """At every hook of a block the gradient of a logit is the slope measured with an edit along a random direction."""
    lm.model.requires_grad_(False)
    for name in [name for name in lm.hook_names() if name.startswith("blocks.1.")]:
        leaf, logits = leaf_at(lm, token_ids, name)
        (gradient,) = torch.autograd.grad(logits[1, 5, 7], leaf)
        direction = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(3))
        high, low = (
            lm.logits(token_ids, edits={name: partial(torch.add, step)})[1, 5, 7]
            for step in (direction * STEP, -direction * STEP)
        )
        slope = (high - low) / (2 * STEP)
        assert gradient.abs().sum() > 0
        # Central differences in fp32: the step's cube and rounding of the logits, divided by the step.
        assert (slope - (gradient * direction).sum()).abs() <= 2e-2 * slope.abs().clamp(min=0.05)
        assert torch.equal(logits.detach(), lm.logits(token_ids))


def test_an_edit_may_square_what_it_replaces(lm: TransformersLM, token_ids: Tensor) -> None:
    """A replacement that autograd needs the original for reaches the gradient of an earlier leaf, at every hook."""
    lm.model.requires_grad_(False)
    for name in [name for name in lm.hook_names() if name.startswith("blocks.1.")]:
        scale = torch.tensor(1.0, requires_grad=True)
        edits = {"blocks.0.hook_resid_post": lambda a, s=scale: a * s, name: lambda a: a + 0.1 * a**2}
        (gradient,) = torch.autograd.grad(lm.logits(token_ids, edits=edits, grad=True).square().sum(), scale)
        assert gradient.isfinite()
        assert gradient != 0


def test_activations_carry_gradients_of_earlier_edits(lm: TransformersLM, token_ids: Tensor) -> None:
    """With grad, what a later hook holds is a function of what an edit put at an earlier one; without, it is not."""
    scale = torch.tensor(1.0, requires_grad=True)
    edits = {"blocks.0.hook_mlp_out": lambda a: a * scale}

    acts = lm.activations(token_ids, [LAST], edits=edits, grad=True)[LAST]

    (gradient,) = torch.autograd.grad(acts.square().sum(), scale)
    assert gradient != 0
    assert torch.equal(acts.detach(), lm.activations(token_ids, [LAST])[LAST])
    assert not lm.activations(token_ids, [LAST], edits=edits)[LAST].requires_grad


def test_weights_get_no_gradient_from_a_loaded_model(gpt2_folder: Path) -> None:
    """`load` freezes the weights, so that a pass records nothing but what its edits need."""
    lm = sae_fast.lm.load(gpt2_folder)

    assert not lm.logits(torch.tensor([[5, 6, 7]]), grad=True).requires_grad
    assert not any(weight.requires_grad for weight in lm.model.parameters())  # type: ignore[attr-defined]


@pytest.mark.parametrize("hook", ["hook_resid_post", "hook_mlp_out", "ln2.hook_normalized"])
def test_a_hook_that_is_edited_and_asked_for_gives_the_replacement(lm: TransformersLM, token_ids: Tensor, hook: str) -> None:
    """`activations` are those of the edited pass, the edited hook included."""
    name = f"blocks.1.{hook}"
    clean = lm.activations(token_ids, [name])[name]

    both = lm.activations(token_ids, [name, LAST], edits={name: lambda a: 2 * a})

    assert torch.equal(both[name], 2 * clean)
    assert not torch.equal(both[LAST], lm.activations(token_ids, [LAST])[LAST])
