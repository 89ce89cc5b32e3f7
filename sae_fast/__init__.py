"""Sparse autoencoders (SAEs): load any published one, encode and decode sparsely, train, evaluate, use inside a language model.

    sae = sae_fast.load("folder")
    acts = sae.encode(x)          # SparseActs, x [..., d_in]
    x_hat = sae.decode(acts)      # [..., d_in]

Names are imported when first used: `import sae_fast` alone loads neither torch nor any optional package.
"""

import importlib
from typing import TYPE_CHECKING, Any

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
    "load": "formats",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sae_fast' has no attribute {name!r}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"sae_fast.{_HOME[name]}"), name)
    else:
        value = importlib.import_module(f"sae_fast.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
