"""`python -m peer.recovery.starts [SEEDS]`: decoder rows that begin at random, or lean towards sampled activations.

For the default of `start_from_data`. Width 64, 512 true features and as many of the SAE; seeds other than the dictionary's.
To be called with `PYTHONPATH=.:tests` from the root; needs no peer.
"""

import sys
from statistics import mean, stdev
from typing import Any

import torch
from peer.recovery import ours
from peer.recovery.planted import SEEDS, Planted, autoencoder, score

OPTIONS = {"d": 64, "n_features": 512, "active": 8.0}
DATA = {
    "flat": autoencoder("flat", **OPTIONS),
    "hierarchical": autoencoder("hierarchical", **OPTIONS, children=3),
    "correlated": autoencoder("correlated", **OPTIONS, correlation=0.3),
}
VARIANTS: dict[str, dict[str, Any]] = {"topk": {"k": 8}, "batchtopk": {"k": 8.0}}
KEYS = {"mean_max_cosine": "mean max cosine", "explained_variance": "explained variance", "n_dead": "dead"}


def main(n_seeds: int) -> None:
    torch.set_num_threads(1)
    sys.stdout.write(f"| data | variant | start | {' | '.join(KEYS.values())} |\n|---|---|---|--:|--:|--:|\n")
    for name, data in DATA.items():
        found = _trained(data, n_seeds)
        for (variant, start), scores in found.items():
            numbers = " | ".join(_spread([one[key] for one in scores]) for key in KEYS)
            sys.stdout.write(f"| {name} | `{variant}` | {'data' if start else 'random'} | {numbers} |\n")
        sys.stdout.flush()


def _trained(data: Planted, n_seeds: int) -> dict[tuple[str, bool], list[dict[str, float]]]:
    """Scores of each seed, by (variant, `start_from_data`)."""
    found: dict[tuple[str, bool], list[dict[str, float]]] = {}
    for seed in SEEDS[:n_seeds]:
        for variant, options in VARIANTS.items():
            for start in (False, True):
                trained = ours.train(variant, options | {"start_from_data": start}, data, seed)
                found.setdefault((variant, start), []).append(score(trained, data))
    return found


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
