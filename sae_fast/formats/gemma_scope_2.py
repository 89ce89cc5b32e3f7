"""Gemma Scope 2's `params.safetensors`: JumpReLU SAEs, transcoders with and without a linear skip, and cross-layer files.

Tensors `w_enc [d_in, d_sae]`, `w_dec [d_sae, d_out]`, `b_enc` and `threshold` [d_sae], `b_dec [d_out]`, for some transcoders
`affine_skip_connection [d_in, d_out]`; `b_dec` is not subtracted from the input. `config.json` beside them, where there is one,
says what they are; else the folders' names do (`transcoder_all/layer_5_width_16k_l0_big_affine`).

A cross-layer transcoder (`clt/…/params_layer_3.safetensors`) or crosscoder has a file to a layer, with `w_dec [d_sae, n_layers,
d_out]` over all its layers. One file is loaded as one layer: it reads at its own layer and writes at several. A transcoder's
layer writes at itself and above, where alone its decoder is meant to be other than zero. `b_dec` and the skip belong to the
file's own layer, so that the sum over all layers is what the publisher's code computes.
"""

import re
from dataclasses import dataclass

from torch import Tensor

from sae_fast.errors import FormatError
from sae_fast.formats._description import Description, Given, Stored
from sae_fast.formats._places import layer_of, n_layers_of, one_file
from sae_fast.formats._settings import Settings, make_config
from sae_fast.sources import Source, TensorFile

CONFIG = "config.json"
KEYS = frozenset({"w_enc", "w_dec", "b_enc", "b_dec", "threshold"})
SKIP = "affine_skip_connection"
CONTEXT_SIZE = 1024

_OURS = {"W_enc": "w_enc", "W_dec": "w_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"}
_FILES = re.compile(r"params(_layer_\d+)?\.safetensors")
_KINDS = ("sae", "transcoder", "clt", "crosscoder")
_FOLDER = re.compile(r"(resid_post|attn_out|mlp_out|transcoder|clt|crosscoder)(?:_all)?")
_WRITTEN_BY_MLP = "post_feedforward_layernorm.output"
_READ_AT = {
    "resid_post": "output",
    "attn_out": "self_attn.o_proj.input",
    "mlp_out": _WRITTEN_BY_MLP,
    "transcoder": "pre_feedforward_layernorm.output",
    "clt": "pre_feedforward_layernorm.output",
    "crosscoder": "output",
}
"""Where each kind of folder reads, below `model.layers.<layer>`."""
_HOOKS = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    _WRITTEN_BY_MLP: "hook_mlp_out",
    "pre_feedforward_layernorm.output": "mlp.hook_in",
}
_HOOK_POINT = re.compile(r"(?:model\.)?(?:language_model\.)?layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class _Site:
    """What a file is and where it reads and writes, as hooks in TransformerLens style."""

    kind: str
    """One of `_KINDS`."""
    hook_name: str | None
    hook_name_out: str | None
    """None for an SAE, and for cross-layer files."""


@dataclass(frozen=True)
class _Layers:
    """Where a cross-layer file reads and writes."""

    own: int
    """Index, among the layers of `w_dec`, of the file's own."""
    first: int
    """Index of the first it writes at."""
    hook_name: str
    hook_names_out: tuple[str, ...]
    """Of the layers from `first` on."""

    def written(self, w_dec: Tensor) -> Tensor:
        """[d_sae, n_layers, d_out] → [d_sae, n_out, d_out]."""
        return w_dec[:, self.first :]

    def placed(self, b_dec: Tensor) -> Tensor:
        """[d_out] → [n_out, d_out], zero but at the file's own layer."""
        placed = b_dec.new_zeros(len(self.hook_names_out), *b_dec.shape)
        placed[self.own - self.first] = b_dec
        return placed


def describe(source: Source, given: Given) -> Description | None:
    """A file of Gemma Scope 2, or a folder that holds one."""
    name = _file(source)
    if name is None:
        return None
    file = source.folder.tensors(name)
    if not file.shapes.keys() >= KEYS:
        if _FILES.fullmatch(name):
            expected = ", ".join(sorted(KEYS))
            raise FormatError(f"{file.place}: tensors", expected=expected, got=", ".join(sorted(file.shapes)[:8]) or "none")
        return None
    has_config = source.folder.has(CONFIG)
    config = Settings(source.folder.place(CONFIG), source.folder.read_json(CONFIG) if has_config else {})
    if config.text("architecture") not in (None, "jump_relu"):
        raise FormatError(f"{config.place}: architecture", expected="jump_relu", got=config.text("architecture"))
    w_enc, w_dec = file.shapes["w_enc"], file.shapes["w_dec"]
    if len(w_enc) != 2 or len(w_dec) not in (2, 3):
        expected = "w_enc [d_in, d_sae] and w_dec [d_sae, d_out] or [d_sae, n_layers, d_out]"
        raise FormatError(f"{file.place}: shapes", expected=expected, got=f"{list(w_enc)} and {list(w_dec)}")
    site = _site(file.place, config)
    if len(w_dec) == 3:
        return _one_layer(name, file, config, given, _layers(name, file, config, site.kind))
    return _single(name, file, config, given, site)


def _file(source: Source) -> str | None:
    """`params.safetensors`, the file of a layer, or whatever other safetensors file was named."""
    if source.file is not None and source.file != CONFIG:
        return source.file if source.file.endswith(".safetensors") else None
    names = source.folder.names()
    if "params.safetensors" in names:
        return "params.safetensors"
    return one_file(Source(source.folder), _FILES, "layers of one model of Gemma Scope 2")


def _single(name: str, file: TensorFile, config: Settings, given: Given, site: _Site) -> Description:
    d_in, d_sae = file.shapes["w_enc"]
    transcoder = site.kind == "transcoder"
    cfg = make_config(
        file.place,
        given,
        architecture="jumprelu",
        d_in=d_in,
        d_sae=d_sae,
        d_out=file.shapes["w_dec"][1] if transcoder else d_in,
        hook_name=site.hook_name,
        hook_name_out=site.hook_name_out,
        transcoder=transcoder,
        skip=SKIP in file.shapes,
        reshape_activations="hook_z" if (site.hook_name or "").endswith("hook_z") else "none",
        **_common(file.place, config),
    )
    tensors = {ours: Stored(name, key) for ours, key in _OURS.items()}
    return Description(cfg, tensors | _skip(name, file))


def _one_layer(name: str, file: TensorFile, config: Settings, given: Given, layers: _Layers) -> Description:
    d_in, d_sae = file.shapes["w_enc"]
    w_dec = file.shapes["w_dec"]
    cfg = make_config(
        file.place,
        given,
        architecture="jumprelu",
        d_in=d_in,
        d_sae=d_sae,
        d_out=w_dec[2],
        hook_name=layers.hook_name,
        hook_names_out=layers.hook_names_out,
        transcoder=True,
        skip=SKIP in file.shapes,
        **_common(file.place, config),
    )
    tensors = {ours: Stored(name, key) for ours, key in _OURS.items()}
    tensors["W_dec"] = Stored(name, "w_dec", shape=(d_sae, *w_dec[1:]), then=layers.written)
    tensors["b_dec"] = Stored(name, "b_dec", shape=(w_dec[2],), then=layers.placed)
    return Description(cfg, tensors | _skip(name, file))


def _skip(name: str, file: TensorFile) -> dict[str, Stored]:
    return {"W_skip": Stored(name, SKIP, transposed=True)} if SKIP in file.shapes else {}


def _common(place: str, config: Settings) -> dict[str, object]:
    model = config.text("model_name") or _model_in(place)
    metadata: dict[str, object] = {"source_format": "gemma_scope_2"}
    for key in ("l0", "hf_hook_point_in", "hf_hook_point_out"):
        if (value := config.values.get(key)) is not None:
            metadata[key] = value
    return {"model_name": model, "prepend_bos": True, "context_size": CONTEXT_SIZE, "metadata": metadata}


def _model_in(place: str) -> str | None:
    """`google/gemma-3-1b-pt` of a path that holds `gemma-scope-2-1b-pt`."""
    release = re.search(r"gemma-scope-2-(270m|1b|4b|12b|27b)-(pt|it)", place)
    if release is None:
        return None
    size, tuned = release.groups()
    return f"google/gemma-3-{size}" + ("" if (size, tuned) == ("270m", "pt") else f"-{tuned}")


def _site(place: str, config: Settings) -> _Site:
    """By config.json, else by the nearest folder that is named after a site."""
    read, written = config.text("hf_hook_point_in"), config.text("hf_hook_point_out")
    folder = next((found[1] for part in reversed(place.split("/")) if (found := _FOLDER.fullmatch(part))), None)
    kind = config.choice("type", *_KINDS)
    if kind is None:
        kind = folder if folder in _KINDS else "transcoder" if written is not None and written != read else "sae"
    if read is None and folder is not None:
        layer = layer_of(place, r"layer_(\d+)_width")
        read = None if layer is None else f"model.layers.{layer}.{_READ_AT[folder]}"
        written = f"model.layers.{layer}.{_WRITTEN_BY_MLP}" if kind == "transcoder" and layer is not None else None
    return _Site(kind, _hook(read), _hook(written) if kind == "transcoder" else None)


def _hook(point: str | None) -> str | None:
    """The TransformerLens name of a module path, or the path itself where there is no such name."""
    found = _HOOK_POINT.fullmatch(point or "")
    if found is None:
        return point
    return f"blocks.{found[1]}.{_HOOKS[found[2]]}" if found[2] in _HOOKS else point


def _layers(name: str, file: TensorFile, config: Settings, kind: str) -> _Layers:
    """Raises `FormatError` where neither config.json nor a folder says which cross-layer model the file is a layer of."""
    own, place, skips = layer_of(name, r"layer_(\d+)"), file.place, SKIP in file.shapes
    n_layers = n_layers_of(place, file.shapes["w_dec"])
    if kind == "clt":
        numbers, read, write = list(range(n_layers)), "mlp.hook_in", "hook_mlp_out"
    elif kind == "crosscoder":
        point = config.text("hf_hook_point_in") or ""
        listed = re.search(r"\{([\d, ]+)\}", point) or re.search(r"layer_([\d_]+?)_width", place)
        numbers = [int(number) for number in re.findall(r"\d+", listed[1])] if listed else []
        read = write = "hook_resid_post"
    else:
        advice = "Keep config.json beside the file, or the folder's name (clt/…, crosscoder/…)"
        raise FormatError(f"{place}: w_dec has layers, and nothing says what writes at them", got=f"type {kind}", advice=advice)
    if own is None or len(numbers) != n_layers or own >= n_layers:
        expected = "params_layer_<i>.safetensors with i below the number of layers, and as many layers as w_dec has"
        raise FormatError(f"{place}: which layer this is", expected=expected, got=f"w_dec with {n_layers}, layers {numbers}")
    first = own if kind == "clt" else 0
    if skips and own != first:
        raise FormatError(f"{place}: {SKIP}", expected="none in a crosscoder", got="one, which would write at one layer only")
    names = tuple(f"blocks.{number}.{write}" for number in numbers[first:])
    return _Layers(own, first, f"blocks.{numbers[own]}.{read}", names)
