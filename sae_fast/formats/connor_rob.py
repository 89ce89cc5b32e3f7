"""Attention-output SAEs of Connor Kissane and Rob Krzyzanowski: `<name>.pt` beside `<name>_cfg.json`.

Tensors `W_enc [d_in, d_sae]`, `W_dec [d_sae, d_in]`, `b_enc`, `b_dec`; relu of the input minus `b_dec`. They read the heads'
outputs side by side: `act_size` of `hook_z` is n_heads * d_head.
"""

import re

from sae_fast.formats._description import Description, Given, Stored
from sae_fast.formats._places import one_file
from sae_fast.formats._settings import Settings, make_config
from sae_fast.sources import Source

CONTEXT_SIZE = 128

_CONFIG = re.compile(r"(.+)_cfg\.json")


def describe(source: Source, given: Given) -> Description | None:
    """One of these SAEs: either of its two files, or a folder that holds one."""
    stem = _stem(source)
    if stem is None:
        return None
    name, config_name = f"{stem}.pt", f"{stem}_cfg.json"
    if not (source.folder.has(name) and source.folder.has(config_name)):
        return None
    config = Settings(source.folder.place(config_name), source.folder.read_json(config_name))
    if not {"act_size", "dict_size", "act_name"} <= config.values.keys():
        return None
    hook_name = config.needed("act_name", config.text("act_name"))
    cfg = make_config(
        config.place,
        given,
        architecture="standard",
        d_in=config.needed("act_size", config.integer("act_size")),
        d_sae=config.needed("dict_size", config.integer("dict_size")),
        hook_name=hook_name,
        model_name=config.text("model_name") or "gpt2-small",
        prepend_bos=True,
        context_size=config.integer("seq_len") or CONTEXT_SIZE,
        apply_b_dec_to_input=True,
        reshape_activations="hook_z" if hook_name.endswith("hook_z") else "none",
        metadata={"source_format": "connor_rob"},
    )
    return Description(cfg, {key: Stored(name, key) for key in ("W_enc", "W_dec", "b_enc", "b_dec")})


def _stem(source: Source) -> str | None:
    if source.file is not None and source.file.endswith(".pt"):
        return source.file.removesuffix(".pt")
    name = one_file(source, _CONFIG, "SAEs with a configuration of their own")
    return None if name is None else name.removesuffix("_cfg.json")
