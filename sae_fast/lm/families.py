"""Where the TransformerLens-style hooks of each model family lie in its Hugging Face modules.

Values are those of TransformerLens without weight processing (`from_pretrained_no_processing`), with two notes:

* `ln1.hook_normalized`, `ln2.hook_normalized` and `ln_final.hook_normalized` are the normalised activation *before* the norm's
  weight and bias. That is what TransformerLens gives once it has folded them away, and what Gemma Scope's transcoders read.
* `attn.hook_z` has its heads flattened: `[batch, pos, n_heads * d_head]`.

`hook_mlp_in` is the residual stream that the MLP's norm reads, `mlp.hook_in` what the MLP itself reads: the norm's output.
Where a block has norms behind attention and MLP (Gemma 2 and 3, OLMo 2 and 3), `hook_attn_out` and `hook_mlp_out` are what is
added to the residual stream: the output of those. A layer with parallel residual (GPT-NeoX, Pythia, GPT-J, Phi) has no
`hook_resid_mid`; with one norm for both branches no `ln2` and no `hook_mlp_in` either. A mixture of experts has neither
`mlp.hook_pre` nor `mlp.hook_post`, and a linear attention layer no `attn` hooks.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from sae_fast.errors import HookNotFoundError

Kind = Literal["input", "output", "stream", "normalized"]


@dataclass(frozen=True)
class HookPoint:
    """One place in a module tree."""

    module: str
    """Path of the module, relative to the block or to the model's trunk in a `Family`, to the whole model once resolved."""
    kind: Kind
    """`input` and `output`: the first tensor that the module is given or gives. `stream`: the input of a module that the block
    adds back later on, so that a replacement must reach both. `normalized`: a norm's value before its weight."""


@dataclass(frozen=True)
class Family:
    """The hooks of models whose modules have the same names. Paths are relative to the trunk (the model without its head)."""

    layers: str
    """Path of the list of blocks."""
    final_norm: str
    embed: dict[str, HookPoint]
    """Hooks before the first block, in order."""
    block: dict[str, HookPoint]
    """Hooks of one block, in order, relative to it; those whose module a block lacks are not offered there."""
    norm_offset: float = 0.0
    """Norms multiply by `norm_offset + weight`."""


def _block(
    *,
    ln1: str | None,
    attention: str,
    attention_projection: str,
    ln2: str | None,
    mlp: str = "mlp",
    mlp_pre: str,
    mlp_projection: str,
    attn_out: str | None = None,
    mlp_out: str | None = None,
    parallel: bool = False,
) -> dict[str, HookPoint]:
    """The hooks of a block. Without `ln2` the MLP reads the stream itself, or, if `parallel`, what `ln1` gives."""
    points = {"hook_resid_pre": HookPoint("", "input")}
    if ln1 is not None:
        points["ln1.hook_normalized"] = HookPoint(ln1, "normalized")
    points["attn.hook_z"] = HookPoint(attention_projection, "input")
    points["hook_attn_out"] = HookPoint(attn_out or attention, "output")
    if not parallel:
        points["hook_resid_mid"] = HookPoint(ln2 or mlp, "stream")
    if ln2 is not None or not parallel:
        points["hook_mlp_in"] = HookPoint(ln2 or mlp, "input")
    if ln2 is not None:
        points["ln2.hook_normalized"] = HookPoint(ln2, "normalized")
    return points | {
        "mlp.hook_in": HookPoint(mlp, "input"),
        "mlp.hook_pre": HookPoint(mlp_pre, "output"),
        "mlp.hook_post": HookPoint(mlp_projection, "input"),
        "hook_mlp_out": HookPoint(mlp_out or mlp, "output"),
        "hook_resid_post": HookPoint("", "output"),
    }


_LEARNED_EMBED = {"hook_embed": HookPoint("wte", "output"), "hook_pos_embed": HookPoint("wpe", "output")}
_GPT2_BLOCK: dict[str, Any] = dict(ln1="ln_1", attention="attn", ln2="ln_2", mlp_pre="mlp.c_fc", mlp_projection="mlp.c_proj")
_GPT2 = Family("h", "ln_f", _LEARNED_EMBED, _block(attention_projection="attn.c_proj", **_GPT2_BLOCK))
_GPT_NEO = Family("h", "ln_f", _LEARNED_EMBED, _block(attention_projection="attn.attention.out_proj", **_GPT2_BLOCK))
# What the first block reads: the embedding, with what a model does to it before (Gemma's factor sqrt(d_model), Bloom's norm).
_GPTJ = Family(
    layers="h",
    final_norm="ln_f",
    embed={"hook_embed": HookPoint("h.0", "input")},
    block=_block(
        ln1="ln_1",
        attention="attn",
        attention_projection="attn.out_proj",
        ln2=None,
        mlp_pre="mlp.fc_in",
        mlp_projection="mlp.fc_out",
        parallel=True,
    ),
)
# Attention and MLP add the stream themselves: what they contribute is the output of their last layers.
_BLOOM = Family(
    layers="h",
    final_norm="ln_f",
    embed={"hook_embed": HookPoint("h.0", "input")},
    block=_block(
        ln1="input_layernorm",
        attention="self_attention.dense",
        attention_projection="self_attention.dense",
        ln2="post_attention_layernorm",
        mlp_pre="mlp.dense_h_to_4h",
        mlp_projection="mlp.dense_4h_to_h",
        mlp_out="mlp.dense_4h_to_h",
    ),
)
_ROTARY_EMBED = {"hook_embed": HookPoint("layers.0", "input")}
_NEOX_BLOCK: dict[str, Any] = dict(
    ln1="input_layernorm",
    attention="attention",
    attention_projection="attention.dense",
    ln2="post_attention_layernorm",
    mlp_pre="mlp.dense_h_to_4h",
    mlp_projection="mlp.dense_4h_to_h",
)
_NEOX = Family("layers", "final_layer_norm", _ROTARY_EMBED, _block(**_NEOX_BLOCK))
_NEOX_PARALLEL = replace(_NEOX, block=_block(**_NEOX_BLOCK, parallel=True))
_LLAMA_BLOCK: dict[str, Any] = dict(
    ln1="input_layernorm",
    attention="self_attn",
    attention_projection="self_attn.o_proj",
    ln2="post_attention_layernorm",
    mlp_pre="mlp.gate_proj",
    mlp_projection="mlp.down_proj",
)
_LLAMA = Family("layers", "norm", _ROTARY_EMBED, _block(**_LLAMA_BLOCK))
_LLAMA_PARALLEL = replace(_LLAMA, block=_block(**_LLAMA_BLOCK | {"ln2": None}, parallel=True))
_STARCODER2 = replace(_LLAMA, block=_block(**_LLAMA_BLOCK | {"mlp_pre": "mlp.c_fc", "mlp_projection": "mlp.c_proj"}))
_PHI_NAMES = {"attention_projection": "self_attn.dense", "ln2": None, "mlp_pre": "mlp.fc1", "mlp_projection": "mlp.fc2"}
_PHI = Family("layers", "final_layernorm", _ROTARY_EMBED, _block(**_LLAMA_BLOCK | _PHI_NAMES, parallel=True))
_OLMO2_NAMES = {"ln1": None, "ln2": None, "attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
_OLMO2 = replace(_LLAMA, block=_block(**_LLAMA_BLOCK | _OLMO2_NAMES))
_GEMMA = replace(_LLAMA, norm_offset=1.0)
_GEMMA2_NAMES = _OLMO2_NAMES | {"ln1": "input_layernorm", "ln2": "pre_feedforward_layernorm"}
_GEMMA2 = replace(_GEMMA, block=_block(**_LLAMA_BLOCK | _GEMMA2_NAMES))
_OPT = Family(
    layers="layers",
    final_norm="final_layer_norm",
    embed={"hook_embed": HookPoint("embed_tokens", "output"), "hook_pos_embed": HookPoint("embed_positions", "output")},
    block=_block(
        ln1="self_attn_layer_norm",
        attention="self_attn",
        attention_projection="self_attn.out_proj",
        ln2="final_layer_norm",
        mlp="fc1",
        mlp_pre="fc1",
        mlp_projection="fc2",
        mlp_out="fc2",
    ),
)

_BY_MODEL_TYPE = {
    "bloom": _BLOOM,
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gpt2": _GPT2,
    "gpt_neo": _GPT_NEO,
    "gpt_neox": _NEOX,
    "gpt_oss": _LLAMA,
    "gptj": _GPTJ,
    "llama": _LLAMA,
    "ministral": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "olmo": _LLAMA,
    "olmo2": _OLMO2,
    "olmo3": _OLMO2,
    "olmoe": _LLAMA,
    "opt": _OPT,
    "phi": _PHI,
    "phi3": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "qwen3_5_text": _GEMMA,
    "qwen3_moe": _LLAMA,
    "smollm3": _LLAMA,
    "stablelm": _LLAMA,
    "starcoder2": _STARCODER2,
}
"""By the `model_type` of the text model's configuration; Gemma's norms multiply by 1 + weight, and so do Qwen 3.5's."""

ALIASES = {"hook_in": "hook_resid_pre", "hook_out": "hook_resid_post", "attn.o.hook_in": "attn.hook_z"}
"""Names of TransformerLens 4 for hooks of a block, by which they are found too."""


def family_of(config: Any) -> Family | None:
    """The family of a model by its (text) config; None where it has no TransformerLens names here."""
    family = _BY_MODEL_TYPE.get(config.model_type)
    if family is _NEOX and config.use_parallel_residual:
        return _NEOX_PARALLEL
    if config.model_type == "stablelm" and config.use_parallel_residual:
        return _LLAMA_PARALLEL
    # Norms behind the sum instead of before the branches: these blocks have no residual stream to name.
    if family is _OPT and not config.do_layer_norm_before:
        return None
    return None if family is _BLOOM and config.apply_residual_connection_post_layernorm else family


def model_types() -> list[str]:
    """The `model_type`s with TransformerLens names."""
    return sorted(_BY_MODEL_TYPE)


def hooks_of(model: nn.Module, config: Any) -> tuple[dict[str, HookPoint], float]:
    """(Place of every hook name of a model in the order of a pass, what its norms add to their weight) by its text config.

    Nothing where its family has no names here, or its modules are not those of the family.
    """
    family = family_of(config)
    if family is None:
        return {}, 0.0
    n_layers = int(config.num_hidden_layers)
    trunk = _trunk_path(model, family, n_layers)
    if trunk is None:
        return {}, 0.0
    return dict(_named_points(model, family, trunk, n_layers)), family.norm_offset


def _trunk_path(model: nn.Module, family: Family, n_layers: int) -> str | None:
    """Path of the module that holds the blocks and the final norm: `model`, `transformer`, `model.language_model`, …"""
    for path, module in model.named_modules():
        children = dict(module.named_children())
        layers = children.get(family.layers)
        if family.final_norm in children and isinstance(layers, nn.ModuleList) and len(layers) == n_layers:
            return path
    return None


def _named_points(model: nn.Module, family: Family, trunk: str, n_layers: int) -> Iterator[tuple[str, HookPoint]]:
    """Every hook name of a model with its place, paths relative to the whole model, in the order of a pass."""
    modules = {path for path, _ in model.named_modules()}
    for name, point in family.embed.items():
        yield name, replace(point, module=_join(trunk, point.module))
    for layer in range(n_layers):
        for name, point in family.block.items():
            module = _join(trunk, family.layers, str(layer), point.module)
            if module in modules:
                yield f"blocks.{layer}.{name}", replace(point, module=module)
    yield "ln_final.hook_normalized", HookPoint(_join(trunk, family.final_norm), "normalized")


def canonical(hook_name: str) -> str:
    """A hook's name with TransformerLens 4's replaced by the older one."""
    for new, old in ALIASES.items():
        if hook_name.startswith("blocks.") and hook_name.split(".", 2)[2:] == [new]:
            return hook_name.removesuffix(new) + old
    return hook_name


def module_point(model: nn.Module, hook_name: str, here: str, names: Sequence[str]) -> HookPoint:
    """The input or output of the module whose path a hook's name is.

    Raises `HookNotFoundError` where there is none; the message says that it is not `here`, and what resembles it.
    """
    path, _, side = hook_name.rpartition(".")
    modules = dict(model.named_modules())
    if path and path in modules and side in ("input", "output"):
        return HookPoint(path, "input" if side == "input" else "output")
    paths = [f"{module}.{side}" for module in modules if module for side in ("input", "output")]
    raise HookNotFoundError(
        f"no hook {hook_name!r} in {here}",
        advice=f"Nearest: {', '.join(nearest_names(hook_name, names, paths))}; "
        "a module path with .input or .output will do too, see hook_names()",
    )


def nearest_names(hook_name: str, names: Sequence[str], paths: Sequence[str] = ()) -> list[str]:
    """Three names that resemble `hook_name`, or module paths where no name does."""
    near = difflib.get_close_matches(hook_name, names, n=3, cutoff=0.5)
    return near or difflib.get_close_matches(hook_name, paths or names, n=3, cutoff=0.0)


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
