"""The SAEs that can be trained, by the `architecture` of their `[[sae]]` table."""

from sae_fast.training.variants.base import HeldOut, Loss, Moment, Start, Variant, VariantOptions
from sae_fast.training.variants.batchtopk import BatchTopK, Matryoshka
from sae_fast.training.variants.gated import Gated
from sae_fast.training.variants.jumprelu import JumpReLU
from sae_fast.training.variants.matching_pursuit import Pursuit
from sae_fast.training.variants.standard import Standard
from sae_fast.training.variants.topk import AbsTopK, TopK

__all__ = ["VARIANTS", "HeldOut", "Loss", "Moment", "Start", "Variant", "VariantOptions"]

VARIANTS: dict[str, type[Variant]] = {
    "standard": Standard,
    "gated": Gated,
    "topk": TopK,
    "abstopk": AbsTopK,
    "batchtopk": BatchTopK,
    "matryoshka": Matryoshka,
    "jumprelu": JumpReLU,
    "matching_pursuit": Pursuit,
}
"""Each a transcoder too, where it is given a hook to write at (but matching pursuit)."""
