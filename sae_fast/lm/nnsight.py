"""The LM interface on nnsight: the same hooks, read and replaced inside nnsight's traces, here or on its servers.

Each hook has an invoke of its own over the whole batch, so that hooks may be named in any order.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, MissingExtraError
from sae_fast.lm import checkpoint, hooks
from sae_fast.lm.families import HookPoint, Kind
from sae_fast.lm.generation import Generation
from sae_fast.lm.interface import Edit, SaeRun
from sae_fast.lm.splice import Splice
from sae_fast.lm.transformers import TransformersLM


def load(
    source: str | Path, device: str | torch.device, dtype: str | torch.dtype | None, arguments: dict[str, Any]
) -> "NnsightLM":
    """A folder or hub model in nnsight; see `sae_fast.lm.load`.

    With `remote=True` among the arguments no weight is loaded: passes run on nnsight's servers (NDIF), which need an API key.
    """
    try:
        import nnsight
    except ImportError as error:
        advice = 'Run `pip install "sae-fast[nnsight]"`'
        raise MissingExtraError("nnsight is needed for this backend", got=str(error), advice=advice) from error
    if remote := arguments.pop("remote", False):
        tokenizer = checkpoint.load_tokenizer(source, arguments)
        return NnsightLM(_traced(nnsight, str(source), tokenizer, arguments), tokenizer, remote)
    model, tokenizer = checkpoint.load(source, device, dtype, arguments)
    return NnsightLM(_traced(nnsight, model, tokenizer, {}), tokenizer)


def _traced(nnsight: Any, model: Any, tokenizer: Any, arguments: dict[str, Any]) -> Any:
    """What nnsight wraps a causal LM in, under the name that this version has for it."""
    if hasattr(nnsight, "TransformersModel"):
        return nnsight.TransformersModel(model, tokenizer=tokenizer, task="text-generation", **arguments)
    return nnsight.LanguageModel(model, tokenizer=tokenizer, **arguments)


class NnsightLM(TransformersLM):
    """A causal LM in an nnsight `TransformersModel` (or, before 0.8, `LanguageModel`) behind the `LanguageModel` interface.

    Args:
        model: the nnsight model.
        tokenizer: its tokenizer; the model's own if not given.
        remote: run each pass on nnsight's servers (`"local"`: here, but sent and received as if it were there). Activations
            and logits with functions as edits go as a trace; gradients, SAEs in the pass and generation need the model here
            (`ArgumentError`).
    """

    def __init__(self, model: Any, tokenizer: Any = None, remote: bool | str = False) -> None:
        super().__init__(model._module, model.tokenizer if tokenizer is None else tokenizer)
        self.traced, self.remote = model, remote
        self._visits: list[tuple[Mapping[str, HookPoint], hooks.Visitor]] = []

    def activations(
        self,
        token_ids: Tensor,
        hook_names: Sequence[str],
        attention_mask: Tensor | None = None,
        edits: Mapping[str, Edit] | None = None,
        *,
        grad: bool = False,
    ) -> dict[str, Tensor]:
        """See `LanguageModel`. On nnsight's servers the pass runs to its end."""
        if not self.remote:
            return super().activations(token_ids, hook_names, attention_mask, edits, grad=grad)
        self._require_here(grad, "grad")
        return self._remote_pass(token_ids, attention_mask, edits or {}, hook_names)[1]

    def logits(
        self,
        token_ids: Tensor,
        attention_mask: Tensor | None = None,
        edits: Mapping[str, Edit] | None = None,
        *,
        grad: bool = False,
    ) -> Tensor:
        """See `LanguageModel`."""
        if not self.remote:
            return super().logits(token_ids, attention_mask, edits, grad=grad)
        self._require_here(grad, "grad")
        return self._remote_pass(token_ids, attention_mask, edits or {}, ())[0]

    def _run(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        grad, logits = torch.is_grad_enabled(), []
        visits = [(name, point, visit) for points, visit in self._visits for name, point in points.items()]
        inputs, arguments = self._inputs(token_ids, mask)
        with self.traced.trace() as tracer:
            with tracer.invoke(inputs, **arguments):
                pass
            for name, point, visit in visits:
                with tracer.invoke():
                    visited = partial(_in_grad_mode, grad, partial(hooks.visit_checked, visit, name))
                    _at(self.traced.get(point.module), point.kind, name, visited, self._norm_offset)
            with tracer.invoke():
                logits.append(self.traced.output.logits)
        return logits[0]

    @contextmanager
    def _visiting(self, points: Mapping[str, HookPoint], visit: hooks.Visitor) -> Iterator[None]:
        self._visits.append((points, self._in_batch_shape(visit)))
        try:
            yield
        finally:
            self._visits.pop()

    def _edits_in_force(self, functions: Mapping[str, Edit]) -> AbstractContextManager[None]:
        # Generation is transformers' own loop over the model that nnsight holds.
        points = {name: self._point(name) for name in functions}
        return super()._visiting(points, lambda name, activation: self._edited(name, activation, functions[name]))

    def _generate(self, token_ids: Tensor, mask: Tensor, splice: Splice, options: dict[str, Any]) -> Generation:
        self._require_here(True, "generate")
        return super()._generate(token_ids, mask, splice, options)

    def run_with_saes(self, *arguments: Any, **options: Any) -> SaeRun:
        """See `LanguageModel`."""
        self._require_here(True, "run_with_saes")
        return super().run_with_saes(*arguments, **options)

    def _require_here(self, asked: bool, what: str) -> None:
        if asked and self.remote:
            raise ArgumentError(what, expected="a model that is loaded here", got=f"remote={self.remote!r}")

    def _inputs(self, token_ids: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
        arguments: dict[str, Any] = {"use_cache": False}
        if self._takes_positions:
            arguments["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        return {"input_ids": token_ids, "attention_mask": mask}, arguments

    def _remote_pass(
        self, token_ids: Tensor, attention_mask: Tensor | None, edits: Mapping[str, Edit], hook_names: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mask = torch.ones_like(token_ids) if attention_mask is None else attention_mask.long()
        inputs, arguments = self._inputs(token_ids, mask)
        # What goes into the trace travels to the server: plain values, no reference to this object.
        edited = [(name, self._point(name).module, self._point(name).kind, edit) for name, edit in edits.items()]
        wanted = [(name, self._point(name).module, self._point(name).kind) for name in hook_names]
        traced, offset = self.traced, self._norm_offset
        new_list: Any = list  # nnsight gives it `save` inside a trace
        with traced.trace(remote=self.remote) as tracer:
            kept = new_list().save()
            with tracer.invoke(inputs, **arguments):
                pass
            for name, module, kind, edit in edited:
                with tracer.invoke():
                    _at(traced.get(module), kind, name, edit, offset)
            for name, module, kind in wanted:
                with tracer.invoke():
                    kept.append((name, _at(traced.get(module), kind, name, None, offset)))
            with tracer.invoke():
                logits = traced.output.logits.save()
        found = dict(kept)
        return logits.detach(), {name: found[name].detach() for name in hook_names}


def _at(
    envoy: Any, kind: Kind, name: str, visit: Callable[[Tensor], Tensor | None] | None, norm_offset: float
) -> Tensor | None:
    """What a PyTorch hook does at a place, by a module's values in a trace; without `visit`, the activation there."""
    seen: list[Tensor] = []

    def act(activation: Tensor) -> Tensor | None:
        seen.append(activation)
        return None if visit is None else visit(activation)

    module = envoy._module
    match kind:
        case "output":
            new = hooks.on_output(name, act, module, (), envoy.output)
            if new is not None:
                envoy.output = new
        case "normalized":
            args, kwargs = envoy.inputs
            new = hooks.on_normalized(name, act, norm_offset, module, args, kwargs, envoy.output)
            if new is not None:
                envoy.output = new
        case "stream":
            hooks.on_stream(name, act, module, *envoy.inputs)
        case "input":
            inputs = hooks.on_input(name, act, module, *envoy.inputs)
            if inputs is not None:
                envoy.inputs = inputs
    return seen[0]


def _in_grad_mode(grad: bool, visit: Callable[[Tensor], Tensor | None], activation: Tensor) -> Tensor | None:
    # A trace waits for values in threads of its own, which do not know the caller's grad mode.
    with torch.set_grad_enabled(grad):
        return visit(activation)
