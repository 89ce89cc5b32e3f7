"""Our own folder, `sae.json` and `sae.safetensors`, which holds every SAE without loss.

`sae.json` names format and version and gives the fields of `SAEConfig` that differ from their defaults. The tensors have the
names of `sae_fast.config.tensor_shapes`, but for W_enc, which is stored by feature: as `W_enc.T` [d_sae, d_in], so that it is
used from the mapped file as it lies, and some features are read without the others.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from sae_fast.config import MatchingPursuit, SAEConfig, Temporal, tensor_shapes
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.formats._description import Description, Given, Stored
from sae_fast.formats._files import json_writer, safetensors_writer, write_files
from sae_fast.formats._settings import Settings, make_config
from sae_fast.sae import SAE
from sae_fast.sources import Source

CONFIG = "sae.json"
WEIGHTS = "sae.safetensors"
NAME = "sae_fast"
VERSION = 1
"""Of the layout; a reader refuses one that it does not know."""

ENCODER = "W_enc.T"
MOST_LAYERS = 64
"""Of a temporal SAE's attention, so that a damaged number is not taken for work."""

_READERS: Mapping[str, Callable[[Settings, str], Any]] = {
    **dict.fromkeys(("d_in", "d_sae", "d_out", "k", "context_size", "max_iterations"), Settings.integer),
    **dict.fromkeys(("n_heads", "n_attn_layers", "bottleneck_factor"), Settings.integer),
    **dict.fromkeys(("architecture", "hook_name", "hook_name_out", "model_name"), Settings.text),
    **dict.fromkeys(("normalize_activations", "reshape_activations", "sae_diff_type"), Settings.text),
    **dict.fromkeys(("transcoder", "skip", "prepend_bos", "centred", "apply_b_dec_to_input"), Settings.flag),
    **dict.fromkeys(("rescale_acts_by_decoder_norm", "stop_on_duplicate_support", "tied_weights"), Settings.flag),
    **dict.fromkeys(("input_scale", "residual_threshold"), Settings.number),
    **dict.fromkeys(("group_sizes", "hook_widths"), Settings.integers),
    **dict.fromkeys(("hook_names", "hook_names_out"), Settings.texts),
}
"""How a field is read. Those of `pursuit`, `temporal` and `metadata` are mappings of their own."""


def describe(source: Source, given: Given) -> Description | None:
    """An SAE in our own format: its folder, or one of the two files in it."""
    if not source.holds(CONFIG, WEIGHTS):
        return None
    settings = Settings(source.folder.place(CONFIG), source.folder.read_json(CONFIG))
    if settings.text("format") != NAME:
        return None
    if settings.integer("version") != VERSION:
        raise FormatError(f"{settings.place}: version", expected=VERSION, got=settings.values.get("version"))
    cfg = _config(settings.section("config"), given)
    stored = {name: Stored(WEIGHTS, name) for name in tensor_shapes(cfg)}
    if "W_enc" in stored:
        stored["W_enc"] = Stored(WEIGHTS, ENCODER, transposed=True)
    return Description(cfg, stored)


def save(sae: SAE, folder: Path) -> None:
    """Write any SAE that has its decoder; the same SAE gives the same bytes."""
    if not sae.has_decoder:
        raise ArgumentError("W_dec: this SAE was loaded without its decoder", advice="Load it whole before saving it")
    tensors = sae.tensors()
    if "W_enc" in tensors:
        tensors[ENCODER] = tensors.pop("W_enc").T
    config = _written(sae.cfg)
    if sae.cfg.d_out == sae.cfg.d_in:
        del config["d_out"]
    content = {"format": NAME, "version": VERSION, "config": config}
    write_files(folder, {WEIGHTS: safetensors_writer(tensors), CONFIG: json_writer(content)})


def _written(cfg: SAEConfig | MatchingPursuit | Temporal) -> dict[str, Any]:
    """Fields that differ from their defaults, those of dataclasses inside whole."""
    content: dict[str, Any] = {}
    for field in fields(cfg):
        value = getattr(cfg, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if value != default:
            content[field.name] = asdict(value) if isinstance(value, MatchingPursuit | Temporal) else value
    return content


def _config(settings: Settings, given: Given) -> SAEConfig:
    inner = {"pursuit": MatchingPursuit, "temporal": Temporal}
    read = _read(settings, SAEConfig, (*inner, "metadata"))
    for name, kind in inner.items():
        if settings.values.get(name) is not None:
            read[name] = kind(**_read(settings.section(name), kind))
    for name in ("architecture", "d_in", "d_sae"):
        settings.needed(name, read.get(name))
    layers = read["temporal"].n_attn_layers if "temporal" in read else 0
    if layers > MOST_LAYERS:
        raise FormatError(f"{settings.place}: n_attn_layers", expected=f"at most {MOST_LAYERS}", got=layers)
    return make_config(settings.place, given, **read, metadata=settings.section("metadata").values)


def _read(settings: Settings, kind: type, elsewhere: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a dataclass that are there, null ones left out. Raises `FormatError` for any other key."""
    known = {field.name for field in fields(kind)}
    if unknown := sorted(settings.values.keys() - known):
        raise FormatError(f"{settings.place}: unknown keys {', '.join(unknown[:12])}")
    present = [name for name, value in settings.values.items() if value is not None and name not in elsewhere]
    return {name: _READERS[name](settings, name) for name in present}
