"""Passes of the LM over copies of a prompt, something subtracted at the hooks where SAEs write."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_fast.attribution.metrics import Metric
from sae_fast.attribution.prompt import Prompt
from sae_fast.errors import ShapeError
from sae_fast.lm.interface import Edit, LanguageModel


@dataclass(frozen=True, eq=False)
class Runner:
    """Passes of the LM over copies of the prompt, something subtracted at the hooks."""

    lm: LanguageModel
    prompt: Prompt
    metric: Metric
    batch_size: int

    def gradients(self, less: Mapping[str, Tensor], batch: int) -> dict[str, Tensor]:
        """∂metric/∂y `[batch, pos, d_out]` by hook, where `less [batch, pos, d_out]` is subtracted."""
        leaves: dict[str, Tensor] = {}

        def at(hook: str) -> Edit:
            def edit(y: Tensor) -> Tensor:
                y = y - less[hook].to(y) if hook in less else y
                leaves[hook] = y.clone() if y.requires_grad else y.detach().requires_grad_()
                return leaves[hook]

            return edit

        value = self._metric({hook: at(hook) for hook in self.prompt.output}, batch, grad=True)
        found = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
        gradients = zip(leaves.items(), found, strict=True)
        return {hook: torch.zeros_like(leaf) if gradient is None else gradient for (hook, leaf), gradient in gradients}

    @torch.no_grad()
    def values(self, less: Mapping[str, Tensor], batch: int) -> Tensor:
        """The metric `[batch]`, where `less [batch, pos, d_out]` is subtracted."""
        edits: dict[str, Edit] = {hook: _subtract(value) for hook, value in less.items()}
        return self._metric(edits, batch, grad=False)

    def _metric(self, edits: Mapping[str, Edit], batch: int, grad: bool) -> Tensor:
        logits = self.lm.logits(self.prompt.token_ids.expand(batch, -1), edits=edits, grad=grad)
        value = self.metric(logits)
        if not isinstance(value, Tensor) or tuple(value.shape) != (batch,):
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError("metric", expected=f"one number for each row, [{batch}]", got=got)
        return value


def _subtract(less: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda y: y - less.to(y)
