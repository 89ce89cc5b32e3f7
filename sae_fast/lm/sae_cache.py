"""What a pass with SAEs leaves behind, under the names that SAELens users know."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, HookNotFoundError
from sae_fast.lm.places import Place, sae_input
from sae_fast.lm.splice import Splice
from sae_fast.normalisation import normalised
from sae_fast.sparse import SparseActs

_PARTS = ("hook_sae_input", "hook_sae_acts_pre", "hook_sae_acts_post", "hook_sae_recons", "hook_sae_error", "hook_sae_output")


class SaeCache(Mapping[str, SparseActs | Tensor]):
    """Values of one pass by name: `<hook>.hook_sae_acts_post` and its siblings, and activations by hook name.

    The hook is where an SAE writes; where it reads will do too if that means one SAE only. A layer of a cross-layer transcoder
    is named after where it reads, a crosscoder after its hooks joined by "+". All but the activations is computed when it is
    asked for. Values of a crosscoder are side by side; `SAE.parts` takes them apart.

    | name | value |
    |---|---|
    | `hook_sae_input` | `[batch, pos, d_in]`: what the SAE encoded, before its own normalisation |
    | `hook_sae_acts_pre` | `[batch, pos, d_sae]`, dense: before the threshold or selection; not of all architectures |
    | `hook_sae_acts_post` | `SparseActs`: feature activations, after edits |
    | `hook_sae_recons` | `[batch, pos, d_out]`: their reconstruction in the model's units, skip term included |
    | `hook_sae_error` | what was there minus the reconstruction without edits |
    | `hook_sae_output` | what was put there |
    """

    def __init__(self, splice: Splice, activations: Mapping[str, Tensor]) -> None:
        self._readings, self._written = dict(splice.readings), dict(splice.written)
        self._places = splice.places
        self._activations = dict(activations)

    def __getitem__(self, name: str) -> SparseActs | Tensor:
        """Raises `UnknownNameError` (a `KeyError`) for a name that is not there, `ArgumentError` for an undefined value."""
        if name in self._activations:
            return self._activations[name]
        hook_name, _, part = name.rpartition(".")
        found = [place for place in self._places if place.is_at(hook_name)] if part in _PARTS else []
        if len(found) != 1:
            raise UnknownNameError(f"no {name!r} in the cache of this pass", expected=f"one of {', '.join(self)}")
        return self._value(found[0], part)

    def __iter__(self) -> Iterator[str]:
        for place in self._places:
            for part in _PARTS:
                if part != "hook_sae_acts_pre" or _has_pre_activations(place):
                    yield f"{place.name}.{part}"
        yield from self._activations

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self[name] is not None
        except (KeyError, ArgumentError):
            return False

    def acts(self, hook_name: str | None = None) -> SparseActs:
        """Feature activations of the SAE at a hook, after edits; of the only SAE if no hook is named."""
        found = [place for place in self._places if hook_name is None or place.is_at(hook_name)]
        if len(found) != 1:
            raise UnknownNameError(
                f"acts({hook_name!r})", expected=f"the hook of one SAE ({', '.join(place.name for place in self._places)})"
            )
        return self._readings[found[0]].edited

    def _value(self, place: Place, part: str) -> SparseActs | Tensor:
        reading = self._readings[place]
        match part:
            case "hook_sae_input":
                return reading.x
            case "hook_sae_acts_pre":
                return _pre_activations(place, reading.x)
            case "hook_sae_acts_post":
                return reading.edited
            case "hook_sae_recons":
                return self._in_stream(place, reading.reconstruction(place.sae, after_edits=True))
            case "hook_sae_error":
                clean = reading.reconstruction(place.sae, after_edits=False)
                read = reading.there or {hook: self._written[hook][0] for hook in place.writes}
                before = _joined(place, [sae_input(place.sae, read[hook], hook) for hook in place.writes])
                return self._in_stream(place, before.to(clean).reshape(clean.shape) - clean)
        return _joined(place, [self._written[hook][1] for hook in place.writes])

    def _in_stream(self, place: Place, value: Tensor) -> Tensor:
        """With heads flattened, as the model's activation is."""
        at_several = place.cross_layer or place.crosscoder
        return value if at_several else value.reshape(self._written[place.writes[0]][0].shape)


class UnknownNameError(HookNotFoundError, KeyError):
    """The cache of a pass has no value of that name."""

    __str__ = Exception.__str__


def _joined(place: Place, parts: Sequence[Tensor]) -> Tensor:
    """What there is at each hook where an SAE writes, in the form of its output."""
    return torch.stack(list(parts), -2) if place.cross_layer else torch.cat(list(parts), -1)


def _has_pre_activations(place: Place) -> bool:
    return place.sae.cfg.architecture not in ("matching_pursuit", "temporal")


def _pre_activations(place: Place, x: Tensor) -> Tensor:
    """`[..., d_sae]`: `x @ W_enc + b_enc`; gated: magnitudes; before decoder norms, if the SAE multiplies by them."""
    sae, cfg = place.sae, place.sae.cfg
    if not _has_pre_activations(place):
        raise ArgumentError(f"hook_sae_acts_pre of a {cfg.architecture} SAE is not defined: it has no one pre-activation")
    x = normalised(cfg, x, sae.b_dec.dtype)[0].to(sae.dtype).to(sae.b_dec.dtype)
    hidden = (x - sae.b_dec if cfg.apply_b_dec_to_input else x) @ sae.W_enc.to(x.dtype)
    vectors = sae.tensors()
    if cfg.architecture == "gated":
        return hidden * vectors["r_mag"].exp() + vectors["b_mag"]
    return hidden + vectors["b_enc"]
