"""The one narrow interface to a language model: activations at hooks, edits at hooks, logits, unembedding."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Edit = Callable[[Tensor], Tensor]
"""Takes the activation `[batch, pos, d]` at a hook and returns its replacement, of the same shape."""


@dataclass(frozen=True)
class Unembed:
    """The map from the residual stream to logits: `softcap(norm(x) @ W_U + bias)`, the norm's parts kept apart."""

    W_U: Tensor
    """`[d_model, d_vocab]`, in the LM's dtype; a view of the LM's own weight."""
    norm_weight: Tensor | None
    """`[d_model]`: what the final norm multiplies by (`1 + w` for Gemma); None where the model's final norm is not known."""
    bias: Tensor | None = None
    """`[d_vocab]`, or None."""
    softcap: float | None = None
    """Logits are `softcap * tanh(logits / softcap)` where this is given."""
    centred: bool = False
    """True where the final norm subtracts the mean over `d_model` (LayerNorm), False for RMSNorm."""


class LanguageModel(ABC):
    """A causal LM in evaluation mode. All tensors that it takes are moved to its device; what it returns lies there.

    `token_ids` is int64 `[batch, pos]`. `attention_mask` is `[batch, pos]`, 1 at real tokens and 0 at padding; position ids
    count the real tokens of each row, so that left and right padding give the same activations at real tokens. Activations at
    padding are meaningless and may be NaN. No BOS is ever added: that is the caller's business.
    """

    tokenizer: Any
    d_model: int
    d_vocab: int
    n_ctx: int | None
    bos_token_id: int | None

    @abstractmethod
    def hook_names(self) -> list[str]:
        """Every TransformerLens-style name that this model offers, in the order in which a pass meets them."""

    @abstractmethod
    def d_hook(self, hook_name: str) -> int:
        """Width of the activation at a hook.

        Raises:
            HookNotFoundError: the model has no such hook; the message names the nearest ones.
        """

    @abstractmethod
    def activations(
        self,
        token_ids: Tensor,
        hook_names: Sequence[str],
        attention_mask: Tensor | None = None,
        edits: Mapping[str, Edit] | None = None,
        *,
        grad: bool = False,
    ) -> dict[str, Tensor]:
        """Activations `[batch, pos, d]` at each hook, in the model's dtype, from one pass that stops after the last hook.

        With `edits`, those of the edited pass: a hook that is both edited and asked for gives the replacement. See `logits` for
        `edits` and `grad`.

        Raises:
            HookNotFoundError: the model has no such hook, or the pass does not reach it.
            ShapeError: `token_ids` or `attention_mask` is not as described above.
        """

    @abstractmethod
    def logits(
        self,
        token_ids: Tensor,
        attention_mask: Tensor | None = None,
        edits: Mapping[str, Edit] | None = None,
        *,
        grad: bool = False,
    ) -> Tensor:
        """Logits `[batch, pos, d_vocab]` in the model's dtype, with activations replaced by what `edits` return.

        An edit that returns its argument gives bitwise the logits of the unedited model. With `grad`, autograd records the
        pass from the tensors that need a gradient: those that edits return, and weights that were not frozen (`load` freezes
        all). An edit that returns `activation.detach().requires_grad_()` makes a leaf of the activation.

        Raises:
            HookNotFoundError: the model has no such hook, or the pass does not reach it.
            ShapeError: an edit returns something other than a tensor of its argument's shape, or the inputs do not fit.
        """

    @abstractmethod
    def unembed(self) -> Unembed:
        """The map from the residual stream to logits."""
