"""Hooks, edits and SAEs in any PyTorch module: encoders, vision towers, models of one's own."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sae_fast.lm import families, hooks
from sae_fast.lm.feature_edits import FeatureEdits
from sae_fast.lm.interface import Edit
from sae_fast.lm.places import SAEs, places
from sae_fast.lm.positions import Positions
from sae_fast.lm.sae_cache import SaeCache
from sae_fast.lm.splice import Splice, keeping
from sae_fast.sparse import SparseActs


@dataclass(frozen=True, eq=False)
class ModuleRun:
    """A pass of a module with SAEs in it."""

    output: Any
    """What the module returned."""
    cache: SaeCache
    """What the SAEs read, computed and wrote."""


class HookedModule:
    """Any module behind the same hooks, edits and SAEs as a language model; it is called with whatever it takes.

    A hook is a module path with `.input` or `.output` (`encoder.layer.3.output`), or, in a text model of a known family, a
    TransformerLens-style name. Activations are `[..., d]`. Positions of edits count along the last but one dimension (patches
    of an image, tokens of a text); there is no padding and no prompt.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()
        config = getattr(model, "config", None)
        text_config = getattr(config, "get_text_config", lambda: None)()
        self._points, self._norm_offset = ({}, 0.0) if text_config is None else families.hooks_of(model, text_config)

    def hook_names(self) -> list[str]:
        """TransformerLens-style names, then the input and the output of every module."""
        paths = [path for path, _ in self.model.named_modules() if path]
        return [*self._points, *(f"{path}.{side}" for path in paths for side in ("input", "output"))]

    def activations(
        self,
        hook_names: Sequence[str],
        *inputs: Any,
        edits: Mapping[str, Edit] | None = None,
        grad: bool = False,
        **arguments: Any,
    ) -> dict[str, Tensor]:
        """Activations at hooks from one pass `model(*inputs, **arguments)` that stops once all have been met.

        A module that runs several times gives its first value. Raises `HookNotFoundError` for a hook that is not there, or
        that the pass does not reach.
        """
        edits = edits or {}
        wanted = dict.fromkeys(hook_names)
        found: dict[str, Tensor] = {}

        def visit(name: str, activation: Tensor) -> Tensor | None:
            new = hooks.checked(name, edits[name](activation.clone()), activation) if name in edits else None
            if name in wanted and name not in found:
                found[name] = activation if new is None else new
                if len(found) == len(wanted):
                    raise hooks.AllFoundError
            return new

        points = {name: self._point(name) for name in (*edits, *wanted)}
        with self._visiting(points, visit), suppress(hooks.AllFoundError), torch.set_grad_enabled(grad):
            self.model(*inputs, **arguments)
        hooks.require_reached(points, found, wanted)
        return {name: found[name] for name in hook_names}

    def run(self, *inputs: Any, edits: Mapping[str, Edit] | None = None, grad: bool = False, **arguments: Any) -> Any:
        """`model(*inputs, **arguments)` with activations replaced by what `edits` return. Raises as `activations` does."""
        edits = edits or {}
        points = {name: self._point(name) for name in edits}
        reached: dict[str, None] = {}

        def visit(name: str, activation: Tensor) -> Tensor:
            reached[name] = None
            new = edits[name](activation.clone())
            return hooks.checked(name, new, activation)

        with self._visiting(points, visit), torch.set_grad_enabled(grad):
            output = self.model(*inputs, **arguments)
        hooks.require_reached(points, reached)
        return output

    def encode(self, saes: SAEs, *inputs: Any, **arguments: Any) -> dict[str, SparseActs]:
        """Feature activations of each SAE by the hook where it writes, from one pass that stops after the last hook."""
        placed = places(saes)
        found = self.activations(list(dict.fromkeys(hook for place in placed for hook in place.reads)), *inputs, **arguments)
        return {place.name: place.sae.encode(place.input(found)) for place in placed}

    def run_with_saes(
        self,
        saes: SAEs,
        *inputs: Any,
        error_term: bool = True,
        edits: FeatureEdits | None = None,
        where: Positions | None = None,
        hook_names: Sequence[str] = (),
        grad: bool = False,
        **arguments: Any,
    ) -> ModuleRun:
        """One pass with SAEs spliced in where they write; see `LanguageModel.run_with_saes`.

        Raises `ShapeError` where an SAE's width is not that of its hook.
        """
        splice = Splice(saes, edits, error_term, where, grad)
        splice.begin(None)
        functions = dict(splice.functions())
        if splice.hooks_beforehand:
            with splice.reading_beforehand(), torch.set_grad_enabled(grad):
                self.activations(splice.hooks_beforehand, *inputs, edits=functions, grad=grad, **arguments)
        kept: dict[str, Tensor] = {}
        for name in hook_names:
            functions[name] = keeping(name, functions.get(name), kept)
        output = self.run(*inputs, edits=functions, grad=grad, **arguments)
        return ModuleRun(output, SaeCache(splice, kept))

    def _point(self, hook_name: str) -> families.HookPoint:
        if (named := families.canonical(hook_name)) in self._points:
            return self._points[named]
        return families.module_point(self.model, hook_name, f"this {type(self.model).__name__}", list(self._points))

    def _visiting(self, points: Mapping[str, families.HookPoint], visit: hooks.Visitor) -> Any:
        return hooks.visiting(self.model, points, visit, self._norm_offset)
