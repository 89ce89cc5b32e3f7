"""Sparse autoencoders (SAEs): load any published one, encode and decode sparsely, train, evaluate, use inside a language model.

    sae = sae_fast.load("folder")
    acts = sae.encode(x)          # SparseActs, x [..., d_in]
    x_hat = sae.decode(acts)      # [..., d_in]

Names are imported when first used: `import sae_fast` alone loads neither torch nor any optional package.
"""

from typing import TYPE_CHECKING

from sae_fast.lazy import lazily

if TYPE_CHECKING:
    from sae_fast import attribution, catalogue, contrast, errors, evaluation, formats, lm, ops, training
    from sae_fast.config import SAEConfig
    from sae_fast.errors import SaeFastError
    from sae_fast.formats import load
    from sae_fast.sae import SAE
    from sae_fast.sparse import FeatureMajor, SparseActs

__version__ = "0.1.0"

__all__ = [
    "SAE",
    "FeatureMajor",
    "SAEConfig",
    "SaeFastError",
    "SparseActs",
    "attribution",
    "catalogue",
    "contrast",
    "errors",
    "evaluation",
    "formats",
    "lm",
    "load",
    "ops",
    "training",
]

_HOME = {
    "FeatureMajor": "sparse",
    "SAE": "sae",
    "SAEConfig": "config",
    "SaeFastError": "errors",
    "SparseActs": "sparse",
    "attribution": "attribution",
    "catalogue": "catalogue",
    "contrast": "contrast",
    "errors": "errors",
    "evaluation": "evaluation",
    "formats": "formats",
    "lm": "lm",
    "load": "formats",
    "ops": "ops",
    "training": "training",
}

__getattr__, __dir__ = lazily(__name__, _HOME)
