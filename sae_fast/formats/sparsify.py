"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors` in a folder named after the module.

Tensors `encoder.weight [d_sae, d_in]`, `encoder.bias [d_sae]`, `W_dec [d_sae, d_in]`, `b_dec [d_in]`, for some transcoders
`W_skip [d_in, d_in]`. `num_latents` may be 0, which means d_in * expansion_factor. Pre-activations go through relu, then the k
largest are kept, or with groupmax the largest of each of k groups. `b_dec` is subtracted from the input unless `transcode` is
set; the skip reads the input as it is. Files from before version 1 may be `signed`: the k largest in magnitude, without relu.
"""

import re
from collections.abc import Mapping
from contextlib import suppress

from sae_fast.errors import FormatError
from sae_fast.formats._description import Description, Given, Stored, Tensors
from sae_fast.formats._settings import Settings, make_config
from sae_fast.formats._sparsify_writing import save
from sae_fast.sources import Source, TensorFile

__all__ = ["describe", "save"]

CONFIG = "cfg.json"
WEIGHTS = "sae.safetensors"

_KEYS: Mapping[str, tuple[str, ...]] = {
    "W_enc": ("encoder.weight", "W_enc"),
    "b_enc": ("encoder.bias", "b_enc"),
    "W_dec": ("W_dec", "decoder.weight"),
    "b_dec": ("b_dec", "decoder.bias"),
    "W_skip": ("W_skip",),
}
"""Keys by our names, the usual one first. Linear layers hold [out, in]."""
_MODULE = re.compile(r"(?:[\w.]*\.)?(?:layers|h)[._](\d+)(?:[._](\w+))?")
_ATTENTION = ("attn", "attention", "self_attn")


def describe(source: Source, given: Given) -> Description | None:
    """An SAE or transcoder of sparsify: its folder, or one of the two files in it."""
    if not source.holds(CONFIG, WEIGHTS):
        return None
    file = source.folder.tensors(WEIGHTS)
    config = Settings(source.folder.place(CONFIG), source.folder.read_json(CONFIG))
    run = _run(source)
    d_in = config.needed("d_in", config.integer("d_in"))
    d_sae = config.integer("num_latents") or config.count("expansion_factor", of=d_in)
    skip = config.flag("skip_connection")
    transcoder = config.flag("transcode") or skip
    # Transcoders from before the flag existed subtract their output's bias from the input, as sparsify does to this day.
    centred = not config.flag("transcode")
    hook_name, hook_name_out, hookpoint = _hooks(source, transcoder, run.text("model"))
    cfg = make_config(
        config.place,
        given,
        architecture=_architecture(config),
        d_in=d_in,
        d_sae=d_sae,
        k=config.needed("k", config.integer("k")),
        hook_name=hook_name,
        hook_name_out=hook_name_out,
        transcoder=transcoder,
        skip=skip,
        model_name=run.text("model"),
        context_size=run.integer("ctx_len"),
        apply_b_dec_to_input=centred and not transcoder,
        metadata={"source_format": "sparsify", "hookpoint": hookpoint} | _training(config, run),
    )
    tensors = {name: _stored(name, file) for name in ("W_enc", "b_enc", "W_dec", "b_dec", *(["W_skip"] if skip else []))}
    return Description(cfg, tensors, finish=_fold_b_dec if centred and transcoder else None)


def _architecture(config: Settings) -> str:
    activation = config.choice("activation", "topk", "groupmax") or "topk"
    if config.flag("signed"):
        if activation != "topk":
            raise FormatError(f"{config.place}: signed", expected="false with groupmax", got="true")
        return "abstopk"
    return activation


def _stored(name: str, file: TensorFile) -> Stored:
    key = next((key for key in _KEYS[name] if key in file.shapes), _KEYS[name][0])
    return Stored(WEIGHTS, key, transposed=key.endswith(".weight"))


def _fold_b_dec(tensors: Tensors) -> Tensors:
    """Subtract b_dec from the input by way of the encoder's bias."""
    shift = tensors["b_dec"].double() @ tensors["W_enc"].double()
    return tensors | {"b_enc": tensors["b_enc"].double() - shift}


def _run(source: Source) -> Settings:
    """`config.json` of the training run: in the folder above, or above that for one of several seeds."""
    above = source.folder.parent()
    if above is not None and re.search(r"/seed\d+/?$", source.folder.path):
        above = above.parent()
    content: dict[str, object] = {}
    if above is not None and above.has("config.json"):
        # What lies above may have nothing to do with this SAE.
        with suppress(FormatError):
            content = above.read_json("config.json")
    is_run = isinstance(content.get("model"), str) and not content.keys().isdisjoint(("hookpoints", "layers", "sae"))
    return Settings(source.folder.place("../config.json"), content if is_run else {})


def _training(config: Settings, run: Settings) -> dict[str, object]:
    known = {"normalize_decoder": config.values.get("normalize_decoder"), "dataset_path": run.values.get("dataset")}
    return {key: value for key, value in known.items() if value is not None}


def _hooks(source: Source, transcoder: bool, model: str | None) -> tuple[str | None, str | None, str]:
    """(where it reads, where it writes, the module as sparsify names it), by the folder's name."""
    parts = source.folder.path.rstrip("/").split("/")
    hookpoint = parts[-2] if re.fullmatch(r"seed\d+", parts[-1]) and len(parts) > 1 else parts[-1]
    if hookpoint == "embed_tokens":
        return "hook_embed", None, hookpoint
    found = _MODULE.fullmatch(hookpoint)
    if found is None:
        return None, None, hookpoint
    block, module = f"blocks.{found[1]}", found[2]
    # Gemma 2 and 3 have norms after these modules, and TransformerLens's hooks are beyond them.
    norms_follow = re.search(r"gemma-?[23]", model or "") is not None
    written: dict[str | None, str] = {None: "hook_resid_post"}
    if not norms_follow:
        written |= {"mlp": "hook_mlp_out", **dict.fromkeys(_ATTENTION, "hook_attn_out")}
    read: dict[str | None, str] = {None: "hook_resid_pre", "mlp": "mlp.hook_in"}
    path = f"model.{hookpoint}" if hookpoint.startswith("layers") else hookpoint
    out = f"{block}.{written[module]}" if module in written else f"{path}.output"
    if not transcoder:
        return out, None, hookpoint
    return (f"{block}.{read[module]}" if module in read else f"{path}.input"), out, hookpoint
