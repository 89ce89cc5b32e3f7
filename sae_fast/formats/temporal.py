"""Temporal SAEs (arXiv 2511.01836): `conf.yaml` and `latest_ckpt.safetensors`, or `latest_ckpt.pt`.

Tensors `D [d_sae, d_in]` (the decoder), `b` [d_in] or [1, d_in], `E [d_in, d_sae]` where encoder and decoder are not tied, and
the attention's `attn_layers.*`. Activations are multiplied by `sae.scaling_factor` first. The folder's name says the layer.
"""

from collections.abc import Mapping

from sae_fast.config import Temporal, tensor_shapes
from sae_fast.errors import FormatError
from sae_fast.formats._description import Description, Given, Stored
from sae_fast.formats._places import layer_given, layer_of
from sae_fast.formats._settings import Settings, make_config
from sae_fast.formats._yaml import read_yaml
from sae_fast.sources import Source

CONFIG = "conf.yaml"
FILES = ("latest_ckpt.safetensors", "latest_ckpt.pt")
MODELS: Mapping[str, str] = {"gemma-2-2b": "google/gemma-2-2b", "llama-3.1-8b": "meta-llama/Llama-3.1-8B"}
"""Models of the published ones, by the names of folders."""


def describe(source: Source, given: Given) -> Description | None:
    """A temporal SAE: its folder, or one of the two files in it."""
    name = next((name for name in FILES if source.holds(CONFIG, name)), None)
    if name is None:
        return None
    config = read_yaml(source.folder, CONFIG)
    sae, llm = config.section("sae"), config.section("llm")
    d_in = llm.needed("dimin", llm.integer("dimin"))
    scale = sae.number("scaling_factor")
    kind = sae.choice("sae_diff_type", "relu", "topk") or "relu"
    layer = layer_of(source.folder.path, r"layer_(\d+)")
    layer = layer_given(given) if layer is None else layer
    cfg = make_config(
        config.place,
        given,
        architecture="temporal",
        d_in=d_in,
        d_sae=sae.count("exp_factor", of=d_in),
        k=sae.integer("kval_topk") if kind == "topk" else None,
        hook_name=None if layer is None else f"blocks.{layer}.hook_resid_post",
        model_name=_model(source.folder.path),
        apply_b_dec_to_input=True,
        normalize_activations="none" if scale in (None, 1) else "constant_scalar_rescale",
        input_scale=1.0 if scale is None else float(scale),
        temporal=_attention(sae, kind),
        metadata={"source_format": "temporal"},
    )
    prefix = (
        "sae." if name.endswith(".pt") and any(key.startswith("sae.") for key in source.folder.tensors(name).shapes) else ""
    )
    keys = {"W_dec": "D", "W_enc": "E", "b_dec": "b"}
    tensors = {ours: Stored(name, prefix + keys.get(ours, ours), squeezed=ours == "b_dec") for ours in tensor_shapes(cfg)}
    return Description(cfg, tensors)


def _attention(sae: Settings, kind: str) -> Temporal:
    numbers = {name: sae.needed(name, sae.integer(name)) for name in ("n_heads", "n_attn_layers", "bottleneck_factor")}
    if numbers["n_attn_layers"] > 64:
        raise FormatError(f"{sae.place}: n_attn_layers", expected="at most 64", got=numbers["n_attn_layers"])
    tied = sae.values.get("tied_weights", True)
    if not isinstance(tied, bool):
        raise FormatError(f"{sae.place}: tied_weights", expected="true or false", got=repr(tied))
    return Temporal(**numbers, sae_diff_type="topk" if kind == "topk" else "relu", tied_weights=tied)


def _model(path: str) -> str | None:
    parts = [part.lower() for part in path.split("/")]
    return next((name for folder, name in MODELS.items() if folder in parts), None)
