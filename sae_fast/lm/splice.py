"""SAEs inside a pass: what each reads, what it puts back, and what edits of its features change on the way.

The change of an edit is `decode(a') - decode(a)`, added to what is there at the tokens that the edit applies to. All else stays
bitwise as it is: the error `y - sae(x)` is kept by never taking it away.

What a crosscoder says at its first hook depends on what it reads at the last, so it reads a pass of its own, without SAEs, and
then writes at all hooks of a second one. Its error is that of the pass it has read: where an edit applies, its hooks are given
their activations of that pass plus the change, so that what an edit adds at one hook is not counted again at the next.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.lm.feature_edits import FeatureEdit, FeatureEdits, by_hook, edited
from sae_fast.lm.places import Place, SAEs, in_stream, places
from sae_fast.lm.positions import Positions, Window
from sae_fast.sae import SAE
from sae_fast.sparse import SparseActs

Function = Callable[[Tensor], Tensor]
"""What is done at a hook: takes the activation, returns its replacement."""


@dataclass(eq=False)
class Reading:
    """What one SAE has read in a pass."""

    x: Tensor
    """`[rows, n, d_in]`: what it encoded, centred where the SAE wants it so."""
    acts: SparseActs
    """Before edits."""
    edited: SparseActs
    """After edits; `acts` itself where there are none."""
    touched: Tensor | None
    """Boolean `[rows, n]`, tokens that edits apply to; None where there are none."""
    there: Mapping[str, Tensor] = field(default_factory=dict)
    """A crosscoder's: the activations `[rows, n, d]` by hook of the pass that it has read."""
    reconstructions: dict[bool, Tensor] = field(default_factory=dict)

    def reconstruction(self, sae: SAE, after_edits: bool) -> Tensor:
        """`[rows, n, d_out]` or `[rows, n, n_out, d_out]` in float32 or wider, skip term included; computed once."""
        key = after_edits and self.touched is not None
        if key not in self.reconstructions:
            decoded = sae.decode(self.edited if key else self.acts)
            skipped = sae.skip(self.x)
            self.reconstructions[key] = decoded if skipped is None else decoded + skipped
        return self.reconstructions[key]

    def change(self, sae: SAE) -> tuple[Tensor, Tensor]:
        """(rows of the flattened batch that edits apply to, `decode(a') - decode(a)` there)."""
        assert self.touched is not None
        rows = self.touched.flatten()
        return rows, sae.decode(self.edited.rows(rows)) - sae.decode(self.acts.rows(rows))


class Splice:
    """Functions for the hooks of a pass that read, change and write for a set of SAEs.

    Args:
        saes: see `SAEs`.
        edits: see `FeatureEdits`. A function at a hook runs before what the SAEs do there.
        error_term: keep what the SAE does not explain. If not, its output takes the place of what is there.
        where: the tokens at which that happens; all real ones if None.
        grad: gradients flow through the SAEs, the error is a constant.
    """

    def __init__(
        self,
        saes: SAEs,
        edits: FeatureEdits | None = None,
        error_term: bool = True,
        where: Positions | None = None,
        grad: bool = False,
    ) -> None:
        self.places = places(saes)
        feature_edits, self._plain = by_hook(edits)
        self._edits: dict[Place, list[FeatureEdit]] = {place: [] for place in self.places}
        for edit in feature_edits:
            self._edits[self.place_at(edit.hook_name)].append(edit)
            if edit.condition is not None and edit.condition.hook_name is not None:
                self.place_at(edit.condition.hook_name)
        self._error_term, self._where, self._grad = error_term, where, grad
        self.readings: dict[Place, Reading] = {}
        self.written: dict[str, tuple[Tensor, Tensor]] = {}
        """What was at each hook, and what was put there."""
        self.hooks_beforehand = tuple(dict.fromkeys(hook for place in self.places if place.crosscoder for hook in place.reads))
        """What crosscoders read, in a pass before the one in which they write; empty where there are none."""
        self._window: Window | None = None
        self._beforehand: dict[str, Tensor] | None = None

    def begin(self, window: Window | None) -> None:
        """Forget the pass before; the next one reads `window` (None: a model without tokens)."""
        self._window = window
        self.readings.clear()
        self.written.clear()
        temporal = any(place.sae.cfg.temporal is not None for place in self.places)
        if temporal and window is not None and (window.start or bool((window.positions[:, 0] < 0).any())):
            advice = "Pass whole texts without padding on the left"
            raise ArgumentError("a temporal SAE reads all earlier tokens of a text", got="a pass without them", advice=advice)

    @contextmanager
    def reading_beforehand(self) -> Iterator[None]:
        """Crosscoders read the pass within, with `functions()` in force: functions of edits are applied, no SAE is."""
        there: dict[str, Tensor] = {}
        self._beforehand = there
        try:
            yield
        finally:
            self._beforehand = None
        for place in self.places:
            if place.crosscoder:
                self.readings[place] = self._read(place, {hook: there[hook] for hook in place.reads})

    def functions(self) -> dict[str, Function]:
        """What to do at each hook, by its name."""
        reads = {hook: None for place in self.places for hook in place.reads}
        writes = {hook: None for place in self.places for hook in place.writes}
        names = dict.fromkeys([*self._plain, *reads, *writes])
        return {name: self._function(name, name in reads, name in writes) for name in names}

    def place_at(self, hook_name: str | None) -> Place:
        """The SAE that a hook name means; the only one for None."""
        found = [place for place in self.places if hook_name is None or place.is_at(hook_name)]
        if len(found) != 1:
            names = ", ".join(sorted({place.name for place in self.places})) or "no SAE"
            problem = f"hook_name of an edit: {'no' if not found else 'more than one'} SAE at {hook_name!r}"
            raise ArgumentError(problem, expected=f"the hook of one of the SAEs ({names})", got=repr(hook_name))
        return found[0]

    def _function(self, name: str, reads: bool, writes: bool) -> Function:
        plain = self._plain.get(name)

        def at_hook(activation: Tensor) -> Tensor:
            if plain is not None:
                activation = plain(activation)
            if self._beforehand is not None:
                self._beforehand[name] = activation
                return activation
            if reads:
                for place in self.places:
                    if place.reads == (name,):
                        self.readings[place] = self._read(place, {name: activation})
            if not writes:
                return activation
            new = self._write(name, activation)
            self.written[name] = activation, new
            return new

        return at_hook

    def _read(self, place: Place, there: Mapping[str, Tensor]) -> Reading:
        x = place.input(there)
        acts = place.sae.encode(x)
        reading = Reading(x, acts, acts, None, there if place.crosscoder else {})
        if self._edits[place]:
            self.readings[place] = reading  # its own conditions look there
            window = self._window_of(acts)
            reading.edited, reading.touched = edited(acts, self._edits[place], window, lambda hook: self._acts_at(hook, place))
        return reading

    def _write(self, name: str, y: Tensor) -> Tensor:
        writers = [(place, place.writes.index(name)) for place in self.places if name in place.writes]
        for place, _ in writers:
            if place not in self.readings:
                raise ArgumentError(f"the SAE that writes at {name}", expected="to read before that", got=f"{place.read}")
            for field_name, hook, width in place.widths:
                if hook == name and field_name != "d_in" and y.shape[-1] != width:
                    raise ShapeError(f"{field_name} of the SAE at {name}", expected=y.shape[-1], got=width)
        wide = y.to(torch.promote_types(y.dtype, torch.float32))
        if not self._error_term:
            return self._replaced(name, wide, writers).to(y.dtype)
        if self._grad:
            return self._with_gradient(name, wide, writers).to(y.dtype)
        out = wide
        for place, index in writers:
            if self.readings[place].touched is not None:
                out = self._changed(name, out, place, index)
        return y if out is wide else out.to(y.dtype)

    def _with_gradient(self, name: str, y: Tensor, writers: Sequence[tuple[Place, int]]) -> Tensor:
        out = y.detach()
        for place, index in writers:
            reading = self.readings[place]
            if name in reading.there and reading.touched is not None:
                touched = reading.touched.to(out.device).reshape(*out.shape[:-1], 1)
                out = torch.where(touched, reading.there[name].detach().to(out), out)
            after, before = (_part(reading.reconstruction(place.sae, edits), place, index) for edits in (True, False))
            out = out + (after - before.detach()).to(out.device).reshape(out.shape)
        return out

    def _changed(self, name: str, y: Tensor, place: Place, index: int) -> Tensor:
        reading = self.readings[place]
        rows, change = reading.change(place.sae)
        rows = rows.to(y.device)
        flat = y.reshape(rows.numel(), -1).clone()
        if name in reading.there:
            flat[rows] = reading.there[name].reshape(flat.shape)[rows.to(reading.there[name].device)].to(flat)
        flat[rows] += _part(change, place, index).to(flat)
        return flat.reshape(y.shape)

    def _replaced(self, name: str, y: Tensor, writers: Sequence[tuple[Place, int]]) -> Tensor:
        new = torch.zeros_like(y)
        for place, index in writers:
            new = new + _part(self.readings[place].reconstruction(place.sae, True), place, index).to(new).reshape(y.shape)
        first = writers[0][0]
        if first.sae.cfg.centred and in_stream(name):
            new = new + self.readings[first].there.get(name, y).to(y).mean(-1, keepdim=True)
        if self._window is None and self._where is None:
            return new
        chosen = self._window_of(self.readings[first].acts).mask(self._where).to(y.device)
        return torch.where(chosen.reshape(*y.shape[:-1], 1), new, y)

    def _acts_at(self, hook_name: str | None, place: Place) -> SparseActs:
        looked_at = place if hook_name is None else self.place_at(hook_name)
        if looked_at not in self.readings:
            raise ArgumentError(
                f"a condition of an edit at {place.name} looks at {hook_name}",
                expected="an SAE that reads earlier in the model",
                got="one that reads later",
            )
        return self.readings[looked_at].acts

    def _window_of(self, acts: SparseActs) -> Window:
        if self._window is not None:
            return self._window
        # A model without tokens: the last of the leading dimensions is the one that positions count.
        n = acts.leading[-1] if acts.leading else 1
        shape = (acts.shape[0] // max(n, 1), n) if len(acts.leading) != 2 else acts.leading
        return Window.of(torch.zeros(shape, dtype=torch.int64, device=acts.values.device))


def keeping(name: str, function: Function | None, kept: dict[str, Tensor]) -> Function:
    """An edit that does what `function` does and keeps the result."""

    def keep(activation: Tensor) -> Tensor:
        kept[name] = activation if function is None else function(activation)
        return kept[name]

    return keep


def _part(output: Tensor, place: Place, index: int) -> Tensor:
    """Of what an SAE gives for all its hooks, that for one."""
    return place.sae.parts(output)[index]
