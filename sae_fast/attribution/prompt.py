"""One prompt seen through SAEs: what is active where, the vector that each activation writes, and what no feature explains.

At each hook where SAEs write, `y = Σ activation · vector + constant + error`: the constant is decoder biases and skip terms.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.lm.interface import LanguageModel
from sae_fast.lm.places import Place, SAEs, places, sae_input
from sae_fast.normalisation import rescaled
from sae_fast.sae import SAE


@dataclass(frozen=True, eq=False)
class Active:
    """The active features of one SAE on one prompt, by position, then feature."""

    place: Place
    position: Tensor
    """int64 `[n]`."""
    feature: Tensor
    """int64 `[n]`."""
    value: Tensor
    """`[n]`: activations, none of them 0."""
    vector: Tensor
    """`[n, n_out, d_out]`: what one unit of the activation adds at each hook that the SAE writes to."""
    scale: Tensor | None
    """`[n, 1]`: of the SAE's input normalisation at the position, or None."""

    @property
    def n(self) -> int:
        """Number of active features over all positions."""
        return self.value.numel()

    def only(self, keep: Tensor) -> "Active":
        """Some of them, by a boolean `[n]`."""
        scale = None if self.scale is None else self.scale[keep]
        return Active(self.place, self.position[keep], self.feature[keep], self.value[keep], self.vector[keep], scale)

    def written(self, weight: Tensor, n_pos: int) -> dict[str, Tensor]:
        """`[pos, d_out]` by hook: the sum of the vectors times `weight [n]`."""
        found = {}
        for index, hook in enumerate(self.place.writes):
            total = self.vector.new_zeros(n_pos, self.vector.shape[-1])
            found[hook] = total.index_add(0, self.position, weight[:, None] * self.vector[:, index])
        return found

    def project(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """`[..., n]`: vector · gradient, summed over the hooks, from gradients `[..., pos, d_out]` by hook."""
        total: Tensor | float = 0.0
        for index, hook in enumerate(self.place.writes):
            gradient = gradients[hook].to(self.vector)
            total = total + torch.cat(
                [gradient[..., p, :] @ self.vector[self.position == p, index].T for p in range(gradient.shape[-2])],
                dim=-1,
            )
        assert isinstance(total, Tensor)
        return total


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt and the SAEs' view of it."""

    token_ids: Tensor
    """int64 `[1, pos]`."""
    sites: tuple[Active, ...]
    output: dict[str, Tensor]
    """`[pos, d_out]` by hook: what is there."""
    error: dict[str, Tensor]
    """`[pos, d_out]` by hook: what is there minus what the SAEs that write there say."""

    @property
    def n_pos(self) -> int:
        """Tokens of the prompt."""
        return self.token_ids.shape[1]


@torch.no_grad()
def read(lm: LanguageModel, saes: SAEs, token_ids: Tensor) -> Prompt:
    """One pass of the LM over a prompt, `token_ids` int64 `[pos]` or `[1, pos]`, seen through the SAEs.

    Raises:
        ShapeError: `token_ids` is more than one prompt, or an SAE has not the width of its hook.
        ArgumentError: no SAE, or one without hook or decoder, or two that write at one hook.
        HookNotFoundError: the LM has no such hook.
    """
    if token_ids.ndim == 1:
        token_ids = token_ids[None]
    if token_ids.ndim != 2 or token_ids.shape[0] != 1 or token_ids.shape[1] == 0:
        raise ShapeError("token_ids", expected="one prompt, int64 [pos] or [1, pos]", got=list(token_ids.shape))
    found_places = places(saes)
    if not found_places:
        raise ArgumentError("saes", expected="at least one SAE", got="none")
    if crosscoders := [place.name for place in found_places if place.crosscoder]:
        advice = "Take SAEs, transcoders or a cross-layer transcoder; run_with_saes ablates features of crosscoders"
        expected = "SAEs whose features depend on earlier layers alone"
        raise ArgumentError("attribution", expected=expected, got=f"a crosscoder at {crosscoders[0]}", advice=advice)
    hooks = dict.fromkeys(hook for place in found_places for hook in (place.read, *place.writes))
    _check_widths(lm, found_places)
    found = lm.activations(token_ids, list(hooks))
    output = {hook: _wide(found[hook][0]) for place in found_places for hook in place.writes}
    error = dict(output)
    sites = []
    for place in found_places:
        x = sae_input(place.sae, found[place.read][0], place.read)
        active, said = _active(place, x, output[place.writes[0]].device)
        sites.append(active)
        for index, hook in enumerate(place.writes):
            part = said[:, index] if place.cross_layer else said
            error[hook] = error[hook] - part.reshape(output[hook].shape).to(output[hook])
    return Prompt(token_ids, tuple(sites), output, error)


def _active(place: Place, x: Tensor, device: torch.device) -> tuple[Active, Tensor]:
    """(active features, on a device; what the SAE says in all: decoding and skip term) of `x [pos, d_in]`."""
    sae = place.sae
    acts = sae.encode(x)
    said, skipped = sae.decode(acts), sae.skip(x)
    keep = acts.values != 0
    position, feature = acts.row_indices()[keep].to(device), acts.col_indices[keep].long().to(device)
    scale = None if acts.scale is None else acts.scale.to(device)[position]
    vector = write_vectors(sae, feature, scale)
    active = Active(place, position, feature, acts.values[keep].to(vector), vector, scale)
    return active, said if skipped is None else said + skipped


def write_vectors(sae: SAE, feature: Tensor, scale: Tensor | None) -> Tensor:
    """`[n, n_out, d_out]`: what one unit of each feature adds where the SAE writes, in the model's units.

    `scale [n, 1]` is that of the SAE's input normalisation at the token, or None.
    """
    rows = sae.W_dec[feature.to(sae.device)].flatten(1).to(device=feature.device, dtype=sae.b_dec.dtype)
    if sae.cfg.rescale_acts_by_decoder_norm:
        norms = rows.norm(dim=1, keepdim=True)
        rows = rows / torch.where(norms > 0, norms, 1)
    rows = rescaled(sae.cfg, rows, scale)
    return rows.reshape(len(feature), -1, sae.cfg.d_out)


def _check_widths(lm: LanguageModel, found: tuple[Place, ...]) -> None:
    for place in found:
        for field, hook, width in place.widths:
            if width != lm.d_hook(hook):
                expected = f"{lm.d_hook(hook)}, the width at {hook}"
                raise ShapeError(f"{field} of the SAE at {place.name}", expected=expected, got=width)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
