"""The one narrow interface to a language model: activations, edits, SAEs and generation at hooks; logits; unembedding.

A backend gives the passes; what runs SAEs in them is the same for all of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.lm.feature_edits import FeatureEdits
from sae_fast.lm.generation import Generation
from sae_fast.lm.places import SAEs
from sae_fast.lm.positions import Positions, Window
from sae_fast.lm.prompts import left_padded, padding_id, tokenize
from sae_fast.lm.sae_cache import SaeCache
from sae_fast.lm.splice import Splice, keeping
from sae_fast.sparse import SparseActs

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


@dataclass(frozen=True, eq=False)
class SaeRun:
    """A pass with SAEs in it."""

    logits: Tensor
    """`[batch, pos, d_vocab]`, in the model's dtype."""
    cache: SaeCache
    """What the SAEs read, computed and wrote."""


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

    def encode(
        self,
        token_ids: Tensor,
        saes: SAEs,
        attention_mask: Tensor | None = None,
        edits: Mapping[str, Edit] | None = None,
    ) -> dict[str, SparseActs]:
        """Feature activations `[batch, pos]` of each SAE, from one pass that stops after the last hook that one reads.

        By the hook where an SAE writes (a layer of a cross-layer transcoder: where it reads; a crosscoder: its hooks joined by
        "+"), as in `SaeCache`.
        """
        splice = Splice(saes)
        self._check_widths(splice)
        splice.begin(Window.of(token_ids, attention_mask))
        hooks = dict.fromkeys(hook for place in splice.places for hook in place.reads)
        found = self.activations(token_ids, list(hooks), attention_mask, edits)
        return {place.name: place.sae.encode(place.input(found)) for place in splice.places}

    def run_with_saes(
        self,
        token_ids: Tensor,
        saes: SAEs,
        attention_mask: Tensor | None = None,
        *,
        error_term: bool = True,
        edits: FeatureEdits | None = None,
        where: Positions | None = None,
        hook_names: Sequence[str] = (),
        prompt_length: int | None = None,
        grad: bool = False,
    ) -> SaeRun:
        """One pass with SAEs spliced in where they write; with crosscoders two, for they read all their hooks before that.

        Args:
            token_ids: int64 `[batch, pos]`.
            saes: an SAE, several, or a mapping from the hooks where they read. A transcoder reads at `cfg.hook_name` and
                writes at `cfg.hook_name_out`; layers of a cross-layer transcoder may share hooks, and what they write is
                summed. A crosscoder reads `cfg.hook_names` of a pass without SAEs, with the functions of `edits` in force, and
                writes at all of them in a second pass. SAEs of a centred residual stream (`cfg.centred`) get it without its
                mean, which is put back.
            attention_mask: see the class.
            error_term: True keeps what the SAEs do not explain, so that without edits the logits are bitwise the model's own;
                False puts their output in the place of what is there.
            edits: feature edits, one or several, or a mapping from hook names to feature edits or to functions of the
                activation.
            where: the tokens at which an output takes the place of what is there (`error_term=False`); all real ones if None.
            hook_names: further hooks whose activations go into the cache, those of the edited pass.
            prompt_length: columns of the prompt, for edits of what was generated; all if None.
            grad: autograd records the pass; gradients flow through the SAEs, while their error is a constant.

        Raises:
            ArgumentError: two SAEs that write at one hook, an SAE without a hook, an edit that does not say which SAE.
            HookNotFoundError: the model has no such hook.
            ShapeError: the width of an SAE is not that of its hook.
        """
        splice = Splice(saes, edits, error_term, where, grad)
        self._check_widths(splice)
        splice.begin(Window.of(token_ids, attention_mask, prompt_length))
        kept: dict[str, Tensor] = {}
        functions = dict(splice.functions())
        with torch.set_grad_enabled(grad):
            if splice.hooks_beforehand:
                with splice.reading_beforehand():
                    self.activations(token_ids, splice.hooks_beforehand, attention_mask, functions, grad=grad)
            for name in hook_names:
                functions[name] = keeping(name, functions.get(name), kept)
            logits = self.logits(token_ids, attention_mask, functions, grad=grad)
        return SaeRun(logits, SaeCache(splice, kept))

    def generate(
        self,
        prompts: str | Sequence[str] | Tensor,
        max_new_tokens: int = 32,
        *,
        saes: SAEs = (),
        edits: FeatureEdits | None = None,
        error_term: bool = True,
        where: Positions | None = None,
        attention_mask: Tensor | None = None,
        prepend_bos: bool | None = None,
        **options: Any,
    ) -> Generation:
        """Continue prompts, with SAEs and edits in force at every token, under the KV cache.

        Greedy unless `do_sample=True`. The result equals that of recomputing the whole text for each token. Prompts of
        different lengths are padded on the left; padding changes nothing (see `positions` for how edits name tokens).
        Crosscoders read a pass of their own, with a cache of its own, before each pass; with them there is no beam search.

        Args:
            prompts: a text, several, or int64 `[batch, pos]` with `attention_mask`, padded on either side.
            max_new_tokens: at most so many new tokens a row.
            saes: as for `run_with_saes`.
            edits: as for `run_with_saes`.
            error_term: as for `run_with_saes`.
            where: as for `run_with_saes`.
            attention_mask: of token ids.
            prepend_bos: for texts: begin each with BOS (once). As the SAE's configuration says if None, else as the tokenizer
                does.
            **options: for the backend's `generate`: `do_sample`, `temperature`, `top_p`, `num_return_sequences`, `num_beams`,
                `eos_token_id`, `streamer`, …
        """
        splice = Splice(saes, edits, error_term, where)
        self._check_widths(splice)
        if isinstance(prompts, Tensor):
            token_ids, mask = prompts, torch.ones_like(prompts) if attention_mask is None else attention_mask.long()
        else:
            if attention_mask is not None:
                raise ArgumentError("attention_mask", expected="token ids that it belongs to", got="texts")
            said = {place.sae.cfg.prepend_bos for place in splice.places} - {None}
            said_bos = said.pop() if len(said) == 1 else None
            token_ids, mask = self.tokenize(prompts, said_bos if prepend_bos is None else prepend_bos)
        token_ids, mask = left_padded(token_ids, mask)
        options = {"pad_token_id": padding_id(self.tokenizer), "max_new_tokens": max_new_tokens} | options
        return self._generate(token_ids, mask, splice, options)

    def tokenize(
        self, texts: str | Sequence[str], prepend_bos: bool | None = None, side: Literal["left", "right"] = "left"
    ) -> tuple[Tensor, Tensor]:
        """`(token_ids, attention_mask)`, int64 `[batch, pos]` each, of texts, padded on one side.

        With `prepend_bos` each begins with BOS, exactly once; without, with what the text itself has; None does as the
        tokenizer does. Raises `ArgumentError` where a text has no token.
        """
        return tokenize(self.tokenizer, texts, prepend_bos, side)

    @abstractmethod
    def _generate(self, token_ids: Tensor, mask: Tensor, splice: Splice, options: dict[str, Any]) -> Generation:
        """Continue left-padded prompts with `splice.functions()` in force and `splice.begin` called before each pass."""

    def _check_widths(self, splice: Splice) -> None:
        for place in splice.places:
            for field, hook, width in place.widths:
                if width != self.d_hook(hook):
                    expected = f"{self.d_hook(hook)}, the width at {hook}"
                    raise ShapeError(f"{field} of the SAE at {place.name}", expected=expected, got=width)

    @abstractmethod
    def unembed(self) -> Unembed:
        """The map from the residual stream to logits."""
