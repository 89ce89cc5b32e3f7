"""How well SAEs reconstruct, and what splicing them into the language model costs it. Definitions: `docs/evaluation.md`.

metrics = evaluate(lm, {"resid": sae}, batches)["resid"]

Names are imported when first used, so that what reads a result needs no torch.
"""

from typing import TYPE_CHECKING

from sae_fast.lazy import lazily

if TYPE_CHECKING:
    from sae_fast.evaluation.batches import Batch, DatasetBatches
    from sae_fast.evaluation.groupings import TokenClasses
    from sae_fast.evaluation.metrics import CrossEntropyStats, FeatureCounts, Metrics, ReconstructionStats
    from sae_fast.evaluation.result import Evaluation
    from sae_fast.evaluation.run import evaluate, mean_activations, measure, n_passes
    from sae_fast.evaluation.subjects import Measured

_HOME = {
    "Batch": "batches",
    "CrossEntropyStats": "metrics",
    "DatasetBatches": "batches",
    "Evaluation": "result",
    "FeatureCounts": "metrics",
    "Measured": "subjects",
    "Metrics": "metrics",
    "ReconstructionStats": "metrics",
    "TokenClasses": "groupings",
    "evaluate": "run",
    "mean_activations": "run",
    "measure": "run",
    "n_passes": "run",
}

__all__ = [
    "Batch",
    "CrossEntropyStats",
    "DatasetBatches",
    "Evaluation",
    "FeatureCounts",
    "Measured",
    "Metrics",
    "ReconstructionStats",
    "TokenClasses",
    "evaluate",
    "mean_activations",
    "measure",
    "n_passes",
]

__getattr__, __dir__ = lazily(__name__, _HOME)
