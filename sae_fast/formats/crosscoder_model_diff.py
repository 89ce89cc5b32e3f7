"""Crosscoders of two models by Connor Kissane (crosscoder-model-diff-replication): `cfg.json` and `cc_weights.pt`.

Tensors `W_enc [n, d, d_sae]`, `b_enc`, `W_dec [d_sae, n, d]`, `b_dec [n, d]` for n models; relu of the sum over models, nothing
is subtracted. Checkpoints are `<number>.pt` beside `<number>_cfg.json`. Training multiplied each model's activations by a
factor of its own that no file holds; those of the published crosscoder are folded in here as its authors' code does, those of
others are `norm_scaling_factor`, if it is one for all models.
"""

import re
from collections.abc import Mapping
from functools import partial

from sae_fast.formats._crosscoders import flattened, places, rows_joined, scaled, sizes
from sae_fast.formats._description import Description, Given, Stored
from sae_fast.formats._settings import Settings, make_config
from sae_fast.sources import Source

_NAMES = ("cc_weights.pt", "cfg.json")
_CHECKPOINT = re.compile(r"(\d+)(?:\.pt|_cfg\.json)")

_PUBLISHED: Mapping[str, tuple[float, ...]] = {"crosscoder-gemma-2-2b-model-diff": (0.2758961493232058, 0.24422852496546169)}
"""Factors of the base and of the chat model, by the name of the repository."""
_MODELS: Mapping[str, tuple[str, ...]] = {"gemma-2-2b": ("google/gemma-2-2b", "google/gemma-2-2b-it")}


def describe(source: Source, given: Given) -> Description | None:
    """One of these crosscoders: its folder, or one of the two files."""
    names = _files(source)
    if names is None or not all(map(source.folder.has, names)):
        return None
    weights, configuration = names
    config = Settings(source.folder.place(configuration), source.folder.read_json(configuration))
    file = source.folder.tensors(weights)
    if not {"d_in", "dict_size", "hook_point"} <= config.values.keys() or len(file.shapes.get("W_enc", ())) != 3:
        return None
    n, d, d_sae = sizes(file, "W_enc")
    factors: tuple[float, ...] | None = next((factors for name, factors in _PUBLISHED.items() if name in file.place), None)
    if factors is None and given.norm_scaling_factor is not None:
        factors = (given.norm_scaling_factor,) * n
    models = _MODELS.get(config.text("model_name") or "", ())
    cfg = make_config(
        config.place,
        given,
        architecture="standard",
        d_in=n * d,
        d_sae=d_sae,
        hook_widths=(d,) * n,
        context_size=config.integer("seq_len"),
        prepend_bos=True,
        metadata={"source_format": "crosscoder_model_diff", **places(n, models, config.text("hook_point"))}
        | ({"input_scales_folded": list(factors)} if factors else {}),
    )
    stored = {
        "W_enc": Stored(weights, "W_enc", shape=(n, d, d_sae), feature_axis=2, then=flattened),
        "b_enc": Stored(weights, "b_enc"),
        "W_dec": Stored(weights, "W_dec", shape=(d_sae, n, d), then=rows_joined),
        "b_dec": Stored(weights, "b_dec", shape=(n, d), then=flattened),
    }
    finish = partial(scaled, factors=factors, d=d) if factors else None
    return Description(cfg, stored, finish=finish, takes_scale=factors is None or given.norm_scaling_factor is not None)


def _files(source: Source) -> tuple[str, str] | None:
    """(weights, configuration) by the names of the files."""
    if source.file is None or source.file in _NAMES:
        return _NAMES
    checkpoint = _CHECKPOINT.fullmatch(source.file)
    return (f"{checkpoint[1]}.pt", f"{checkpoint[1]}_cfg.json") if checkpoint else None
