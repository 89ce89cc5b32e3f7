"""The published SAEs: release, model, hook, width, L0 and source of each, as they were when the package was made.

    sae_fast.catalogue.find(model="gemma-2-2b", layer=20, width=65536)
    sae_fast.load("gpt2-small-res-jb/blocks.8.hook_resid_pre")

Reading it needs neither a network nor torch. `python -m sae_fast.catalogue.rebuild` makes it anew from an installed SAELens.
"""

from sae_fast.catalogue.entry import Entry
from sae_fast.catalogue.search import entries_of, find, get, named, near_names, releases

__all__ = ["Entry", "entries_of", "find", "get", "named", "near_names", "releases"]
