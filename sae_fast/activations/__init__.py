"""Activations of a language model on disk: one pass, several hooks, read in any order as often as wanted.

    store = write_store(folder, lm, dataset, ["blocks.8.hook_resid_post"])
    for batch in store.batches(4096, seed=0):    # {hook: [4096, d]}, every counted token once, globally shuffled
        ...

One store serves the training of many SAEs, their evaluation, and a site.
"""

from sae_fast.activations.order import Permutation
from sae_fast.activations.store import ActivationStore, Split
from sae_fast.activations.writing import store_bytes, write_store

__all__ = ["ActivationStore", "Permutation", "Split", "store_bytes", "write_store"]
