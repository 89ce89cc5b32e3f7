"""TopK (Gao et al. 2024) and AbsTopK (arXiv 2510.00404): a fixed number of features to each token."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sae_fast import ops
from sae_fast.config import Architecture
from sae_fast.sparse import SparseActs
from sae_fast.tables import at_least
from sae_fast.training.selection import among_largest_of_row
from sae_fast.training.variants.base import HeldOut, Loss, Moment, SharedOptions, Variant, VariantOptions


@dataclass(frozen=True, kw_only=True)
class TopKOptions(VariantOptions):
    """`architecture = "topk"` or `"abstopk"`."""

    k: int
    """active features of each token"""
    unit_norm_decoder: bool | None = None
    """keep decoder rows at norm one; default: of SAEs, not of transcoders, whose decoder begins unrelated to the encoder and
    turns faster with free norms"""
    start_from_data: bool | None = None
    """begin with rows that lean towards sampled activations; default: of SAEs, not of transcoders"""
    aux_coefficient: float = 1 / 32
    """weight of the loss that revives dead features"""
    k_aux: int | None = None
    """dead features that reconstruct the error of a token; default: half the width"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("[[sae]]", "k", self.k, 1)
        at_least("[[sae]]", "aux_coefficient", self.aux_coefficient, 0)


class TopK(Variant):
    """The k largest positive pre-activations, and an auxiliary loss for dead features."""

    Options: ClassVar[type[SharedOptions]] = TopKOptions
    architecture: ClassVar[Architecture] = "topk"

    def select(self, x: Tensor) -> SparseActs:
        """Activations of centred inputs."""
        return self.among_all(ops.encode_topk(x, self.encoder, self.b_enc, min(self.options.k, self.n_own)))

    def among_all(self, proposed: SparseActs) -> SparseActs:
        """Of the k entries that this process proposes to each token, those among the k largest in all parts."""
        if self.layout.mesh is None:
            return proposed
        magnitudes = proposed.topk_view()[1].detach().abs()
        return proposed.kept(among_largest_of_row(magnitudes, self.options.k, self.layout.features).flatten())

    def objective(self, x: Tensor, y: Tensor, moment: Moment) -> Loss:
        """`mean ‖y - ŷ‖² + c · aux`."""
        inputs = self.inputs(x)
        acts = self.select(inputs)
        y_hat = self.decoded(acts, x)
        loss = self.reconstruction(y, y_hat, acts)
        return self.with_auxiliary(loss, inputs, y - y_hat)

    def with_auxiliary(self, loss: Loss, inputs: Tensor, residual: Tensor) -> Loss:
        """Add `c · ‖e - ê‖² / ‖e‖² · mean ‖e‖²`: ê is the error e rebuilt from the k_aux largest dead pre-activations.

        Gao et al. 2024, appendix A.2; the normalised form, in units of the error so that its weight does not depend on scale.
        """
        dead, coefficient = self.dead, self.options.aux_coefficient
        n_dead = int(self.layout.features.total(dead.sum()))
        if not n_dead or not coefficient:
            return loss
        target = residual.detach()
        pre_acts = self.pre_acts(inputs, dead)
        values, indices = self._strongest_of_all(pre_acts, min(n_dead, self.options.k_aux or max(1, self.d_in // 2)))
        acts = torch.zeros_like(pre_acts).scatter(1, indices, values)
        error = (self.layout.summed(acts @ self.W_dec[dead]) - target).square().sum() / len(target)
        loss.total = loss.total + coefficient * error
        loss.terms["aux"] = error.detach()
        return loss

    def _strongest_of_all(self, pre_acts: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(values, indices) of a token's k strongest in all parts of the dictionary, zeros for those of other parts."""
        values, indices = self.strongest(pre_acts, min(k, pre_acts.shape[1]))
        if self.layout.mesh is None:
            return values, indices
        # All parts propose as many; zeros stand in where a part has fewer.
        proposed = nn.functional.pad(values.detach().abs(), (0, k - values.shape[1]))
        chosen = among_largest_of_row(proposed, k, self.layout.features)
        return values * chosen[:, : values.shape[1]], indices

    def strongest(self, pre_acts: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(values, indices) [n, k]."""
        values, indices = pre_acts.topk(k, dim=1, sorted=False)
        return values.relu(), indices

    def threshold_of(self, held_out: HeldOut) -> Tensor | None:
        """None: the selection is the threshold."""
        return None

    def config_fields(self) -> dict[str, Any]:
        """The number of features of a token."""
        return {"k": min(self.options.k, self.d_sae)}


class AbsTopK(TopK):
    """The k largest pre-activations by magnitude, with their signs."""

    architecture: ClassVar[Architecture] = "abstopk"

    def select(self, x: Tensor) -> SparseActs:
        """Activations of centred inputs."""
        values, indices = self.strongest(self.pre_acts(x), min(self.options.k, self.n_own))
        return self.among_all(SparseActs.from_topk(indices, values, self.n_own))

    def strongest(self, pre_acts: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(signed values, indices) [n, k]."""
        indices = pre_acts.detach().abs().topk(k, dim=1, sorted=False).indices
        return pre_acts.gather(1, indices), indices
