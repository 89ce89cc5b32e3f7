"""What backends share whose passes run here, module by module: hooks that read, replace, and stop a pass early."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.lm import generation, hooks
from sae_fast.lm.families import HookPoint
from sae_fast.lm.generation import Generation
from sae_fast.lm.interface import Edit, LanguageModel

_NOT_D_MODEL = ("attn.hook_z", "mlp.hook_pre", "mlp.hook_post")


class HookedLM(LanguageModel):
    """A language model whose modules run in this process. A backend says where its hooks are and runs a pass."""

    _points: dict[str, HookPoint]
    """Place of each TransformerLens-style name, in the order of a pass."""
    _widths: dict[str, int]
    """Of hooks asked about so far."""
    _shape: torch.Size
    """`[batch, pos]` of the pass under way."""

    @property
    @abstractmethod
    def _embedding(self) -> Tensor:
        """`[n_embeddings, d]`: token ids are below its length, and go to its device."""

    @abstractmethod
    def _point(self, hook_name: str) -> HookPoint:
        """The place of a hook; raises `HookNotFoundError`."""

    @abstractmethod
    def _visiting(self, points: Mapping[str, HookPoint], visit: hooks.Visitor) -> AbstractContextManager[None]:
        """As `hooks.visiting`, with activations `[batch, pos, d]`."""

    @abstractmethod
    def _run(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """One pass over int64 `[batch, pos]` each: logits."""

    def hook_names(self) -> list[str]:
        """See `LanguageModel`; empty for a model of a family that has no TransformerLens names here."""
        return list(self._points)

    def d_hook(self, hook_name: str) -> int:
        """See `LanguageModel`. Widths that the configuration does not tell come from a pass over one token, once."""
        if hook_name not in self._widths:
            self._point(hook_name)
            if hook_name in self._points and not hook_name.endswith(_NOT_D_MODEL):
                self._widths[hook_name] = self.d_model
            else:
                activation = self.activations(torch.zeros(1, 1, dtype=torch.int64), [hook_name])[hook_name]
                self._widths[hook_name] = activation.shape[-1]
        return self._widths[hook_name]

    def activations(
        self,
        token_ids: Tensor,
        hook_names: Sequence[str],
        attention_mask: Tensor | None = None,
        edits: Mapping[str, Edit] | None = None,
        *,
        grad: bool = False,
    ) -> dict[str, Tensor]:
        """See `LanguageModel`."""
        edits = edits or {}
        wanted = dict.fromkeys(hook_names)
        found: dict[str, Tensor] = {}

        def visit(name: str, activation: Tensor) -> Tensor | None:
            new = self._edited(name, activation, edits[name]) if name in edits else None
            if name in wanted:
                found[name] = activation if new is None else new
                if len(found) == len(wanted):
                    raise hooks.AllFoundError
            return new

        if wanted:
            # Edits first, so that what is kept at another name of an edited place is the replacement.
            points = {name: self._point(name) for name in (*edits, *wanted)}
            with self._visiting(points, visit), suppress(hooks.AllFoundError):
                self._forward(token_ids, attention_mask, grad)
            hooks.require_reached(points, found, wanted)
        return {name: found[name] for name in hook_names}

    def logits(
        self,
        token_ids: Tensor,
        attention_mask: Tensor | None = None,
        edits: Mapping[str, Edit] | None = None,
        *,
        grad: bool = False,
    ) -> Tensor:
        """See `LanguageModel`. Edits at different names for one place are applied in the order in which they are given."""
        edits = edits or {}
        points = {name: self._point(name) for name in edits}
        reached: set[str] = set()

        def visit(name: str, activation: Tensor) -> Tensor:
            reached.add(name)
            return self._edited(name, activation, edits[name])

        with self._visiting(points, visit):
            logits = self._forward(token_ids, attention_mask, grad)
        hooks.require_reached(points, reached)
        return logits

    def _edits_in_force(self, functions: Mapping[str, Edit]) -> AbstractContextManager[None]:
        points = {name: self._point(name) for name in functions}

        def visit(name: str, activation: Tensor) -> Tensor:
            return self._edited(name, activation, functions[name])

        return self._visiting(points, visit)

    def _in_batch_shape(self, visit: hooks.Visitor) -> hooks.Visitor:
        """Shows `visit` activations as `[batch, pos, d]`, also where a module runs all tokens as one row (OPT's MLP)."""

        def in_shape(name: str, activation: Tensor) -> Tensor | None:
            if activation.ndim != 2 or activation.shape[0] != self._shape.numel():
                return visit(name, activation)
            new = visit(name, activation.unflatten(0, self._shape))
            return None if new is None else new.flatten(0, 1)

        return in_shape

    def _edited(self, name: str, activation: Tensor, edit: Edit) -> Tensor:
        # What a module reads, another may read too: an edit that writes into its argument must not reach both.
        shared = self._point(name).kind in ("input", "stream")
        return hooks.checked(name, edit(activation.clone() if shared else activation), activation)

    def _forward(self, token_ids: Tensor, attention_mask: Tensor | None, grad: bool) -> Tensor:
        token_ids, mask = self._checked(token_ids, attention_mask)
        self._shape = token_ids.shape
        # Not inference_mode: activations that leave it could not be used to train an SAE.
        with torch.set_grad_enabled(grad):
            return self._run(token_ids, mask)

    def _checked(self, token_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        if token_ids.ndim != 2 or token_ids.dtype not in (torch.int64, torch.int32) or 0 in token_ids.shape:
            got = f"{list(token_ids.shape)} {token_ids.dtype}"
            raise ShapeError("token_ids", expected="int64 [batch, pos] that is not empty", got=got)
        low, high = int(token_ids.min()), int(token_ids.max())
        if low < 0 or high >= self._embedding.shape[0]:
            advice = "Were the tokens made by this model's tokenizer?"
            raise ShapeError(
                "token_ids", expected=f"ids from 0 to {self._embedding.shape[0] - 1}", got=f"{low} to {high}", advice=advice
            )
        n_pos = token_ids.shape[1]
        if "hook_pos_embed" in self._points and self.n_ctx is not None and n_pos > self.n_ctx:
            raise ShapeError(
                "token_ids", expected=f"at most n_ctx = {self.n_ctx} positions", got=n_pos, advice="Shorten the contexts"
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(token_ids)
        elif attention_mask.shape != token_ids.shape:
            raise ShapeError("attention_mask", expected=list(token_ids.shape), got=list(attention_mask.shape))
        device = self._embedding.device
        return token_ids.to(device=device, dtype=torch.int64), attention_mask.to(device=device, dtype=torch.int64)

    def _check_room(self, mask: Tensor, max_new_tokens: int) -> None:
        if "hook_pos_embed" in self._points and self.n_ctx is not None:
            room = self.n_ctx - int(mask.sum(1).max())
            if max_new_tokens > room:
                raise ArgumentError("max_new_tokens", expected=f"at most {room} (n_ctx = {self.n_ctx})", got=max_new_tokens)

    def _generation(self, token_ids: Tensor, mask: Tensor, end_ids: Iterable[int], details: Any = None) -> Generation:
        n_prompt = mask.shape[1]
        texts = None
        if self.tokenizer is not None:
            texts = self.tokenizer.batch_decode(token_ids[:, n_prompt:], skip_special_tokens=True)
        return Generation(token_ids, generation.with_end(token_ids, mask, end_ids), n_prompt, texts, details)
