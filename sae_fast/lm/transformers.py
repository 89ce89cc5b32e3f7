"""The LM interface on Hugging Face transformers."""

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_fast.errors import FormatError
from sae_fast.lm import checkpoint, families, generation, hooks
from sae_fast.lm.families import HookPoint
from sae_fast.lm.generation import Generation
from sae_fast.lm.hooked import HookedLM
from sae_fast.lm.interface import Unembed
from sae_fast.lm.positions import Window
from sae_fast.lm.splice import Splice


def load(
    source: str | Path, device: str | torch.device, dtype: str | torch.dtype | None, arguments: dict[str, Any]
) -> "TransformersLM":
    """See `sae_fast.lm.load`."""
    return TransformersLM(*checkpoint.load(source, device, dtype, arguments))


class TransformersLM(HookedLM):
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
        self._points, self._norm_offset = families.hooks_of(model, self._config)
        final = self._points.get("ln_final.hook_normalized")
        self._final_norm = None if final is None else final.module
        self._widths = {}
        self._shape = torch.Size([1, 1])

    @property
    def _embedding(self) -> Tensor:
        return self.model.get_input_embeddings().weight

    def _generate(self, token_ids: Tensor, mask: Tensor, splice: Splice, options: dict[str, Any]) -> Generation:
        token_ids, mask = self._checked(token_ids, mask)
        self._check_room(mask, options["max_new_tokens"])

        def begin(window: Window) -> None:
            self._shape = window.token_ids.shape
            splice.begin(window)

        hooked = self._edits_in_force(splice.functions())
        beforehand = splice.reading_beforehand if splice.hooks_beforehand else None
        ids, details = generation.generate(self.model, token_ids, mask, begin, hooked, options, beforehand)
        return self._generation(ids, mask, generation.end_ids_of(self.model, options), details)

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
        return hooks.visiting(self.model, points, self._in_batch_shape(visit), self._norm_offset)

    def _run(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        arguments = {"input_ids": token_ids, "attention_mask": mask, "use_cache": False}
        if self._takes_positions:
            arguments["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        return self.model(**arguments).logits

    def _point(self, hook_name: str) -> HookPoint:
        if (named := families.canonical(hook_name)) in self._points:
            return self._points[named]
        n_layers = self._config.num_hidden_layers
        here = f"this {self._config.model_type} of {n_layers} layers (0 to {n_layers - 1})"
        return families.module_point(self.model, hook_name, here, self.hook_names())
