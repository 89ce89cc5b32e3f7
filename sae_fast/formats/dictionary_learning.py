"""dictionary_learning's `ae.pt` and `config.json`: seven classes of SAE (and SAEBench's, andyrdt's and others' made with it).

`config.json` names the class (`trainer.dict_class`) and where it was trained; without it the tensors tell the class, where
that is enough. Linear layers hold `weight [out, in]`.

| class | tensors | computes |
|---|---|---|
| AutoEncoder | bias, encoder.weight, encoder.bias, decoder.weight | relu of x - bias |
| AutoEncoderNew | encoder.weight, encoder.bias, decoder.weight, decoder.bias | relu of x; nothing is subtracted |
| GatedAutoEncoder | decoder_bias, r_mag, gate_bias, mag_bias, encoder.weight, decoder.weight | gated, of x - decoder_bias |
| JumpReluAutoEncoder | W_enc, b_enc, W_dec, b_dec, threshold | jumprelu of x; nothing is subtracted |
| AutoEncoderTopK | b_dec, k, threshold, encoder.weight, encoder.bias, decoder.weight | the k largest; threshold is not used |
| BatchTopKSAE | as AutoEncoderTopK | above one threshold for all features |
| MatryoshkaBatchTopKSAE | W_enc, b_enc, W_dec, b_dec, k, threshold, group_sizes | as BatchTopKSAE; the groups are kept |

As published: `AutoEncoder.from_pretrained` of dictionary_learning folds decoder norms unless told not to, which is
`fold_decoder_norm=True` here.
"""

import re
from collections.abc import Mapping

import torch

from sae_fast.config import SAEConfig
from sae_fast.errors import FormatError
from sae_fast.formats._description import Description, Given, Stored
from sae_fast.formats._dictionary_learning_writing import save
from sae_fast.formats._places import one_file
from sae_fast.formats._settings import Settings, make_config
from sae_fast.sources import Source, TensorFile

__all__ = ["describe", "save"]

CONFIG = "config.json"
_FILE = re.compile(r"ae(_\d+)?\.pt")

_LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}
_MATRICES = {"W_enc": "W_enc", "W_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec"}
_TENSORS: Mapping[str, Mapping[str, str]] = {
    "AutoEncoder": {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "bias"},
    "AutoEncoderNew": {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "decoder.bias"},
    "GatedAutoEncoder": {**_LINEAR, "b_dec": "decoder_bias", "b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"},
    "JumpReluAutoEncoder": {**_MATRICES, "threshold": "threshold"},
    "AutoEncoderTopK": {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "b_dec"},
    "BatchTopKSAE": {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "b_dec", "threshold": "threshold"},
    "MatryoshkaBatchTopKSAE": {**_MATRICES, "threshold": "threshold"},
}
"""Keys of each class, by our names."""
_ARCHITECTURES = {
    "AutoEncoder": "standard",
    "AutoEncoderNew": "standard",
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batchtopk",
    "MatryoshkaBatchTopKSAE": "batchtopk",
}
_NOT_CENTRED = ("AutoEncoderNew", "JumpReluAutoEncoder")
"""Classes that do not subtract the decoder's bias from the input."""
_SITES = {
    "resid_post": "hook_resid_post",
    "resid_out": "hook_resid_post",
    "resid": "hook_resid_post",
    "resid_mid": "hook_resid_mid",
    "resid_pre": "hook_resid_pre",
    "mlp_out": "hook_mlp_out",
    "mlp": "hook_mlp_out",
    "attn_out": "hook_attn_out",
    "attention_out": "hook_attn_out",
    "attn": "hook_attn_out",
    "attention": "hook_attn_out",
}
_SUBMODULE = re.compile(r"([a-z_]+?)_?layer_?(\d+)")


def describe(source: Source, given: Given) -> Description | None:
    """A dictionary of dictionary_learning: a folder with `ae.pt`, that file, or one of `checkpoints/ae_<step>.pt`."""
    name = _file(source)
    if name is None:
        return None
    file = source.folder.tensors(name)
    if any(len(file.shapes.get(f"{prefix}encoder.weight", ())) == 3 for prefix in ("", "_orig_mod.")):
        return None  # a crosscoder; see crosscoder_learning
    config = _config(source)
    trainer = config.section("trainer")
    dict_class = trainer.choice("dict_class", *_TENSORS) or _class_by_tensors(file)
    tensors = _TENSORS[dict_class]
    d_in, d_sae = _sizes(file, tensors["W_enc"])
    cfg = _sae_config(file, trainer, config.section("buffer"), dict_class, d_in, d_sae, given)
    stored = {ours: _stored(name, ours, key, dict_class) for ours, key in tensors.items()}
    return Description(cfg, stored, ignored=frozenset({"k", "threshold", "group_sizes"} - {s.key for s in stored.values()}))


def _file(source: Source) -> str | None:
    if source.file is not None and source.file != CONFIG:
        return source.file if _FILE.fullmatch(source.file) else None
    if source.folder.has("ae.pt"):
        return "ae.pt"
    return one_file(Source(source.folder), _FILE, "checkpoints of dictionary_learning")


def _config(source: Source) -> Settings:
    """`config.json` beside the file or, for a checkpoint, in the folder above; empty where there is none."""
    above = source.folder.parent() if source.folder.path.rstrip("/").endswith("/checkpoints") else None
    for folder in (source.folder, above):
        if folder is not None and folder.has(CONFIG):
            content = folder.read_json(CONFIG)
            if "trainer" in content:
                return Settings(folder.place(CONFIG), content)
    return Settings(source.folder.place(CONFIG), {})


def _class_by_tensors(file: TensorFile) -> str:
    optional = {"k", "threshold", "group_sizes"}
    found = set(file.shapes)
    fitting = [
        name
        for name, tensors in _TENSORS.items()
        if set(tensors.values()) <= found and found - set(tensors.values()) <= optional and _sized_alike(name, file)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if set(fitting) == {"AutoEncoderTopK", "BatchTopKSAE"}:
        raise FormatError(
            f"{file.place}: AutoEncoderTopK and BatchTopKSAE have the same tensors",
            expected=f"{CONFIG} with trainer.dict_class beside it or in the folder above",
            got="none",
        )
    raise FormatError(
        f"{file.place}: not the tensors of a class of dictionary_learning",
        expected=f"those of {', '.join(_TENSORS)}",
        got=", ".join(sorted(found)[:12]) or "none",
    )


def _sized_alike(dict_class: str, file: TensorFile) -> bool:
    """Matryoshka and JumpRelu differ in the threshold's size and in the groups."""
    if dict_class == "MatryoshkaBatchTopKSAE":
        return "group_sizes" in file.shapes
    return dict_class != "JumpReluAutoEncoder" or "group_sizes" not in file.shapes


def _sizes(file: TensorFile, key: str) -> tuple[int, int]:
    shape = file.shapes.get(key, ())
    if len(shape) != 2:
        got = list(shape) or f"none among {', '.join(sorted(file.shapes)[:12])}"
        raise FormatError(f"{file.place}: {key}", expected="a matrix", got=got)
    return (shape[0], shape[1]) if key == "W_enc" else (shape[1], shape[0])


def _stored(file: str, ours: str, key: str, dict_class: str) -> Stored:
    broadcast = ours == "threshold" and dict_class != "JumpReluAutoEncoder"
    return Stored(file, key, transposed=key.endswith(".weight"), broadcast=broadcast)


def _sae_config(
    file: TensorFile, trainer: Settings, buffer: Settings, dict_class: str, d_in: int, d_sae: int, given: Given
) -> SAEConfig:
    for name, found in (("activation_dim", d_in), ("dict_size", d_sae)):
        if (said := trainer.integer(name)) is not None and said != found:
            raise FormatError(f"{trainer.place}: {name}", expected=f"{found}, the size of the tensors", got=said)
    hook_name, metadata = _hook(trainer, buffer)
    architecture = _ARCHITECTURES[dict_class]
    return make_config(
        file.place,
        given,
        architecture=architecture,
        d_in=d_in,
        d_sae=d_sae,
        hook_name=hook_name,
        model_name=trainer.text("lm_name"),
        k=_k(file, trainer) if architecture in ("topk", "batchtopk") else None,
        group_sizes=_group_sizes(file, trainer) if dict_class == "MatryoshkaBatchTopKSAE" else None,
        context_size=buffer.integer("ctx_len"),
        apply_b_dec_to_input=dict_class not in _NOT_CENTRED,
        metadata={"source_format": "dictionary_learning", "dict_class": dict_class, **metadata},
    )


def _k(file: TensorFile, trainer: Settings) -> int | None:
    """Of the configuration, else the scalar in the file."""
    k = trainer.integer("k")
    if k is None and file.shapes.get("k") == ():
        k = int(file.read("k"))
    return k


def _group_sizes(file: TensorFile, trainer: Settings) -> tuple[int, ...]:
    key = "group_sizes"
    if len(file.shapes.get(key, ())) == 1 and not file.dtypes[key].is_floating_point:
        return tuple(file.read(key).to(torch.int64).tolist())
    return trainer.needed(key, trainer.integers(key))


def _hook(trainer: Settings, buffer: Settings) -> tuple[str | None, dict[str, object]]:
    """(hook, what else is known of it)."""
    submodule, layer = trainer.text("submodule_name"), trainer.values.get("layer")
    if submodule is None:
        if not isinstance(layer, int) or isinstance(layer, bool):
            return None, {}
        assumed = "config.json names a layer but no submodule; the residual stream after it is assumed"
        return f"blocks.{layer}.hook_resid_post", {"hook_name_assumed": assumed}
    found = _SUBMODULE.fullmatch(submodule.lower())
    site = _SITES.get(found[1]) if found else None
    if found is None or site is None or (buffer.text("io") or "out") != "out":
        return None, {"submodule_name": submodule, "io": buffer.text("io") or "out"}
    return f"blocks.{found[2]}.{site}", {}
