"""OpenAI's autoencoders of GPT-2 small: `{location}_{version}/autoencoders/{layer}.pt`.

Tensors `pre_bias [d_in]`, `encoder.weight [d_sae, d_in]`, `latent_bias [d_sae]`, `decoder.weight [d_in, d_sae]` and statistics;
beside them the activation: ReLU, or TopK with k, after which relu follows. `pre_bias` is subtracted and added back. Versions
with TopK (v5) normalise each token to mean 0 and standard deviation 1 first, and undo it.
"""

import re

from sae_fast.errors import FormatError
from sae_fast.formats._description import Description, Given, Stored
from sae_fast.formats._places import layer_given, layer_of, one_file
from sae_fast.formats._settings import Settings, make_config
from sae_fast.sources import Source

KEYS = frozenset({"pre_bias", "encoder.weight"})
"""What tells such a file."""
STATISTICS = frozenset({"stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"})

_FILE = re.compile(r"\d+\.pt")
_LOCATION = re.compile(r"(resid_delta_attn|resid_delta_mlp|resid_post_attn|resid_post_mlp|mlp_post_act)(?:_v\w+)?")
_HOOKS = {
    "resid_delta_attn": "hook_attn_out",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_post_mlp": "hook_resid_post",
    "mlp_post_act": "mlp.hook_post",
}


def describe(source: Source, given: Given) -> Description | None:
    """An autoencoder of OpenAI: its file, or a folder that holds one."""
    in_place = source.file is not None or source.folder.path.rstrip("/").endswith("/autoencoders")
    name = source.file or (one_file(source, _FILE, "layers of OpenAI's autoencoders") if in_place else None)
    if name is None or not name.endswith((".pt", ".pth")):
        return None
    file = source.folder.tensors(name)
    if not file.shapes.keys() >= KEYS:
        return None
    shape = file.shapes["encoder.weight"]
    if len(shape) != 2:
        raise FormatError(f"{file.place}: encoder.weight", expected="a matrix [d_sae, d_in]", got=list(shape))
    architecture, k = _activation(Settings(file.place, file.values))
    cfg = make_config(
        file.place,
        given,
        architecture=architecture,
        d_in=shape[1],
        d_sae=shape[0],
        k=k,
        hook_name=_hook(file.place, given),
        model_name="gpt2",
        apply_b_dec_to_input=True,
        normalize_activations="layer_norm" if architecture == "topk" else "none",
        metadata={"source_format": "openai"},
    )
    tensors = {
        "W_enc": Stored(name, "encoder.weight", transposed=True),
        "W_dec": Stored(name, "decoder.weight", transposed=True),
        "b_enc": Stored(name, "latent_bias"),
        "b_dec": Stored(name, "pre_bias"),
    }
    return Description(cfg, tensors, ignored=STATISTICS)


def _activation(values: Settings) -> tuple[str, int | None]:
    """(architecture, k)."""
    name = values.text("activation") or "ReLU"
    if name == "ReLU":
        return "standard", None
    after = values.text("activation_state_dict.postact_fn") or "ReLU"
    if name != "TopK" or after != "ReLU":
        raise FormatError(f"{values.place}: activation", expected="ReLU, or TopK followed by ReLU", got=f"{name}, then {after}")
    k = "activation_state_dict.k"
    return "topk", values.needed(k, values.integer(k))


def _hook(place: str, given: Given) -> str | None:
    layer = layer_of(place, r"/autoencoders/(\d+)\.pt$")
    layer = layer_given(given) if layer is None else layer
    location = next((found[1] for part in reversed(place.split("/")) if (found := _LOCATION.fullmatch(part))), None)
    return None if layer is None or location is None else f"blocks.{layer}.{_HOOKS[location]}"
