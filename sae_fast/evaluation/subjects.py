"""What is measured: an SAE or crosscoder, a matryoshka SAE with its prefixes, or the layers of a cross-layer transcoder."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, NonFiniteError, ShapeError
from sae_fast.evaluation.batches import Reading
from sae_fast.lm.interface import Edit, LanguageModel
from sae_fast.lm.places import Place, places, sae_input
from sae_fast.sae import SAE
from sae_fast.sparse import SparseActs

Measured = SAE | Mapping[str, SAE]
"""One SAE; or several by name, such as the layers of a cross-layer transcoder, measured as one."""
ByHook = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What a subject, or a prefix of it, makes of the counted tokens of a batch."""

    name: str
    acts: tuple[SparseActs, ...]
    """Of each SAE; of a prefix, its features alone."""
    y_hat: ByHook
    """`[n, d_out]` where it writes; of the centred stream for SAEs of one."""


@dataclass(frozen=True, eq=False)
class _Code:
    """One SAE's activations of the counted tokens, and what it adds beside decoding them."""

    place: Place
    acts: SparseActs
    skipped: Tensor | None

    def written(self, acts: SparseActs) -> ByHook:
        y_hat = self.place.sae.decode(acts)
        y_hat = y_hat if self.skipped is None else y_hat + self.skipped
        return dict(zip(self.place.writes, self.place.sae.parts(y_hat), strict=True))


class Subject:
    """SAEs that are spliced in together, where they read and write, and the prefixes that are measured too.

    Raises:
        ArgumentError: no SAE, an SAE without a hook name, SAEs that cannot be spliced in together.
    """

    def __init__(self, name: str, given: Measured, prefixes: bool) -> None:
        self.name, self.is_whole = name, not isinstance(given, SAE)
        self.layers = {"": given} if isinstance(given, SAE) else dict(given)
        for layer, sae in self.layers.items():
            if not sae.cfg.hooks_read and not sae.cfg.crosscoder:
                raise ArgumentError(f"SAE {self.name_of(layer)!r}: hook_name", expected="the hook that it reads", got=None)
        if not self.layers or len({sae.cfg.centred for sae in self.layers.values()}) > 1:
            got = "some of a centred stream and some not" if self.layers else "none"
            raise ArgumentError(f"SAE {name!r}: its layers", expected="SAEs of one kind", got=got)
        self.places = places(list(self.layers.values()))
        self.reads = tuple(dict.fromkeys(hook for place in self.places for hook in place.reads))
        self.writes = tuple(dict.fromkeys(hook for place in self.places for hook in place.writes))
        self.cuts = _cuts(self.first) if prefixes and not self.is_whole else ()
        self.names = (name, *(f"{name}[:{cut}]" for cut in self.cuts))

    def name_of(self, layer: str) -> str:
        """What to call one of its SAEs."""
        return f"{self.name}/{layer}" if layer else self.name

    @property
    def first(self) -> SAE:
        """The only SAE, or the first of its layers."""
        return self.places[0].sae

    @property
    def target(self) -> str:
        """A name for what it is compared with, the same for SAEs that are compared with the same."""
        return " ".join(self.writes) + " centred" * self.first.cfg.centred

    def target_at(self, hook: str) -> str:
        """The same of one hook."""
        return hook + " centred" * self.first.cfg.centred

    def targets(self) -> dict[str, tuple[str, ...]]:
        """The hooks of each target: all together, and each alone where there are several."""
        return {self.target_at(hook): (hook,) for hook in self.writes} | {self.target: self.writes}

    def wanted(self, there: Mapping[str, Tensor]) -> ByHook:
        """What it should give at each hook for the activations `[n, d_out]` there: these, or centred where it wants that."""
        return {hook: sae_input(self.first, there[hook], hook) for hook in self.writes}

    def reconstructions(self, found: Mapping[str, Tensor], counted: Tensor) -> Iterator[Reconstruction]:
        """Of the whole, then of each prefix: the features that were selected among all, those beyond the prefix left out."""
        codes = [self._code(place, found, counted) for place in self.places]
        yield Reconstruction(self.name, tuple(code.acts for code in codes), _added([code.written(code.acts) for code in codes]))
        for name, cut in zip(self.names[1:], self.cuts, strict=True):
            acts = codes[0].acts.in_features(0, cut)
            yield Reconstruction(name, (acts,), codes[0].written(acts))

    def spliced(self, lm: LanguageModel, now: Reading, found: Mapping[str, Tensor], made: Reconstruction) -> Tensor:
        """Logits with a reconstruction in the place of the activation at counted tokens.

        Layers that are measured together read what those before them have written.
        """
        if self.is_whole:
            saes = list(self.layers.values())
            return lm.run_with_saes(now.token_ids, saes, now.mask, error_term=False, where=now.counted).logits
        there = {hook: found[hook][now.counted.to(found[hook].device)] for hook in self.writes}
        wanted = self.wanted(there)
        edits = {
            # A centred stream has its mean put back.
            hook: put(y_hat + (there[hook].to(y_hat) - wanted[hook].to(y_hat)), now.counted)
            for hook, y_hat in made.y_hat.items()
        }
        return lm.logits(now.token_ids, now.mask, edits)

    def _code(self, place: Place, found: Mapping[str, Tensor], counted: Tensor) -> _Code:
        sae = place.sae
        x = place.input(found)
        where = counted.to(x.device)
        is_temporal = sae.cfg.temporal is not None
        x = x if is_temporal else x[where]
        if not bool(x.isfinite().all()):
            raise NonFiniteError(f"SAE {self.name!r}: what it reads at {place.read} has NaN or infinite values")
        acts, skipped = sae.encode(x), sae.skip(x)
        if is_temporal:
            acts, skipped = acts.rows(where), None if skipped is None else skipped[where]
        return _Code(place, acts, skipped)


def subjects(saes: Mapping[str, Measured], prefixes: bool = False) -> list[Subject]:
    """What there is to measure. Raises as `Subject`, and where there is nothing or a name occurs twice."""
    if not saes:
        raise ArgumentError("saes", expected="at least one SAE", got="none")
    found = [Subject(name, given, prefixes) for name, given in saes.items()]
    names = [name for subject in found for name in subject.names]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ArgumentError("saes", expected="names that differ from those of prefixes", got=min(twice))
    return found


def require_fit(lm: LanguageModel, found: list[Subject]) -> None:
    """Check what is to be measured against the LM.

    Raises:
        HookNotFoundError, ShapeError: the LM lacks a hook, or its width is another.
        NonFiniteError: a weight is NaN.
    """
    for subject in found:
        for layer, place in zip(subject.layers, subject.places, strict=True):
            _require_fit(lm, subject.name_of(layer), place)


def written_hooks(found: list[Subject]) -> list[str]:
    """Every hook that one of them writes at."""
    return list(dict.fromkeys(hook for subject in found for hook in subject.writes))


def put(value: Tensor, counted: Tensor) -> Edit:
    """An edit that puts `value` ([n, d], [d] or a scalar) at the counted tokens and leaves the others as they are."""

    def edit(activation: Tensor) -> Tensor:
        new = activation.clone()
        new[counted.to(new.device)] = value.to(new)
        return new

    return edit


def _added(parts: list[ByHook]) -> ByHook:
    """Sums of what several write at one hook."""
    total: ByHook = {}
    for part in parts:
        for hook, value in part.items():
            total[hook] = total[hook] + value.to(total[hook]) if hook in total else value
    return total


def _cuts(sae: SAE) -> tuple[int, ...]:
    """Numbers of features of the prefixes of a matryoshka SAE, the whole left out."""
    return tuple(torch.tensor(sae.cfg.group_sizes or ()).cumsum(0)[:-1].tolist())


def _require_fit(lm: LanguageModel, name: str, place: Place) -> None:
    for field, hook, width in place.widths:
        if width != lm.d_hook(hook):
            raise ShapeError(f"SAE {name!r}: {field}", expected=f"{lm.d_hook(hook)}, the width at {hook}", got=width)
    # A feature whose weights are NaN would never fire, and nothing else would tell.
    broken = [tensor for tensor, value in place.sae.tensors().items() if bool(value.isnan().any())]
    if broken:
        raise NonFiniteError(f"SAE {name!r}: {broken[0]} has NaN")
