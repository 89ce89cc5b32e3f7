"""circuit-tracer's cross-layer transcoders: `W_enc_{n}.safetensors` and `W_dec_{n}.safetensors` to a layer, and `config.yaml`.

`W_enc_{n} [d_sae, d_model]`, `b_enc_{n}`, `b_dec_{n} [d_model]` and, for jumprelu, `threshold_{n}` lie in one file,
`W_dec_{n} [d_sae, n_layers - n, d_model]` in the other: layer n writes at layers n, n + 1, …, the last. One layer is loaded
at a time. `b_dec_{n}` belongs to the output at layer n alone, so that the sum over all layers is what the whole reconstructs.
"""

import re

from torch import Tensor

from sae_fast.errors import FormatError
from sae_fast.formats._description import Description, Given, Stored
from sae_fast.formats._places import layer_given, layer_of, n_layers_of, one_file, written_hook
from sae_fast.formats._settings import Settings, make_config
from sae_fast.formats._yaml import read_yaml
from sae_fast.sources import Source, TensorFile

CONFIG = "config.yaml"
READ, WRITTEN = "hook_resid_mid", "hook_mlp_out"
"""Hooks inside a block, circuit-tracer's own where `config.yaml` names none."""

_FILE = re.compile(r"W_(?:enc|dec)_(\d+)\.safetensors")
_ENCODER = re.compile(r"W_enc_(\d+)\.safetensors")


def describe(source: Source, given: Given) -> Description | None:
    """A layer of a cross-layer transcoder: one of its two files, or a folder that holds one layer."""
    layer = _layer(source, given)
    if layer is None:
        return None
    encoder, decoder = f"W_enc_{layer}.safetensors", f"W_dec_{layer}.safetensors"
    for name in (encoder, decoder):
        if not source.folder.has(name):
            raise FormatError(f"{source.folder.place(name)}: no such file", expected=f"{encoder} and {decoder} side by side")
    enc_file, dec_file = source.folder.tensors(encoder), source.folder.tensors(decoder)
    d_sae, d_in = _shape(enc_file, f"W_enc_{layer}", 2)
    decoders = _shape(dec_file, f"W_dec_{layer}", 3)
    n_out, d_out = n_layers_of(dec_file.place, decoders), decoders[2]
    has_config = source.folder.has(CONFIG)
    config = read_yaml(source.folder, CONFIG) if has_config else Settings(source.folder.place(CONFIG), {})
    read, written = config.text("feature_input_hook") or READ, config.text("feature_output_hook") or WRITTEN
    written = written_hook(written, config.text("model_name"))
    jumps = f"threshold_{layer}" in enc_file.shapes
    cfg = make_config(
        enc_file.place,
        given,
        architecture="jumprelu" if jumps else "standard",
        d_in=d_in,
        d_sae=d_sae,
        d_out=d_out,
        hook_name=f"blocks.{layer}.{read}",
        hook_names_out=tuple(f"blocks.{later}.{written}" for later in range(layer, layer + n_out)),
        transcoder=True,
        model_name=config.text("model_name"),
        metadata={"source_format": "circuit_tracer_clt"},
    )
    tensors = {
        "W_enc": Stored(encoder, f"W_enc_{layer}", transposed=True),
        "b_enc": Stored(encoder, f"b_enc_{layer}"),
        "W_dec": Stored(decoder, f"W_dec_{layer}"),
        "b_dec": Stored(encoder, f"b_dec_{layer}", shape=(d_out,), then=_Padding(n_out)),
    }
    if jumps:
        tensors["threshold"] = Stored(encoder, f"threshold_{layer}")
    return Description(cfg, tensors)


class _Padding:
    """[d_out] → [n_out, d_out]: the bias of the layer's own output, zeros for those above."""

    def __init__(self, n_out: int) -> None:
        self.n_out = n_out

    def __call__(self, b_dec: Tensor) -> Tensor:
        padded = b_dec.new_zeros(self.n_out, *b_dec.shape)
        padded[0] = b_dec
        return padded


def _layer(source: Source, given: Given) -> int | None:
    if source.file is not None and source.file != CONFIG:
        return layer_of(source.file, r"(\d+)") if _FILE.fullmatch(source.file) else None
    layer = layer_given(given)
    if layer is not None and source.folder.has(f"W_enc_{layer}.safetensors"):
        return layer
    name = one_file(Source(source.folder), _ENCODER, "layers of a cross-layer transcoder")
    return None if name is None else layer_of(name, r"(\d+)")


def _shape(file: TensorFile, key: str, n_axes: int) -> tuple[int, ...]:
    shape = file.shapes.get(key, ())
    if len(shape) != n_axes or 0 in shape:
        got = list(shape) if key in file.shapes else f"none among {', '.join(sorted(file.shapes)[:8]) or 'no tensors'}"
        raise FormatError(f"{file.place}: {key}", expected=f"a tensor with {n_axes} axes", got=got)
    return shape
