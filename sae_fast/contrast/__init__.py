"""Which features differ between two sets of texts: `docs/contrast.md`.

    result = contrast("deceptive.jsonl", "honest.jsonl", lm=lm, saes={"layer-8": sae}, tokens="role:assistant")
    result["layer-8"].top(10)
    result.write("folder")              # contrast.json, contrast.csv, contrast.html

Names are imported when first used, so that what reads a result needs no torch.
"""

from typing import TYPE_CHECKING

from sae_fast.lazy import lazily

if TYPE_CHECKING:
    from sae_fast.contrast.comparison import Comparison, compare
    from sae_fast.contrast.pooling import Pooling, pool
    from sae_fast.contrast.report import Contrast, SaeContrast
    from sae_fast.contrast.run import contrast
    from sae_fast.contrast.texts import Text, read_texts

__all__ = ["Comparison", "Contrast", "Pooling", "SaeContrast", "Text", "compare", "contrast", "pool", "read_texts"]

_HOME = {
    "Comparison": "comparison",
    "Contrast": "report",
    "Pooling": "pooling",
    "SaeContrast": "report",
    "Text": "texts",
    "compare": "comparison",
    "contrast": "run",
    "pool": "pooling",
    "read_texts": "texts",
}

__getattr__, __dir__ = lazily(__name__, _HOME)
