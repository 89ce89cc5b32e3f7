"""Where the TransformerLens-style hooks of each model family lie in its Hugging Face modules.

Values are those of TransformerLens without weight processing (`from_pretrained_no_processing`), with two notes:

* `ln1.hook_normalized`, `ln2.hook_normalized` and `ln_final.hook_normalized` are the normalised activation *before* the norm's
  weight and bias. That is what TransformerLens gives once it has folded them away, and what Gemma Scope's transcoders read.
* `attn.hook_z` has its heads flattened: `[batch, pos, n_heads * d_head]`.

In Gemma 2 and 3, `hook_attn_out` and `hook_mlp_out` are what is added to the residual stream: the output of the *post* norms.
A layer with parallel residual (GPT-NeoX, Pythia) has no `hook_resid_mid`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

Kind = Literal["input", "output", "stream", "normalized"]


@dataclass(frozen=True)
class HookPoint:
    """One place in a module tree."""

    module: str
    """Path of the module, relative to the block or to the model's trunk in a `Family`, to the whole model once resolved."""
    kind: Kind
    """`input` and `output`: the first tensor that the module is given or gives. `stream`: the input of a norm that the block
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
    """Hooks of one block, in order, relative to it."""
    norm_offset: float = 0.0
    """Norms multiply by `norm_offset + weight`."""


def _block(
    *,
    ln1: str,
    attention: str,
    attention_projection: str,
    ln2: str,
    mlp_pre: str,
    mlp_projection: str,
    attn_out: str | None = None,
    mlp_out: str = "mlp",
) -> dict[str, HookPoint]:
    return {
        "hook_resid_pre": HookPoint("", "input"),
        "ln1.hook_normalized": HookPoint(ln1, "normalized"),
        "attn.hook_z": HookPoint(attention_projection, "input"),
        "hook_attn_out": HookPoint(attn_out or attention, "output"),
        "hook_resid_mid": HookPoint(ln2, "stream"),
        "hook_mlp_in": HookPoint(ln2, "input"),
        "ln2.hook_normalized": HookPoint(ln2, "normalized"),
        "mlp.hook_pre": HookPoint(mlp_pre, "output"),
        "mlp.hook_post": HookPoint(mlp_projection, "input"),
        "hook_mlp_out": HookPoint(mlp_out, "output"),
        "hook_resid_post": HookPoint("", "output"),
    }


_GPT2 = Family(
    layers="h",
    final_norm="ln_f",
    embed={"hook_embed": HookPoint("wte", "output"), "hook_pos_embed": HookPoint("wpe", "output")},
    block=_block(
        ln1="ln_1",
        attention="attn",
        attention_projection="attn.c_proj",
        ln2="ln_2",
        mlp_pre="mlp.c_fc",
        mlp_projection="mlp.c_proj",
    ),
)
# With rotary positions the first block reads the embedding as it is (in Gemma: already multiplied by sqrt(d_model)).
_ROTARY_EMBED = {"hook_embed": HookPoint("layers.0", "input")}
_NEOX = Family(
    layers="layers",
    final_norm="final_layer_norm",
    embed=_ROTARY_EMBED,
    block=_block(
        ln1="input_layernorm",
        attention="attention",
        attention_projection="attention.dense",
        ln2="post_attention_layernorm",
        mlp_pre="mlp.dense_h_to_4h",
        mlp_projection="mlp.dense_4h_to_h",
    ),
)
_NEOX_PARALLEL = replace(_NEOX, block={name: point for name, point in _NEOX.block.items() if name != "hook_resid_mid"})
_LLAMA = Family(
    layers="layers",
    final_norm="norm",
    embed=_ROTARY_EMBED,
    block=_block(
        ln1="input_layernorm",
        attention="self_attn",
        attention_projection="self_attn.o_proj",
        ln2="post_attention_layernorm",
        mlp_pre="mlp.gate_proj",
        mlp_projection="mlp.down_proj",
    ),
)
_GEMMA = replace(_LLAMA, norm_offset=1.0)
_GEMMA2 = replace(
    _GEMMA,
    block=_block(
        ln1="input_layernorm",
        attention="self_attn",
        attention_projection="self_attn.o_proj",
        attn_out="post_attention_layernorm",
        ln2="pre_feedforward_layernorm",
        mlp_pre="mlp.gate_proj",
        mlp_projection="mlp.down_proj",
        mlp_out="post_feedforward_layernorm",
    ),
)

_BY_MODEL_TYPE = {
    "gpt2": _GPT2,
    "gpt_neox": _NEOX,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "ministral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
}


def family_of(config: Any) -> Family | None:
    """The family of a model by the `model_type` of its (text) config; None where it has no TransformerLens names here."""
    family = _BY_MODEL_TYPE.get(config.model_type)
    if family is _NEOX and config.use_parallel_residual:
        return _NEOX_PARALLEL
    return family


def trunk_path(model: nn.Module, family: Family) -> str:
    """Path of the module that holds the blocks and the final norm: `model`, `transformer`, `model.language_model`, …

    Raises:
        LookupError: no module of the model has them both.
    """
    for path, module in model.named_modules():
        children = dict(module.named_children())
        if family.layers in children and family.final_norm in children:
            return path
    raise LookupError(f"no module of {type(model).__name__} holds both {family.layers!r} and {family.final_norm!r}")


def named_points(family: Family, trunk: str, n_layers: int) -> Iterator[tuple[str, HookPoint]]:
    """Every hook name of a model with its place, paths relative to the whole model, in the order of a pass."""
    for name, point in family.embed.items():
        yield name, replace(point, module=_join(trunk, point.module))
    for layer in range(n_layers):
        for name, point in family.block.items():
            yield f"blocks.{layer}.{name}", replace(point, module=_join(trunk, family.layers, str(layer), point.module))
    yield "ln_final.hook_normalized", HookPoint(_join(trunk, family.final_norm), "normalized")


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
