"""Direct logit attribution: what features write into the residual stream, read off as logits, all later layers left out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_fast.attribution.prompt import Active, read
from sae_fast.errors import ArgumentError
from sae_fast.lm.interface import LanguageModel, Unembed
from sae_fast.lm.places import SAEs

STREAM = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "hook_embed",
    "hook_pos_embed",
)
"""Hooks whose values are the residual stream or are added to it."""


@dataclass(frozen=True, eq=False)
class DirectEffects:
    """Direct effects of the features of one SAE that are active at the position, by feature."""

    hook_name: str
    feature: Tensor
    """int64 `[n]`."""
    activation: Tensor
    """`[n]`."""
    effect: Tensor
    """`[n, n_tokens]`: on the logit of each token, before soft-capping."""
    error: Tensor
    """`[n_tokens]`: of what the SAE does not explain there."""
    constant: Tensor
    """`[n_tokens]`: of its decoder bias and skip term."""


@torch.no_grad()
def direct_logit_attribution(
    lm: LanguageModel, saes: SAEs, token_ids: Tensor, tokens: Sequence[int], position: int = -1
) -> dict[str, DirectEffects]:
    """`activation · ((vector − mean) / σ · weight) @ W_U[:, tokens]` of each feature that is active at the position.

    σ is that of the final norm at the position (its mean is taken away only where the norm is a LayerNorm): the norm is held as
    it is. The logit's bias, and what later layers do with the direction, are not in it; soft-capping is left out.

    Args:
        lm: the language model.
        saes: as for `attribute`; they write to the residual stream.
        token_ids: int64 `[pos]` or `[1, pos]`, one prompt.
        tokens: ids of the tokens whose logits are meant.
        position: where they are predicted.

    Raises:
        ArgumentError: an SAE writes elsewhere, or the final norm of this model is not known.
        HookNotFoundError, ShapeError: as for `attribute`.
    """
    prompt = read(lm, saes, token_ids)
    unembed = lm.unembed()
    if unembed.norm_weight is None:
        raise ArgumentError("direct logit attribution", expected="a model whose final norm is known", got=type(lm).__name__)
    for site in prompt.sites:
        for hook in site.place.writes:
            if not hook.endswith(STREAM):
                raise ArgumentError(f"the SAE at {hook}", expected="one that writes to the residual stream", got=hook)
    place = position % prompt.n_pos
    readout = _readout(lm, prompt.token_ids, unembed, tokens, place)
    found = {}
    for site in prompt.sites:
        here = (site.position == place).nonzero()[:, 0]
        effect = (site.value[here, None, None] * site.vector[here]).sum(1).to(readout) @ readout
        error, constant = _others(prompt.output, prompt.error, site, here, place, readout)
        found[site.place.name] = DirectEffects(site.place.name, site.feature[here], site.value[here], effect, error, constant)
    return found


def _readout(lm: LanguageModel, token_ids: Tensor, unembed: Unembed, tokens: Sequence[int], place: int) -> Tensor:
    """`[d_model, n_tokens]`: from what is added to the residual stream to logits, the final norm held as it is."""
    last = [name for name in lm.hook_names() if name.endswith("hook_resid_post")][-1]
    found = lm.activations(token_ids, [last, "ln_final.hook_normalized"])
    stream, normed = (found[name][0, place].double() for name in (last, "ln_final.hook_normalized"))
    centred = stream - stream.mean() if unembed.centred else stream
    deviation = centred.norm() / normed.norm()
    assert unembed.norm_weight is not None
    weighted = unembed.norm_weight.double()[:, None] * unembed.W_U[:, list(tokens)].double() / deviation
    return (weighted - weighted.mean(0) if unembed.centred else weighted).float()


def _others(
    output: dict[str, Tensor], error: dict[str, Tensor], site: Active, here: Tensor, place: int, readout: Tensor
) -> tuple[Tensor, Tensor]:
    if site.place.cross_layer:
        nothing = readout.new_zeros(readout.shape[1])
        return nothing, nothing
    (hook,) = site.place.writes
    written = (site.value[here, None] * site.vector[here, 0]).sum(0)
    constant = output[hook][place] - error[hook][place] - written.to(output[hook])
    return error[hook][place].to(readout) @ readout, constant.to(readout) @ readout
