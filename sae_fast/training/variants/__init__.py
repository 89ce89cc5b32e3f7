"""The SAEs that can be trained, by the `architecture` of their `[[sae]]` table."""

from sae_fast.training.variants.base import HeldOut, Loss, Moment, SharedOptions, Start, Variant, VariantOptions
from sae_fast.training.variants.batchtopk import BatchTopK, Matryoshka
from sae_fast.training.variants.clt import CLT
from sae_fast.training.variants.crosscoder import BatchTopKCrosscoder, Crosscoder
from sae_fast.training.variants.gated import Gated
from sae_fast.training.variants.jumprelu import JumpReLU
from sae_fast.training.variants.matching_pursuit import Pursuit
from sae_fast.training.variants.standard import Standard
from sae_fast.training.variants.topk import AbsTopK, TopK

__all__ = ["VARIANTS", "HeldOut", "Loss", "Moment", "SharedOptions", "Start", "Variant", "VariantOptions"]

VARIANTS: dict[str, type[Variant]] = {
    "standard": Standard,
    "gated": Gated,
    "topk": TopK,
    "abstopk": AbsTopK,
    "batchtopk": BatchTopK,
    "matryoshka": Matryoshka,
    "jumprelu": JumpReLU,
    "matching_pursuit": Pursuit,
    "clt": CLT,
    "crosscoder": Crosscoder,
    "batchtopk_crosscoder": BatchTopKCrosscoder,
}
"""Those of one hook are transcoders too, where they are given a hook to write at (but matching pursuit)."""
