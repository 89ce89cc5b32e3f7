"""qresearch's SAEs of distilled models: one file, as in `DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt`.

Linear layers `encoder` and `decoder` with weights [out, in] and biases; relu, nothing is subtracted from the input. The file's
name says model and layer.
"""

import re

from sae_fast.errors import FormatError
from sae_fast.formats._description import Description, Given, Stored
from sae_fast.formats._places import one_file
from sae_fast.formats._settings import make_config
from sae_fast.sources import Source

KEYS = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "decoder.bias"}
ORGANISATIONS = {"DeepSeek-R1": "deepseek-ai", "Llama": "meta-llama"}
"""Publishers of the models, by the beginning of their names."""

_FILE = re.compile(r"(.+)-SAE-l(\d+)\.(?:pt|pth)")


def describe(source: Source, given: Given) -> Description | None:
    """An SAE of qresearch: its file, or a folder that holds one."""
    name = one_file(source, _FILE, "SAEs")
    if name is None:
        return None
    file = source.folder.tensors(name)
    if KEYS["W_enc"] not in file.shapes:
        return None
    found, shape = _FILE.fullmatch(name), file.shapes[KEYS["W_enc"]]
    assert found is not None
    if len(shape) != 2:
        raise FormatError(f"{file.place}: {KEYS['W_enc']}", expected="a matrix [d_sae, d_in]", got=list(shape))
    cfg = make_config(
        file.place,
        given,
        architecture="standard",
        d_in=shape[1],
        d_sae=shape[0],
        hook_name=f"blocks.{found[2]}.hook_resid_post",
        model_name=full_name(found[1]),
        metadata={"source_format": "deepseek"},
    )
    return Description(cfg, {ours: Stored(name, key, transposed=key.endswith("weight")) for ours, key in KEYS.items()})


def full_name(model: str) -> str:
    """With the organisation in front, where it is known."""
    organisation = next((name for beginning, name in ORGANISATIONS.items() if model.startswith(beginning)), None)
    return model if organisation is None else f"{organisation}/{model}"
