"""How well SAEs reconstruct, and what splicing them into the language model costs it. Definitions: `docs/evaluation.md`.

metrics = evaluate(lm, {"resid": sae}, batches)["resid"]
"""

from sae_fast.evaluation.evaluate import Batch, evaluate
from sae_fast.evaluation.metrics import CrossEntropyStats, FeatureCounts, Metrics, ReconstructionStats

__all__ = ["Batch", "CrossEntropyStats", "FeatureCounts", "Metrics", "ReconstructionStats", "evaluate"]
