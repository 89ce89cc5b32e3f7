"""The LM interface on Hugging Face transformers."""

import difflib
import inspect
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, FormatError, HookNotFoundError, ShapeError
from sae_fast.lm import families, generation, hooks
from sae_fast.lm.families import HookPoint
from sae_fast.lm.generation import Generation
from sae_fast.lm.interface import Edit, LanguageModel, Unembed
from sae_fast.lm.positions import Window
from sae_fast.lm.splice import Splice

_NOT_D_MODEL = ("attn.hook_z", "mlp.hook_pre", "mlp.hook_post")


class _AllFoundError(Exception):
    """Leaves a forward pass once every activation that was asked for is there."""


class TransformersLM(LanguageModel):
    """A Hugging Face causal LM behind the `LanguageModel` interface. The model is put into evaluation mode.

    Args:
        model: a `PreTrainedModel` with a language modelling head.
        tokenizer: its tokenizer.

    Raises:
        FormatError: the model has no output embedding.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._config = model.config.get_text_config()
        head = model.get_output_embeddings()
        if head is None:
            raise FormatError(
                f"{type(model).__name__}", expected="a causal language model", got="a model without an output embedding"
            )
        self._head: Any = head
        self.d_model = int(self._config.hidden_size)
        self.d_vocab = int(head.weight.shape[0])
        self.n_ctx: int | None = getattr(self._config, "max_position_embeddings", None)
        bos = getattr(tokenizer, "bos_token_id", None)
        self.bos_token_id: int | None = getattr(self._config, "bos_token_id", None) if bos is None else bos
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._points: dict[str, HookPoint] = {}
        self._final_norm: str | None = None
        self._norm_offset = 0.0
        family = families.family_of(self._config)
        if family is not None:
            trunk = families.trunk_path(model, family)
            self._points = dict(families.named_points(model, family, trunk, int(self._config.num_hidden_layers)))
            self._final_norm = self._points["ln_final.hook_normalized"].module
            self._norm_offset = family.norm_offset
        self._widths: dict[str, int] = {}
        self._shape = torch.Size([1, 1])

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
                    raise _AllFoundError
            return new

        if wanted:
            # Edits first, so that what is kept at another name of an edited place is the replacement.
            points = {name: self._point(name) for name in (*edits, *wanted)}
            with self._visiting(points, visit), suppress(_AllFoundError):
                self._forward(token_ids, attention_mask, grad)
            self._require_reached(wanted, found)
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
            logits = self._forward(token_ids, attention_mask, grad).logits
        self._require_reached(points, reached)
        return logits

    def _generate(self, token_ids: Tensor, mask: Tensor, splice: Splice, options: dict[str, Any]) -> Generation:
        functions = splice.functions()
        points = {name: self._point(name) for name in functions}
        token_ids, mask = self._checked(token_ids, mask)
        if "hook_pos_embed" in self._points and self.n_ctx is not None:
            room = self.n_ctx - int(mask.sum(1).max())
            if (asked := options["max_new_tokens"]) > room:
                raise ArgumentError("max_new_tokens", expected=f"at most {room} (n_ctx = {self.n_ctx})", got=asked)

        def visit(name: str, activation: Tensor) -> Tensor:
            return self._edited(name, activation, functions[name])

        def begin(window: Window) -> None:
            self._shape = window.token_ids.shape
            splice.begin(window)

        hooked = self._visiting(points, visit)
        ids, details = generation.generate(self.model, token_ids, mask, begin, hooked, options)
        return Generation(
            token_ids=ids,
            attention_mask=generation.with_end(ids, mask, generation.end_ids_of(self.model, options)),
            prompt_length=token_ids.shape[1],
            texts=None
            if self.tokenizer is None
            else self.tokenizer.batch_decode(ids[:, token_ids.shape[1] :], skip_special_tokens=True),
            details=details,
        )

    def unembed(self) -> Unembed:
        """See `LanguageModel`."""
        norm = None if self._final_norm is None else self.model.get_submodule(self._final_norm)
        bias = getattr(self._head, "bias", None)
        return Unembed(
            W_U=self._head.weight.detach().T,
            norm_weight=None if norm is None else hooks.norm_weight(norm, self._norm_offset, self.d_model),
            bias=None if bias is None else bias.detach(),
            softcap=getattr(self._config, "final_logit_softcapping", None),
            centred=norm is not None and hooks.is_centred(norm),
        )

    def _visiting(self, points: Mapping[str, HookPoint], visit: hooks.Visitor) -> AbstractContextManager[None]:
        """`hooks.visiting` with activations in the shape of the batch, also where a module runs them all in one row."""

        def in_shape(name: str, activation: Tensor) -> Tensor | None:
            if activation.ndim != 2 or activation.shape[0] != self._shape.numel():
                return visit(name, activation)
            new = visit(name, activation.unflatten(0, self._shape))
            return None if new is None else new.flatten(0, 1)

        return hooks.visiting(self.model, points, in_shape, self._norm_offset)

    def _edited(self, name: str, activation: Tensor, edit: Edit) -> Tensor:
        # What a module reads, another may read too: an edit that writes into its argument must not reach both.
        shared = self._point(name).kind in ("input", "stream")
        return hooks.checked(name, edit(activation.clone() if shared else activation), activation)

    def _forward(self, token_ids: Tensor, attention_mask: Tensor | None, grad: bool) -> Any:
        token_ids, mask = self._checked(token_ids, attention_mask)
        self._shape = token_ids.shape
        arguments = {"input_ids": token_ids, "attention_mask": mask, "use_cache": False}
        if self._takes_positions:
            arguments["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        # Not inference_mode: activations that leave it could not be used to train an SAE.
        with torch.set_grad_enabled(grad):
            return self.model(**arguments)

    def _checked(self, token_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        if token_ids.ndim != 2 or token_ids.dtype not in (torch.int64, torch.int32) or 0 in token_ids.shape:
            got = f"{list(token_ids.shape)} {token_ids.dtype}"
            raise ShapeError("token_ids", expected="int64 [batch, pos] that is not empty", got=got)
        low, high = int(token_ids.min()), int(token_ids.max())
        n_embeddings = self.model.get_input_embeddings().num_embeddings
        if low < 0 or high >= n_embeddings:
            advice = "Were the tokens made by this model's tokenizer?"
            raise ShapeError("token_ids", expected=f"ids from 0 to {n_embeddings - 1}", got=f"{low} to {high}", advice=advice)
        n_pos = token_ids.shape[1]
        if "hook_pos_embed" in self._points and self.n_ctx is not None and n_pos > self.n_ctx:
            raise ShapeError(
                "token_ids", expected=f"at most n_ctx = {self.n_ctx} positions", got=n_pos, advice="Shorten the contexts"
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(token_ids)
        elif attention_mask.shape != token_ids.shape:
            raise ShapeError("attention_mask", expected=list(token_ids.shape), got=list(attention_mask.shape))
        device = self.model.get_input_embeddings().weight.device
        return token_ids.to(device=device, dtype=torch.int64), attention_mask.to(device=device, dtype=torch.int64)

    def _point(self, hook_name: str) -> HookPoint:
        if (named := families.canonical(hook_name)) in self._points:
            return self._points[named]
        path, _, side = hook_name.rpartition(".")
        modules = dict(self.model.named_modules())
        if path and path in modules and side in ("input", "output"):
            return HookPoint(path, "input" if side == "input" else "output")
        paths = [f"{module}.{side}" for module in modules if module for side in ("input", "output")]
        nearest = difflib.get_close_matches(hook_name, self.hook_names(), n=3, cutoff=0.5) or difflib.get_close_matches(
            hook_name, paths, n=3, cutoff=0.0
        )
        n_layers = self._config.num_hidden_layers
        raise HookNotFoundError(
            f"no hook {hook_name!r} in this {self._config.model_type} of {n_layers} layers (0 to {n_layers - 1})",
            advice=f"Nearest: {', '.join(nearest)}; a module path with .input or .output will do too, see lm.hook_names()",
        )

    def _require_reached(self, hook_names: Iterable[str], reached: Container[str]) -> None:
        for name in hook_names:
            if name not in reached:
                raise HookNotFoundError(f"hook {name!r}: the module {self._point(name).module} does not run in a forward pass")
