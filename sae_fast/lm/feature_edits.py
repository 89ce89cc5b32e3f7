"""Changing feature activations: what to change, at which tokens, and on which condition.

FeatureEdit(4811, "add", 30.0, positions="generated")
FeatureEdit(12, "clamp", 8.0, condition=Condition(above=0.0))          # only where it fires
FeatureEdit([3, 5], "ablate", condition=Condition(above=2.0, feature=7))
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError
from sae_fast.lm.positions import Positions, Window, integers
from sae_fast.sparse import SparseActs, row_pointer

Kind = Literal["add", "clamp", "scale", "ablate"]
"""`add`: a + value. `clamp`: value, whatever it was. `scale`: a · value. `ablate`: 0."""


@dataclass(frozen=True)
class Condition:
    """An edit applies only at tokens where a feature is above one level or below another, or both."""

    above: float | None = None
    """The activation must be greater than this; 0.0 is "where it fires"."""
    below: float | None = None
    """The activation must be less than this."""
    feature: int | None = None
    """The feature that is looked at; the edited one if not given."""
    hook_name: str | None = None
    """The SAE that it belongs to, by the hook where it reads or writes; the edited one's if not given. It must read no later in
    the model than the edited one writes."""

    def __post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise ArgumentError("Condition", expected="a level: above, below or both", got="neither")

    def holds(self, activation: Tensor) -> Tensor:
        """Boolean, of the activation's shape."""
        held = torch.ones_like(activation, dtype=torch.bool)
        if self.above is not None:
            held &= activation > self.above
        if self.below is not None:
            held &= activation < self.below
        return held


@dataclass(frozen=True, eq=False)
class FeatureEdit:
    """One change to the activation of one or more features of an SAE.

    Values are in units of the activation as `SAE.encode` gives it; for an SAE that normalises its input the change reaches the
    model in the model's units, each token by its own scale. Several edits of one feature apply in the order in which they are
    given, each to the result of the one before; conditions are asked of the activations before all edits.
    """

    feature: int | Sequence[int] | Tensor
    """The feature, or several that are changed alike."""
    kind: Kind
    """See `Kind`."""
    value: float | Tensor | None = None
    """What is added, put or multiplied by: a number, or a tensor `[]`, `[batch, 1]` or `[batch, pos]`. None for `ablate`."""
    positions: Positions | None = None
    """The tokens that it applies to; all real ones if not given."""
    condition: Condition | None = None
    """Which of them; all if not given."""
    hook_name: str | None = None
    """The SAE, by the hook where it reads or writes; may be left out where there is one SAE."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ArgumentError("FeatureEdit kind", expected=f"one of {', '.join(get_args(Kind))}", got=repr(self.kind))
        if (self.value is None) != (self.kind == "ablate"):
            expected = "no value" if self.kind == "ablate" else "a value"
            raise ArgumentError(f"FeatureEdit of kind {self.kind!r}", expected=expected, got=self.value)
        if not self.features:
            raise ArgumentError("FeatureEdit feature", expected="at least one feature", got="none")

    @property
    def features(self) -> tuple[int, ...]:
        """The features as a tuple."""
        return integers("FeatureEdit feature", self.feature, "a feature or several")

    def changed(self, activation: Tensor, value: float | Tensor | None) -> Tensor:
        """The new value of an activation `[...]`, with `value` broadcast to it."""
        match self.kind:
            case "add":
                return activation + value  # type: ignore[operator]
            case "scale":
                return activation * value  # type: ignore[operator]
            case "clamp":
                return torch.zeros_like(activation) + value  # type: ignore[operator]
            case "ablate":
                return torch.zeros_like(activation)


ActsOf = Callable[[str | None], SparseActs]
"""Unedited activations of the SAE at a hook, or of the SAE being edited for None."""


def edited(acts: SparseActs, edits: Sequence[FeatureEdit], window: Window, acts_of: ActsOf) -> tuple[SparseActs, Tensor]:
    """Activations after all edits, and the tokens that an edit applied to, boolean `[rows, n]`.

    Args:
        acts: of one pass over `rows * n` tokens.
        edits: of this SAE, in order.
        window: what the pass reads.
        acts_of: where conditions look.

    Raises:
        ArgumentError: a feature that the SAE does not have.
    """
    features = sorted({feature for edit in edits for feature in edit.features})
    if features[0] < 0 or features[-1] >= acts.shape[1]:
        raise ArgumentError("feature", expected=f"0 to {acts.shape[1] - 1}", got=features)
    column = {feature: index for index, feature in enumerate(features)}
    values = acts.features(features).reshape(*window.token_ids.shape, len(features))
    touched = torch.zeros_like(values, dtype=torch.bool)
    for edit in edits:
        columns = torch.tensor([column[feature] for feature in edit.features], device=values.device)
        chosen = _chosen(edit, window, acts_of).to(values.device)
        before = values[..., columns]
        value = None if edit.value is None else window.values(edit.value)
        if isinstance(value, Tensor):
            value = value.to(values)[..., None] if value.ndim else value.to(values)
        after = torch.where(chosen, edit.changed(before, value), before)
        values = values.index_copy(-1, columns, after)
        touched = touched.index_copy(-1, columns, touched[..., columns] | chosen)
    return with_features(acts, features, values, touched), touched.any(-1)


def with_features(acts: SparseActs, features: Sequence[int], values: Tensor, keep: Tensor | None = None) -> SparseActs:
    """`acts` with the columns `features` (ascending) replaced by `values` `[*leading, len(features)]`.

    Zeros are not stored, but for those where the boolean `keep` of the same shape is true.
    """
    n = acts.shape[0]
    values = values.reshape(n, len(features))
    stored = values != 0 if keep is None else (values != 0) | keep.reshape(values.shape)
    wanted = torch.tensor(list(features), device=values.device)
    rows_new, place = stored.nonzero(as_tuple=True)
    others = ~torch.isin(acts.col_indices, wanted.to(acts.col_indices.dtype))
    rows = torch.cat([acts.row_indices()[others], rows_new])
    columns = torch.cat([acts.col_indices[others].long(), wanted[place]])
    order = (rows * acts.shape[1] + columns).argsort()
    return replace(
        acts,
        crow_indices=row_pointer(torch.bincount(rows, minlength=n)),
        col_indices=columns[order].to(torch.int32),
        values=torch.cat([acts.values[others], values[stored].to(acts.values)])[order],
        entries_per_row=None,
    )


def by_hook(edits: "FeatureEdits | None") -> tuple[list[FeatureEdit], dict[str, Callable[[Tensor], Tensor]]]:
    """(Feature edits, each with its hook where a mapping gave it; plain edits by hook) of what a caller may pass as edits."""
    if edits is None:
        return [], {}
    if not isinstance(edits, Mapping):
        return _listed(edits), {}
    features: list[FeatureEdit] = []
    plain: dict[str, Callable[[Tensor], Tensor]] = {}
    for hook_name, given in edits.items():
        if isinstance(given, FeatureEdit | Sequence):
            features += [replace(edit, hook_name=edit.hook_name or hook_name) for edit in _listed(given)]
        elif callable(given):
            plain[hook_name] = given
        else:
            raise ArgumentError(f"edits[{hook_name!r}]", expected="FeatureEdits or a function", got=type(given).__name__)
    return features, plain


FeatureEdits = (
    FeatureEdit | Sequence[FeatureEdit] | Mapping[str, FeatureEdit | Sequence[FeatureEdit] | Callable[[Tensor], Tensor]]
)
"""Edits of a pass with SAEs: feature edits, or by hook name feature edits of the SAE there and functions of the activation."""


def _listed(edits: FeatureEdit | Sequence[FeatureEdit]) -> list[FeatureEdit]:
    listed = [edits] if isinstance(edits, FeatureEdit) else list(edits)
    for edit in listed:
        if not isinstance(edit, FeatureEdit):
            raise ArgumentError("edits", expected="FeatureEdits, or a mapping from hook names", got=type(edit).__name__)
    return listed


def _chosen(edit: FeatureEdit, window: Window, acts_of: ActsOf) -> Tensor:
    """Boolean `[rows, n, len(edit.features)]`, or `[rows, n, 1]` where it is the same for all."""
    chosen = window.mask(edit.positions)[..., None]
    condition = edit.condition
    if condition is None:
        return chosen
    acts = acts_of(condition.hook_name)
    looked_at = edit.features if condition.feature is None else (condition.feature,)
    levels = acts.features(looked_at).reshape(*window.token_ids.shape, len(looked_at))
    return chosen.to(levels.device) & condition.holds(levels)
