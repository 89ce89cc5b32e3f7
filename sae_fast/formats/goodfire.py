"""Goodfire's SAEs of Llama: one file, as in `Llama-3.3-70B-Instruct-SAE-l50.pt`.

Linear layers `encoder_linear` and `decoder_linear` with weights [out, in] and biases; relu, nothing is subtracted from the
input. The file's name says model and layer.
"""

import re

from sae_fast.errors import FormatError
from sae_fast.formats._description import Description, Given, Stored
from sae_fast.formats._places import layer_given, layer_of, one_file
from sae_fast.formats._settings import make_config
from sae_fast.sources import Source

KEYS = {
    "W_enc": "encoder_linear.weight",
    "b_enc": "encoder_linear.bias",
    "W_dec": "decoder_linear.weight",
    "b_dec": "decoder_linear.bias",
}

_FILE = re.compile(r".+-SAE-l\d+\.(?:pt|pth)")
_NAMED = re.compile(r"(Llama-[\w.\-]+?)-SAE-l\d+")


def describe(source: Source, given: Given) -> Description | None:
    """An SAE of Goodfire: its file, or a folder that holds one."""
    name = source.file if source.file is not None else one_file(source, _FILE, "SAEs")
    if name is None or not name.endswith((".pt", ".pth")):
        return None
    file = source.folder.tensors(name)
    shape = file.shapes.get(KEYS["W_enc"])
    if shape is None or KEYS["W_dec"] not in file.shapes:
        return None
    if len(shape) != 2:
        raise FormatError(f"{file.place}: {KEYS['W_enc']}", expected="a matrix [d_sae, d_in]", got=list(shape))
    layer = layer_of(file.place, r"-SAE-l(\d+)")
    layer = layer_given(given) if layer is None else layer
    named = _NAMED.search(file.place)
    cfg = make_config(
        file.place,
        given,
        architecture="standard",
        d_in=shape[1],
        d_sae=shape[0],
        hook_name=None if layer is None else f"blocks.{layer}.hook_resid_post",
        model_name=f"meta-llama/{named[1]}" if named else None,
        metadata={"source_format": "goodfire"},
    )
    return Description(cfg, {ours: Stored(name, key, transposed=key.endswith("weight")) for ours, key in KEYS.items()})
