"""circuit-tracer's transcoders, one to a layer: `layer_{n}.safetensors` beside `config.yaml`.

Tensors `W_enc` and `W_dec` [d_sae, d_model], `b_enc`, `b_dec`, for some `activation_function.threshold [d_sae]` (jumprelu) and
`W_skip [d_model, d_model]`, which adds `x @ W_skip.T`. `config.yaml` holds the model and the hooks inside a block.
"""

import re

from sae_fast.errors import FormatError
from sae_fast.formats._description import Description, Given, Stored
from sae_fast.formats._places import layer_of, one_file, written_hook
from sae_fast.formats._settings import Settings, make_config
from sae_fast.formats._yaml import read_yaml
from sae_fast.sources import Source

CONFIG = "config.yaml"
THRESHOLD = "activation_function.threshold"
ASSUMED = ("mlp.hook_in", "hook_mlp_out")
"""Hooks of the published sets that have no `config.yaml`."""

_FILE = re.compile(r"layer_(\d+)\.safetensors")


def describe(source: Source, given: Given) -> Description | None:
    """A transcoder of circuit-tracer: its file, or a folder that holds one layer."""
    name = one_file(source, _FILE, "layers of circuit-tracer transcoders")
    if name is None:
        return None
    file = source.folder.tensors(name)
    if "W_enc" not in file.shapes:
        raise FormatError(f"{file.place}: no tensor W_enc", got=", ".join(sorted(file.shapes)[:8]) or "none")
    shape = file.shapes["W_enc"]
    if len(shape) != 2:
        raise FormatError(f"{file.place}: W_enc", expected="a matrix [d_sae, d_model]", got=list(shape))
    known = source.folder.has(CONFIG)
    config = read_yaml(source.folder, CONFIG) if known else Settings(source.folder.place(CONFIG), {})
    jumps, skips = THRESHOLD in file.shapes, "W_skip" in file.shapes
    layer = layer_of(name, r"(\d+)")
    block = f"blocks.{layer}"
    read, written = config.text("feature_input_hook") or ASSUMED[0], config.text("feature_output_hook") or ASSUMED[1]
    written = written_hook(written, config.text("model_name"))
    metadata: dict[str, object] = {"source_format": "circuit_tracer_plt"}
    if not known:
        metadata["hook_name_assumed"] = f"no {CONFIG} beside the file; {ASSUMED[0]} and {ASSUMED[1]} are assumed"
    cfg = make_config(
        file.place,
        given,
        architecture="jumprelu" if jumps else "standard",
        d_in=shape[1],
        d_sae=shape[0],
        hook_name=f"{block}.{read}",
        hook_name_out=f"{block}.{written}",
        transcoder=True,
        skip=skips,
        model_name=config.text("model_name"),
        metadata=metadata,
    )
    tensors = {"W_enc": Stored(name, "W_enc", transposed=True)}
    tensors |= {key: Stored(name, key) for key in ("W_dec", "b_enc", "b_dec", *(["W_skip"] if skips else []))}
    if jumps:
        tensors["threshold"] = Stored(name, THRESHOLD)
    return Description(cfg, tensors)
