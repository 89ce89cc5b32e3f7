"""Files, layers and hooks that a format states only by its names."""

import re

from sae_fast.errors import FormatError
from sae_fast.formats._description import Given
from sae_fast.sources import Source

MOST_LAYERS = 1000
"""More than any language model has."""


def one_file(source: Source, pattern: re.Pattern[str], what: str) -> str | None:
    """The only file of the source whose name matches, or None. Raises `FormatError`, with the list, where there are several."""
    names = sorted((name for name in source.names() if pattern.fullmatch(name)), key=_natural)
    if len(names) > 1:
        listed = ", ".join(names[:6]) + (f", … ({len(names)} in all)" if len(names) > 6 else "")
        raise FormatError(
            f"{source.path}: several {what}", expected="one", got=listed, advice=f"Name one of them: {source.path}/{names[0]}"
        )
    return names[0] if names else None


def n_layers_of(place: str, shape: tuple[int, ...]) -> int:
    """Layers that a decoder [d_sae, n_layers, d_out] writes at. Raises `FormatError` for what no model has."""
    if not 1 <= shape[1] <= MOST_LAYERS:
        raise FormatError(f"{place}: layers of the decoder", expected=f"1 to {MOST_LAYERS}", got=shape[1])
    return shape[1]


def written_hook(hook: str, model: str | None) -> str:
    """circuit-tracer's `mlp.hook_out` is TransformerLens's `hook_mlp_out` but in Gemma 2 and 3, where a norm lies between."""
    return "hook_mlp_out" if hook == "mlp.hook_out" and re.search(r"gemma-?[23]", model or "") is None else hook


def layer_of(text: str, *patterns: str) -> int | None:
    """The number that the first pattern with a match captures, at its last match."""
    for pattern in patterns:
        if found := re.findall(pattern, text):
            return int(found[-1])
    return None


def layer_given(given: Given) -> int | None:
    """The layer that a catalogue names."""
    layer = given.metadata.get("layer")
    return layer if isinstance(layer, int) and not isinstance(layer, bool) else None


def _natural(name: str) -> list[object]:
    """Sorts layer_2 before layer_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
