"""SAEs inside a pass: what each reads, what it puts back, and what edits of its features change on the way.

The change of an edit is `decode(a') - decode(a)`, added to what is there at the tokens that the edit applies to. All else stays
bitwise as it is: the error `y - sae(x)` is kept by never taking it away.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.lm.feature_edits import FeatureEdit, FeatureEdits, by_hook, edited
from sae_fast.lm.positions import Positions, Window
from sae_fast.sae import SAE
from sae_fast.sparse import SparseActs

SAEs = SAE | Sequence[SAE] | Mapping[str, SAE]
"""One SAE, several, or several by the hook where each reads (instead of the one that its configuration names)."""

Function = Callable[[Tensor], Tensor]
"""What is done at a hook: takes the activation, returns its replacement."""

_NOT_IN_THE_STREAM = ("hook_z", "hook_pre", "hook_post", "hook_normalized")
"""Hooks in spaces of their own, which centring the weights that write to the residual stream leaves as they are."""


@dataclass(frozen=True, eq=False)
class Place:
    """An SAE and where it reads and writes."""

    sae: SAE
    read: str
    writes: tuple[str, ...]
    """One hook, or those of a cross-layer transcoder in the order of its decoders."""

    @property
    def name(self) -> str:
        """The hook that its entries of a cache are named after: where it writes, or reads if it writes at several."""
        return self.writes[0] if len(self.writes) == 1 else self.read

    @property
    def cross_layer(self) -> bool:
        """It writes through a decoder a hook, and others may write there too."""
        return bool(self.sae.cfg.hook_names_out)

    def is_at(self, hook_name: str) -> bool:
        """Whether a hook name means this SAE."""
        return hook_name in (self.read, self.name)


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


def places(saes: SAEs) -> tuple[Place, ...]:
    """Each SAE with its hooks.

    Raises:
        ArgumentError: an SAE without a hook name, or two that would write at one hook (of a cross-layer transcoder several
            may, for what they write is summed).
    """
    if isinstance(saes, SAE):
        saes = [saes]
    given: Iterable[tuple[str | None, SAE]] = saes.items() if isinstance(saes, Mapping) else ((None, sae) for sae in saes)
    found = tuple(_place(hook_name, sae) for hook_name, sae in given)
    for index, place in enumerate(found):
        for other in found[:index]:
            shared = set(place.writes) & set(other.writes)
            if shared and not (place.cross_layer and other.cross_layer and place.read != other.read):
                advice = "Run them one after the other, or give the second another hook"
                raise ArgumentError("saes", expected="one SAE a hook", got=f"two that write at {min(shared)}", advice=advice)
    return found


def sae_input(sae: SAE, activation: Tensor, hook_name: str | None = None) -> Tensor:
    """What an SAE reads, given the model's activation `[..., d_in]` at its hook: on its device, and centred if `cfg.centred`.

    An SAE that was trained on TransformerLens's processed weights has seen the residual stream, and whatever is added to it,
    without its mean over `d_model`. Activations inside attention, MLP and norms are the same with and without that processing.
    """
    x = activation.to(sae.device)
    if not sae.cfg.centred or (hook_name or sae.cfg.hook_name or "").endswith(_NOT_IN_THE_STREAM):
        return x
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide - wide.mean(-1, keepdim=True)


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
        self._window: Window | None = None

    def begin(self, window: Window | None) -> None:
        """Forget the pass before; the next one reads `window` (None: a model without tokens)."""
        self._window = window
        self.readings.clear()
        self.written.clear()
        temporal = any(place.sae.cfg.temporal is not None for place in self.places)
        if temporal and window is not None and (window.start or bool((window.positions[:, 0] < 0).any())):
            advice = "Pass whole texts without padding on the left"
            raise ArgumentError("a temporal SAE reads all earlier tokens of a text", got="a pass without them", advice=advice)

    def functions(self) -> dict[str, Function]:
        """What to do at each hook, by its name."""
        reads = {place.read: None for place in self.places}
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
            if reads:
                for place in self.places:
                    if place.read == name:
                        self.readings[place] = self._read(place, activation)
            if not writes:
                return activation
            new = self._write(name, activation)
            self.written[name] = activation, new
            return new

        return at_hook

    def _read(self, place: Place, activation: Tensor) -> Reading:
        x = sae_input(place.sae, activation, place.read)
        acts = place.sae.encode(x)
        reading = Reading(x, acts, acts, None)
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
            if y.shape[-1] != place.sae.cfg.d_out:
                raise ShapeError(f"d_out of the SAE at {name}", expected=y.shape[-1], got=place.sae.cfg.d_out)
        wide = y.to(torch.promote_types(y.dtype, torch.float32))
        if not self._error_term:
            return self._replaced(name, wide, writers).to(y.dtype)
        if self._grad:
            out = wide.detach()
            for place, index in writers:
                reading = self.readings[place]
                after, before = (_part(reading.reconstruction(place.sae, edits), place, index) for edits in (True, False))
                out = out + (after - before.detach()).to(out.device).reshape(out.shape)
            return out.to(y.dtype)
        out = wide
        for place, index in writers:
            if self.readings[place].touched is not None:
                out = self._changed(out, place, index)
        return y if out is wide else out.to(y.dtype)

    def _changed(self, y: Tensor, place: Place, index: int) -> Tensor:
        rows, change = self.readings[place].change(place.sae)
        flat = y.reshape(rows.numel(), -1).clone()
        flat[rows.to(y.device)] += _part(change, place, index).to(flat)
        return flat.reshape(y.shape)

    def _replaced(self, name: str, y: Tensor, writers: Sequence[tuple[Place, int]]) -> Tensor:
        new = torch.zeros_like(y)
        for place, index in writers:
            new = new + _part(self.readings[place].reconstruction(place.sae, True), place, index).to(new).reshape(y.shape)
        if writers[0][0].sae.cfg.centred and not name.endswith(_NOT_IN_THE_STREAM):
            new = new + y.mean(-1, keepdim=True)
        if self._window is None and self._where is None:
            return new
        chosen = self._window_of(self.readings[writers[0][0]].acts).mask(self._where).to(y.device)
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


def _place(hook_name: str | None, sae: SAE) -> Place:
    cfg = sae.cfg
    read = hook_name or cfg.hook_name
    if read is None:
        advice = "Give {hook name: SAE} instead"
        raise ArgumentError(f"{sae}", expected="the name of the hook that it reads", got="none", advice=advice)
    elsewhere = cfg.hook_name_out if cfg.hook_name_out != cfg.hook_name else None
    return Place(sae, read, cfg.hook_names_out or (elsewhere or read,))


def _part(output: Tensor, place: Place, index: int) -> Tensor:
    return output[..., index, :] if place.cross_layer else output
