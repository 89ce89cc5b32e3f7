"""Hooks in few words, for pages and addresses."""

import re
from collections.abc import Sequence

_IN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def compact(hook_names: Sequence[str]) -> str:
    """One text for several hooks: `blocks.0–3.hook_resid_post`, `blocks.0,2.hook_mlp_out`, or all with a plus between."""
    found = [_IN_BLOCK.fullmatch(name) for name in hook_names]
    sites = {match[2] for match in found if match}
    if len(hook_names) < 2 or not all(found) or len(sites) != 1:
        return " + ".join(hook_names)
    layers = [int(match[1]) for match in found if match]
    run = layers == list(range(layers[0], layers[0] + len(layers))) and len(layers) > 2
    return f"blocks.{f'{layers[0]}–{layers[-1]}' if run else ','.join(map(str, layers))}.{sites.pop()}"
