"""Which tokens a position means, in whole texts, under padding, and in passes that continue a cache."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.lm.positions import Window

LEFT = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
IDS = torch.tensor([[9, 9, 5, 6, 7], [4, 5, 6, 7, 8]])
WHOLE: list[tuple[Any, list[list[int]]]] = [
    (None, [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
    ("all", [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
    ("prompt", [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
    ("generated", [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]),
    (0, [[0, 0, 1, 0, 0], [1, 0, 0, 0, 0]]),
    (-1, [[0, 0, 0, 0, 1], [0, 0, 0, 0, 1]]),
    ([1, -1], [[0, 0, 0, 1, 1], [0, 1, 0, 0, 1]]),
    (4, [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]),
    (np.int64(1), [[0, 0, 0, 1, 0], [0, 1, 0, 0, 0]]),
    (torch.tensor([0, 2]), [[0, 0, 1, 0, 1], [1, 0, 1, 0, 0]]),
    (slice(1, None), [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]),
    (slice(-2, None), [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]),
    (slice(None, -1), [[0, 0, 1, 1, 0], [1, 1, 1, 1, 0]]),
    (slice(0, None, 2), [[0, 0, 1, 0, 1], [1, 0, 1, 0, 1]]),
    (torch.tensor([[True, False, True, False, False]] * 2), [[0, 0, 1, 0, 0], [1, 0, 1, 0, 0]]),
    (lambda ids, _: ids == 5, [[0, 0, 1, 0, 0], [0, 1, 0, 0, 0]]),
    (lambda _, places: places > 1, [[0, 0, 0, 0, 1], [0, 0, 1, 1, 1]]),
]


@pytest.mark.parametrize(("which", "expected"), WHOLE)
def test_positions_of_whole_texts(which: Any, expected: list[list[int]]) -> None:
    """Places count real tokens; padding is never chosen."""
    assert Window.of(IDS, LEFT).mask(which).long().tolist() == expected


@pytest.mark.parametrize("which", [which for which, _ in WHOLE])
@pytest.mark.parametrize("cuts", [(5,), (5, 6, 7), (2, 5, 7)])
def test_passes_that_continue_choose_what_one_pass_over_the_whole_chooses(which: Any, cuts: tuple[int, ...]) -> None:
    """Cut anywhere, the parts put together are the mask of the whole text, of two samples a prompt as well."""
    prompt = LEFT
    whole_ids = torch.cat([IDS, torch.tensor([[5, 3], [5, 5]])], 1).repeat_interleave(2, 0)
    whole_mask = torch.cat([LEFT, torch.ones(2, 2, dtype=torch.int64)], 1).repeat_interleave(2, 0)
    expected_which = which.repeat_interleave(2, 0) if isinstance(which, Tensor) and which.ndim == 2 else which

    starts = (0, *cuts)
    parts = [
        Window.continuing(whole_ids[:, start:stop], prompt, start).mask(which)
        for start, stop in zip(starts, (*cuts, 7), strict=True)
        if stop > start
    ]

    whole = Window.of(whole_ids, whole_mask, prompt_length=5).mask(expected_which)
    assert torch.equal(torch.cat(parts, 1), whole)


def test_generated_is_what_comes_behind_the_prompt() -> None:
    """With a prompt length, prompt and generated part the real tokens between them."""
    window = Window.of(IDS, LEFT, prompt_length=3)

    assert window.mask("prompt").long().tolist() == [[0, 0, 1, 0, 0], [1, 1, 1, 0, 0]]
    assert window.mask("generated").long().tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]
    assert window.mask(-1).long().tolist() == [[0, 0, 1, 0, 0], [0, 0, 1, 0, 0]]


def test_values_follow_rows_and_columns() -> None:
    """One value a row serves every pass and sample; one a token is cut to the pass, and refused where it is too short."""
    window = Window.continuing(torch.zeros(4, 1, dtype=torch.int64), LEFT, 6)

    assert window.values(2.0) == 2.0
    assert window.values(torch.tensor([[1.0], [2.0]])).tolist() == [[1], [1], [2], [2]]  # type: ignore[union-attr]
    assert window.values(torch.arange(7.0)[None]).tolist() == [[6]] * 4  # type: ignore[union-attr]
    with pytest.raises(ShapeError, match="value: expected 7 columns, got 5"):
        window.values(torch.ones(2, 5))


@pytest.mark.parametrize(
    ("which", "error", "message"),
    [
        ("first", ArgumentError, "got 'first'"),
        (slice(None, None, -1), ArgumentError, "positive step"),
        ([0.5], ArgumentError, r"got \[0.5\]"),
        (torch.ones(3, 5, dtype=torch.bool), ShapeError, r"a boolean mask \[2, pos\], got \[3, 5\]"),
        (lambda ids, _: ids, ShapeError, r"expected a boolean tensor \[2, 5\], got \[2, 5\] torch.int64"),
    ],
)
def test_positions_that_mean_nothing_are_refused(which: Any, error: type[Exception], message: str) -> None:
    """With what may be given instead."""
    with pytest.raises(error, match=message):
        Window.of(IDS, LEFT).mask(which)
