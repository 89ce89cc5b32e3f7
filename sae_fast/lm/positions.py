"""Which tokens an edit applies to, meant alike in a whole pass, a padded batch, and a pass that continues a cache."""

import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, ShapeError

Positions = Literal["all", "prompt", "generated"] | int | slice | Sequence[int] | Tensor | Callable[[Tensor, Tensor], Tensor]
"""What `Window.mask` takes.

* `"all"`: every real token. `"prompt"`: those of the prompt. `"generated"`: tokens that were generated, as they are read again;
  the first new token is predicted at the last of the prompt, so `"generated"` does not touch it.
* an integer, a list of them, or a slice: places among the *real* tokens of a row, 0 for the first, so that padding on either
  side changes nothing; negative ones count from the end of the prompt (-1 is its last token).
* a boolean tensor `[batch, pos]`: columns of the token ids as given; false for what is generated later.
* a function of `(token_ids, positions)`, each int64 `[batch, pos]`, that gives a boolean tensor of that shape; `positions` are
  places among the real tokens, -1 at padding.
"""


def integers(what: str, given: object, expected: str) -> tuple[int, ...]:
    """One integer of any kind (Python's, NumPy's, a tensor's) or several, as a tuple; `ArgumentError` for anything else."""
    with suppress(TypeError):
        return (operator.index(given),)  # type: ignore[arg-type]
    try:
        return tuple(operator.index(item) for item in given)  # type: ignore[attr-defined]
    except TypeError as error:
        raise ArgumentError(what, expected=expected, got=given) from error


@dataclass(frozen=True, eq=False)
class Window:
    """The columns of a batch of texts that one pass computes."""

    token_ids: Tensor
    """int64 `[rows, n]`: what this pass reads."""
    positions: Tensor
    """int64 `[rows, n]`: place of each token among the real tokens of its row, -1 at padding."""
    n_prompt: Tensor
    """int64 `[rows, 1]`: real tokens of each row's prompt."""
    start: int = 0
    """Column of the first token of this pass."""
    batch: int = 0
    """Rows of the batch as given; a multiple of it where beams or several samples share a prompt."""

    @classmethod
    def of(cls, token_ids: Tensor, attention_mask: Tensor | None = None, prompt_length: int | None = None) -> "Window":
        """One pass over whole texts, whose first `prompt_length` columns (all if not given) are the prompt."""
        real = torch.ones_like(token_ids) if attention_mask is None else attention_mask.to(token_ids.device).long()
        prompt = real if prompt_length is None else real[:, :prompt_length]
        positions = (real.cumsum(1) - 1).masked_fill(real == 0, -1)
        return cls(token_ids, positions, prompt.sum(1, keepdim=True), batch=token_ids.shape[0])

    @classmethod
    def continuing(cls, token_ids: Tensor, prompt_mask: Tensor, start: int) -> "Window":
        """A pass over `token_ids` `[rows, n]` from column `start` on, after a prompt with mask `[batch, prompt]`.

        Rows are those of the batch, each repeated as often as there are beams or samples.
        """
        batch, n_prompt_columns = prompt_mask.shape
        n = token_ids.shape[1]
        new = prompt_mask.new_ones(batch, max(start + n - n_prompt_columns, 0))
        real = torch.cat([prompt_mask, new], 1).long().repeat_interleave(token_ids.shape[0] // batch, 0)
        positions = (real.cumsum(1) - 1).masked_fill(real == 0, -1)[:, start : start + n]
        n_prompt = real[:, :n_prompt_columns].sum(1, keepdim=True)
        device = token_ids.device
        return cls(token_ids, positions.to(device), n_prompt.to(device), start, batch)

    def mask(self, which: Positions | None) -> Tensor:
        """Boolean `[rows, n]`: the tokens of this pass that `which` names; None is `"all"`.

        Raises:
            ArgumentError: `which` is not one of `Positions`.
            ShapeError: a boolean tensor, or what a function returns, has the wrong shape or dtype.
        """
        real = self.positions >= 0
        if which is None or (isinstance(which, str) and which == "all"):
            return real
        if isinstance(which, str):
            return real & self._named(which)
        if isinstance(which, Tensor) and which.dtype == torch.bool:
            return real & self._columns(which)
        if callable(which):
            return real & self._checked(which(self.token_ids, self.positions))
        if isinstance(which, slice):
            return real & self._in_slice(which)
        return real & self._listed(which)

    def values(self, value: float | Tensor) -> float | Tensor:
        """A number, or a tensor `[]`, `[batch, 1]` or `[batch, pos]`, as it broadcasts against this pass's `[rows, n]`."""
        if not isinstance(value, Tensor) or value.ndim == 0:
            return value
        if value.ndim != 2 or value.shape[0] not in (1, self.batch):
            raise ShapeError("value", expected=f"a number, [{self.batch}, 1] or [{self.batch}, pos]", got=list(value.shape))
        rows = value.repeat_interleave(self.token_ids.shape[0] // value.shape[0], 0)
        if rows.shape[1] == 1:
            return rows
        if rows.shape[1] < self.start + self.token_ids.shape[1]:
            advice = "Give one value a row where tokens are generated"
            raise ShapeError(
                "value", expected=f"{self.start + self.token_ids.shape[1]} columns", got=rows.shape[1], advice=advice
            )
        return rows[:, self.start : self.start + self.token_ids.shape[1]]

    def _named(self, which: str) -> Tensor:
        match which:
            case "prompt":
                return self.positions < self.n_prompt
            case "generated":
                return self.positions >= self.n_prompt
        raise ArgumentError("positions", expected="'all', 'prompt', 'generated', places, a mask or a function", got=repr(which))

    def _columns(self, which: Tensor) -> Tensor:
        if which.ndim != 2 or which.shape[0] != self.batch:
            raise ShapeError("positions", expected=f"a boolean mask [{self.batch}, pos]", got=list(which.shape))
        rows, n = self.token_ids.shape
        which = which.to(self.token_ids.device).repeat_interleave(rows // self.batch, 0)[:, self.start : self.start + n]
        return torch.cat([which, which.new_zeros(rows, n - which.shape[1])], 1)

    def _in_slice(self, which: slice) -> Tensor:
        inside = torch.ones_like(self.positions, dtype=torch.bool)
        if which.start is not None:
            inside &= self.positions >= self._from_start(which.start).clamp(min=0)
        if which.stop is not None:
            inside &= self.positions < self._from_start(which.stop)
        step = 1 if which.step is None else which.step
        if step < 1:
            raise ArgumentError("positions", expected="a slice with a positive step", got=which)
        first = self._from_start(which.start or 0).clamp(min=0)
        return inside & ((self.positions - first) % step == 0)

    def _listed(self, which: int | Sequence[int] | Tensor) -> Tensor:
        inside = torch.zeros_like(self.positions, dtype=torch.bool)
        for place in integers("positions", which, "'all', 'prompt', 'generated', places, a mask or a function"):
            inside |= self.positions == self._from_start(place)
        return inside

    def _from_start(self, place: int) -> Tensor:
        """`[rows, 1]`: a place from the first real token, negative ones counted from the end of the prompt."""
        return self.n_prompt + place if place < 0 else torch.full_like(self.n_prompt, place)

    def _checked(self, chosen: Tensor) -> Tensor:
        if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool or chosen.shape != self.token_ids.shape:
            got = f"{list(chosen.shape)} {chosen.dtype}" if isinstance(chosen, Tensor) else type(chosen).__name__
            expected = f"a boolean tensor {list(self.token_ids.shape)}"
            raise ShapeError("what the function given as positions returns", expected=expected, got=got)
        return chosen.to(self.token_ids.device)
