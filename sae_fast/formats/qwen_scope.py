"""Qwen Scope: `layer{n}.sae.pt` and, for all layers of a repository, `config.json`.

Tensors `W_enc [d_sae, d_in]`, `W_dec [d_in, d_sae]`, `b_enc`, `b_dec`: linear layers' weights under matrix names. TopK of the
residual stream after layer n; nothing is subtracted from the input. Without `config.json`, k and the model are those of the
repository's name, as in `SAE-Res-Qwen3-8B-Base-W64K-L0_50`.
"""

import re

from sae_fast.errors import FormatError
from sae_fast.formats._description import Description, Given, Stored
from sae_fast.formats._places import one_file
from sae_fast.formats._settings import Settings, make_config
from sae_fast.sources import Source

CONFIG = "config.json"

_FILE = re.compile(r"layer(\d+)\.sae\.pt")
_REPOSITORY = re.compile(r"SAE-Res-(Qwen[\w.\-]+?)-W\d+K-L0_(\d+)")


def describe(source: Source, given: Given) -> Description | None:
    """A layer of Qwen Scope: its file, or a folder that holds one layer."""
    name = one_file(source, _FILE, "layers of Qwen Scope")
    if name is None:
        return None
    found = _FILE.fullmatch(name)
    assert found is not None
    file = source.folder.tensors(name)
    config = Settings(source.folder.place(CONFIG), source.folder.read_json(CONFIG) if source.folder.has(CONFIG) else {})
    named = _REPOSITORY.search(file.place)
    shape = file.shapes.get("W_enc", ())
    if len(shape) != 2:
        raise FormatError(f"{file.place}: W_enc", expected="a matrix [d_sae, d_in]", got=list(shape) or "none")
    if config.text("hook_point") not in (None, "resid_post"):
        raise FormatError(f"{config.place}: hook_point", expected="resid_post", got=config.text("hook_point"))
    cfg = make_config(
        file.place,
        given,
        architecture="topk",
        d_in=shape[1],
        d_sae=shape[0],
        k=_k(file.place, config, named, given),
        hook_name=f"blocks.{found[1]}.hook_resid_post",
        model_name=config.text("base_model") or (f"Qwen/{named[1]}" if named else None),
        metadata={"source_format": "qwen_scope"},
    )
    tensors = {
        "W_enc": Stored(name, "W_enc", transposed=True),
        "W_dec": Stored(name, "W_dec", transposed=True),
        "b_enc": Stored(name, "b_enc"),
        "b_dec": Stored(name, "b_dec"),
    }
    return Description(cfg, tensors)


def _k(place: str, config: Settings, named: re.Match[str] | None, given: Given) -> int:
    k = config.integer("k")
    if k is None and named is not None:
        k = int(named[2])
    if k is None:
        k = Settings("the catalogue", given.metadata).integer("k")
    if k is None:
        raise FormatError(
            f"{place}: k, the number of active features, is not in the file",
            expected=f"k in {CONFIG}, or a folder named like SAE-Res-Qwen3-8B-Base-W64K-L0_50",
            got="neither",
        )
    return k
