"""Edits of features against `x + decode(a') - decode(a)` written by hand, on dense activations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.lm.feature_edits import Condition, FeatureEdit, with_features
from sae_fast.lm.transformers import TransformersLM
from sae_fast.sae import SAE
from sae_fast.sparse import SparseActs

MakeSae = Callable[..., SAE]
HOOK = "blocks.1.hook_resid_post"


def assert_near(got: Tensor, expected: Tensor, ulps: float = 64) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= ulps * torch.finfo(torch.float32).eps * expected.abs().max()


def most_active(acts: SparseActs) -> int:
    """The feature with the largest activation that does not fire everywhere."""
    dense = acts.to_dense().flatten(0, -2)
    partly = (dense != 0).any(0) & (dense == 0).any(0)
    return int(torch.where(partly, dense.amax(0), -1).argmax())


def by_hand(sae: SAE, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`x + decode(a') - decode(a)` in float64 from dense activations; `change` gives a' from a copy of a."""
    acts = sae.encode(x)
    dense = acts.to_dense().double()
    delta = (change(dense.clone()) - dense) @ sae.W_dec.double()
    scale = 1 if acts.scale is None else acts.scale.reshape(*x.shape[:-1], 1).double()
    return (x.double() + delta * scale).to(x.dtype)


@pytest.mark.parametrize("normalisation", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize(("kind", "value"), [("add", 3.0), ("clamp", 2.0), ("scale", -1.5), ("ablate", None)])
def test_an_edit_is_the_change_of_the_decoding(
    main_lm: TransformersLM, token_ids: Tensor, make_sae: MakeSae, kind: Any, value: float | None, normalisation: str
) -> None:
    """Each kind, error kept, in the model's units also where the SAE normalises its input."""
    sae = make_sae(HOOK, normalize_activations=normalisation)
    x = main_lm.activations(token_ids, [HOOK])[HOOK]
    feature = most_active(sae.encode(x))

    def change(a: Tensor) -> Tensor:
        new = {"add": a + (value or 0), "clamp": torch.full_like(a, value or 0), "scale": a * (value or 0), "ablate": 0 * a}
        a[..., feature] = new[kind][..., feature]
        return a

    expected = by_hand(sae, x, change)
    run = main_lm.run_with_saes(token_ids, sae, edits=FeatureEdit(feature, kind, value))

    assert_near(run.cache[f"{HOOK}.hook_sae_output"], expected)  # type: ignore[arg-type]
    assert_near(run.logits, main_lm.logits(token_ids, edits={HOOK: lambda _: expected}), ulps=256)
    assert_near(run.cache.acts().to_dense(), change(sae.encode(x).to_dense()))
    assert (run.logits - main_lm.logits(token_ids)).abs().max() > 0.01


def test_an_edit_leaves_other_tokens_bitwise_as_they_are(gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae) -> None:
    """Only the chosen positions change at the hook, and only what comes after them in the logits."""
    sae = make_sae(HOOK)
    clean = gpt2.run_with_saes(token_ids, sae)

    run = gpt2.run_with_saes(token_ids, sae, edits=FeatureEdit(5, "add", 2.0, positions=[4, 6]))

    changed = run.cache[f"{HOOK}.hook_sae_output"] != clean.cache[f"{HOOK}.hook_sae_output"]
    assert changed.any(-1).any(0).nonzero()[:, 0].tolist() == [4, 6]  # type: ignore[union-attr]
    assert torch.equal(run.logits[:, :4], clean.logits[:, :4])


def test_without_the_error_term_the_edited_reconstruction_is_put_there(
    gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae
) -> None:
    """`error_term=False` with edits: `decode(a')`, biases included."""
    sae = make_sae(HOOK, normalize_activations="layer_norm")
    x = gpt2.activations(token_ids, [HOOK])[HOOK]
    acts = sae.encode(x)
    dense = acts.to_dense()
    dense[..., 9] += 1.5

    run = gpt2.run_with_saes(token_ids, sae, error_term=False, edits=FeatureEdit(9, "add", 1.5))

    assert_near(run.cache[f"{HOOK}.hook_sae_output"], sae.decode(dense, acts.mean, acts.scale))  # type: ignore[arg-type]


def test_conditions_choose_tokens(gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae) -> None:
    """An edit fires where its own feature, or that of an earlier SAE, is above a level or below one."""
    early, late = make_sae("blocks.0.hook_resid_post", seed=1), make_sae(HOOK)
    clean = gpt2.encode(token_ids, [early, late])
    own, others = most_active(clean[HOOK]), most_active(clean["blocks.0.hook_resid_post"])
    level = clean["blocks.0.hook_resid_post"][..., others].amax().item() / 2
    edits = [
        FeatureEdit(own, "scale", 2.0, condition=Condition(above=0.0), hook_name=HOOK),
        FeatureEdit(
            [own, 3],
            "add",
            1.0,
            hook_name=HOOK,
            condition=Condition(above=level, feature=others, hook_name=early.cfg.hook_name),
        ),
        FeatureEdit(own, "add", 0.25, condition=Condition(below=1e-9), hook_name=HOOK),
    ]
    dense = clean[HOOK].to_dense()
    before, fired = dense[..., own].clone(), clean["blocks.0.hook_resid_post"][..., others] > level
    assert fired.any()
    assert not fired.all()
    dense[..., own] *= 2
    dense[..., own] += fired.float()
    dense[..., 3] += fired.float()
    dense[..., own] += 0.25 * (before == 0)

    got = gpt2.run_with_saes(token_ids, [early, late], edits=edits).cache

    assert_near(got.acts(HOOK).to_dense(), dense)
    assert torch.equal(got.acts("blocks.0.hook_resid_post").to_dense(), clean["blocks.0.hook_resid_post"].to_dense())


def test_edits_of_several_saes_and_plain_functions_in_one_pass(
    gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae
) -> None:
    """A mapping names each SAE by its hook; functions run there too, and a later SAE reads what an earlier edit wrote."""
    first, second = make_sae("blocks.0.hook_mlp_out", seed=1), make_sae(HOOK)
    edits = {
        "blocks.0.hook_mlp_out": FeatureEdit(2, "add", 4.0),
        HOOK: [FeatureEdit(torch.tensor(1), "clamp", 1.0), FeatureEdit(torch.tensor([8]), "ablate")],
        "blocks.0.hook_resid_pre": lambda x: 0.5 * x,
    }

    run = gpt2.run_with_saes(token_ids, [first, second], edits=edits)

    def set_two(a: Tensor) -> Tensor:
        a[..., 1], a[..., 8] = 1.0, 0.0
        return a

    def add(a: Tensor) -> Tensor:
        a[..., 2] += 4.0
        return a

    by_function = {
        "blocks.0.hook_resid_pre": lambda x: 0.5 * x,
        "blocks.0.hook_mlp_out": lambda x: by_hand(first, x, add),
        HOOK: lambda x: by_hand(second, x, set_two),
    }
    assert_near(run.logits, gpt2.logits(token_ids, edits=by_function), ulps=256)


def test_values_may_differ_by_row_and_token_and_carry_gradients(
    gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae
) -> None:
    """A value `[batch, 1]` or `[batch, pos]`; the gradient with respect to it is the decoder row times that of the hook."""
    sae = make_sae(HOOK)
    strengths = torch.tensor([[0.0], [1.0], [5.0]])
    together = gpt2.run_with_saes(token_ids, sae, edits=FeatureEdit(5, "add", strengths)).logits
    for row, strength in enumerate(strengths[:, 0].tolist()):
        alone = gpt2.run_with_saes(token_ids[row : row + 1], sae, edits=FeatureEdit(5, "add", strength)).logits
        assert_near(together[row : row + 1], alone)

    gpt2.model.requires_grad_(False)
    value = torch.zeros(token_ids.shape, requires_grad=True)
    run = gpt2.run_with_saes(token_ids, sae, edits=FeatureEdit(5, "add", value), grad=True)
    (gradient,) = torch.autograd.grad(run.logits[2, -1, 9], value)
    step = 1e-2
    high, low = (
        gpt2.run_with_saes(token_ids, sae, edits=FeatureEdit(5, "add", change, positions=[3])).logits[2, -1, 9]
        for change in (step, -step)
    )
    assert gradient[2, 3] != 0
    assert abs((high - low) / (2 * step) - gradient[2, 3]) <= 2e-2 * abs(gradient[2, 3]) + 1e-3
    assert not gradient[:2].any()


def test_replacing_columns_of_sparse_activations_keeps_the_rest() -> None:
    """`with_features` is assignment to columns: stored zeros go, order within rows is kept."""
    dense = torch.tensor([[0.0, 1.0, 0.0, 2.0], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 4.0]])
    columns = torch.tensor([[5.0, 0.0], [0.0, 0.0], [7.0, -1.0]])

    got = with_features(SparseActs.from_dense(dense), [0, 3], columns)

    expected = dense.clone()
    expected[:, [0, 3]] = columns
    assert torch.equal(got.to_dense(), expected)
    assert got.nnz == int((expected != 0).sum())
    assert got.col_indices.tolist() == [0, 1, 0, 3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureEdit(1, "boost", 2.0), "expected one of add, clamp, scale, ablate, got 'boost'"),  # type: ignore[arg-type]
        (lambda: FeatureEdit(1, "add"), "FeatureEdit of kind 'add': expected a value"),
        (lambda: FeatureEdit(1, "ablate", 0.0), "expected no value"),
        (lambda: FeatureEdit([], "ablate"), "at least one feature"),
        (lambda: FeatureEdit(0.5, "ablate"), "FeatureEdit feature: expected a feature or several, got 0.5"),  # type: ignore[arg-type]
        (lambda: Condition(), "expected a level"),
    ],
)
def test_an_edit_that_says_nothing_clear_is_refused(make: Callable[[], Any], message: str) -> None:
    """At construction, with what was expected."""
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(
    ("edits", "error", "message"),
    [
        (FeatureEdit(64, "ablate", hook_name=HOOK), ArgumentError, "feature: expected 0 to 63"),
        (FeatureEdit(1, "ablate", hook_name="blocks.2.hook_resid_post"), ArgumentError, "no SAE at 'blocks.2.hook_resid_post'"),
        (FeatureEdit(1, "ablate"), ArgumentError, "more than one SAE at None"),
        (FeatureEdit(1, "add", torch.ones(5, 1), hook_name=HOOK), ShapeError, r"value: expected a number, \[3, 1\]"),
        (FeatureEdit(1, "ablate", positions="first", hook_name=HOOK), ArgumentError, "expected 'all', 'prompt', 'generated'"),
        ([3], ArgumentError, "expected FeatureEdits"),
        (
            FeatureEdit(1, "ablate", hook_name="blocks.0.hook_mlp_out", condition=Condition(above=0, hook_name=HOOK)),
            ArgumentError,
            "one that reads later",
        ),
    ],
)
def test_an_edit_that_does_not_fit_the_pass_is_refused(
    gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae, edits: Any, error: type[Exception], message: str
) -> None:
    """A feature, SAE, value, position or condition that is not there."""
    saes = [make_sae(HOOK), make_sae("blocks.0.hook_mlp_out")]
    with pytest.raises(error, match=message):
        gpt2.run_with_saes(token_ids, saes, edits=edits)
