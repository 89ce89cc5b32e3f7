"""OpenMOSS's llamascopium (Language-Model-SAEs): `config.json` and `sae_weights.safetensors`; Llama Scope R1 among them.

Tensors `W_E [d_model, d_sae]`, `b_E`, `W_D [d_sae, d_model]`, `b_D`, for jumprelu
`activation_function.log_jumprelu_threshold`, and scalars `dataset_average_activation_norm.<hook>`. Formerly
`encoder.weight [d_sae, d_model]`, `encoder.bias`, `decoder.weight`, `decoder.bias`, `log_jumprelu_threshold`. A `.pt` file has
them under `sae`.

With `norm_activation` dataset-wise, training multiplied activations by √d_model / average norm, at input and output: kept as
`input_scale`, so that activations are those of training (and of SAELens's, which folds the factor into W_enc). With
`sparsity_include_decoder_norm`, `h · ‖W_D‖` is compared with the threshold, and `h` is the activation; for topk, which has no
threshold to divide, `h · ‖W_D‖` is selected and stays the activation, while the reconstruction is the same.
"""

import re
from functools import partial

import torch

from sae_fast.errors import FormatError
from sae_fast.formats._description import Description, Given, Stored, Tensors
from sae_fast.formats._settings import Settings, factor_of, make_config
from sae_fast.sources import Source, TensorFile

CONFIG = "config.json"
FILES = tuple(
    f"{stem}.{ending}"
    for stem in ("sae_weights", "checkpoints/pruned", "checkpoints/final")
    for ending in ("safetensors", "pt")
)
"""In the order in which the publisher's code looks for them."""
NORM = "dataset_average_activation_norm."

_KEYS = {
    "W_enc": "W_E",
    "b_enc": "b_E",
    "W_dec": "W_D",
    "b_dec": "b_D",
    "threshold": "activation_function.log_jumprelu_threshold",
}
_FORMER_KEYS = {
    "W_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    "W_dec": "decoder.weight",
    "b_dec": "decoder.bias",
    "threshold": "log_jumprelu_threshold",
}
_KINDS = ("sae", "transcoder")
_ARCHITECTURES = {"relu": "standard", "jumprelu": "jumprelu", "topk": "topk"}


def describe(source: Source, given: Given) -> Description | None:
    """An SAE of OpenMOSS: its folder, its configuration, or its weights."""
    name = _file(source)
    if name is None:
        return None
    config = Settings(source.folder.place(CONFIG), source.folder.read_json(CONFIG))
    file = source.folder.tensors(name)
    prefix = "sae." if name.endswith(".pt") else ""
    keys = next((keys for keys in (_KEYS, _FORMER_KEYS) if prefix + keys["W_enc"] in file.shapes), None)
    if keys is None and not {"sae_type", "expansion_factor"} & config.values.keys():
        return None
    if keys is None:
        raise FormatError(
            f"{file.place}: no tensor {prefix}W_E or {prefix}encoder.weight", got=", ".join(sorted(file.shapes)[:8])
        )
    _refuse_others(config)
    return _Reader(name, file, config, given, prefix, keys).description()


def _file(source: Source) -> str | None:
    if not source.folder.has(CONFIG) or source.folder.has("cfg.json"):
        return None
    if source.file not in (None, CONFIG):
        return source.file if source.file in FILES else None
    return next((name for name in FILES if source.folder.has(name)), None)


def _refuse_others(config: Settings) -> None:
    """Crosscoders, sparse attention and gated encoders are other models."""
    kind = config.text("sae_type")
    if kind is not None and kind not in _KINDS:
        advice = "Features of its crosscoders fire at each hook by themselves, so that they have no one activation"
        crosscoder = kind == "crosscoder"
        raise FormatError(
            f"{config.place}: sae_type", expected=" or ".join(_KINDS), got=kind, advice=advice if crosscoder else None
        )
    if config.flag("use_glu_encoder"):
        raise FormatError(f"{config.place}: use_glu_encoder", expected="false; an encoder with a second gate is not supported")
    if config.flag("apply_decoder_bias_to_pre_encoder"):
        raise FormatError(f"{config.place}: apply_decoder_bias_to_pre_encoder", expected="false, as in all published ones")


class _Reader:
    """One SAE while it is being described."""

    def __init__(self, name: str, file: TensorFile, config: Settings, given: Given, prefix: str, keys: dict[str, str]) -> None:
        self.name, self.file, self.config, self.given, self.prefix, self.keys = name, file, config, given, prefix, keys
        self.hook_in, self.hook_out = config.text("hook_point_in"), config.text("hook_point_out")
        self.transcoder = self.hook_out is not None and self.hook_out != self.hook_in

    def description(self) -> Description:
        """Raises `FormatError` for what cannot be evaluated one token at a time."""
        config = self.config
        d_in = config.needed("d_model", config.integer("d_model"))
        architecture = self._architecture()
        by_norm = config.values.get("sparsity_include_decoder_norm") is not False
        normalisation, f_in, f_out = self._normalisation(d_in)
        cfg = make_config(
            config.place,
            self.given,
            architecture=architecture,
            d_in=d_in,
            d_sae=config.count("expansion_factor", of=d_in),
            k=config.needed("top_k", config.integer("top_k")) if architecture == "topk" else None,
            hook_name=self.hook_in,
            hook_name_out=self.hook_out if self.transcoder else None,
            transcoder=self.transcoder,
            model_name=config.text("model_name") or _model_in(self.file.place),
            normalize_activations=normalisation,
            input_scale=f_in,
            rescale_acts_by_decoder_norm=by_norm and architecture == "topk",
            metadata={"source_format": "openmoss"} | self._known(),
        )
        gates = by_norm and architecture == "jumprelu"
        finish = partial(_finish, scale_out=f_out if self.transcoder else 1.0, gates_by_norm=gates)
        return Description(
            cfg,
            self._tensors(architecture),
            zeros=frozenset() if self._has_bias() else frozenset({"b_dec"}),
            ignored_prefixes=(self.prefix + NORM,),
            finish=finish,
            encoder_needs_decoder=gates,
            takes_scale=normalisation == "constant_scalar_rescale" and self._factor(self.hook_in, "in", d_in) is None,
        )

    def _architecture(self) -> str:
        activation = self.config.needed("act_fn", self.config.text("act_fn")).lower()
        if activation not in _ARCHITECTURES:
            raise FormatError(
                f"{self.config.place}: act_fn",
                expected=", ".join(_ARCHITECTURES),
                got=activation,
                advice="What batchtopk keeps depends on the batch; llamascopium converts such an SAE to jumprelu",
            )
        return _ARCHITECTURES[activation]

    def _normalisation(self, d_model: int) -> tuple[str, float, float]:
        """(normalize_activations, f_in, f_out)."""
        how = self.config.text("norm_activation") or "dataset-wise"
        if how == "inference":
            return "none", 1.0, 1.0
        if how == "token-wise" and not self.transcoder:
            return "constant_norm_rescale", 1.0, 1.0
        if how != "dataset-wise":
            advice = "What it does depends on the batch, or on the output that is being predicted"
            raise FormatError(f"{self.config.place}: norm_activation", expected="dataset-wise", got=how, advice=advice)
        f_in = self._factor(self.hook_in, "in", d_model)
        f_in = self.given.norm_scaling_factor if f_in is None else f_in
        f_out = self._factor(self.hook_out, "out", d_model) if self.transcoder else f_in
        if f_in is None or f_out is None:
            raise FormatError(
                f"{self.file.place}: the average norm of activations is not in the file",
                expected=f"a positive scalar {NORM}{self.hook_in or '<hook>'}",
                advice="Pass norm_scaling_factor=√d_model / (mean norm of the activations)",
            )
        return "constant_scalar_rescale", f_in, f_out

    def _factor(self, hook: str | None, side: str, d_model: int) -> float | None:
        """√d_model / average norm, of the file or, formerly, of config.json."""
        key = f"{self.prefix}{NORM}{hook}"
        norm = self.config.section(NORM.rstrip(".")).number(side)
        if self.file.shapes.get(key) in ((), (1,)):
            norm = float(self.file.read(key).reshape(()))
        return None if norm is None else factor_of(d_model, norm)

    def _has_bias(self) -> bool:
        return self.config.values.get("use_decoder_bias") is not False or self.prefix + self.keys["b_dec"] in self.file.shapes

    def _tensors(self, architecture: str) -> dict[str, Stored]:
        names = ["W_enc", "b_enc", "W_dec", *(["b_dec"] if self._has_bias() else [])]
        stored = {
            name: Stored(self.name, self.prefix + self.keys[name], transposed=self.keys[name].endswith(".weight"))
            for name in names
        }
        if architecture == "jumprelu":
            stored["threshold"] = Stored(self.name, self.prefix + self.keys["threshold"], then=_exponential)
        return stored

    def _known(self) -> dict[str, object]:
        known = {key: self.config.values.get(key) for key in ("sae_type", "norm_activation", "sparsity_include_decoder_norm")}
        found = re.search(r"(\w+)-Slimpajama-\w+-OpenR1-Math-220k", self.file.place)
        return {key: value for key, value in known.items() if value is not None} | ({"dataset": found[0]} if found else {})


def _model_in(place: str) -> str | None:
    return "deepseek-ai/DeepSeek-R1-Distill-Llama-8B" if "Llama-Scope-R1-Distill" in place else None


def _exponential(log_threshold: torch.Tensor) -> torch.Tensor:
    return log_threshold.to(torch.promote_types(log_threshold.dtype, torch.float32)).exp()


def _finish(tensors: Tensors, scale_out: float, gates_by_norm: bool) -> Tensors:
    """Compare h with threshold / ‖W_D‖, and let a transcoder write in the units of the model."""
    W_dec = tensors.get("W_dec")
    if W_dec is None:
        return tensors | {"b_dec": tensors["b_dec"].float() / scale_out}
    wide = torch.promote_types(W_dec.dtype, torch.float32)
    if gates_by_norm:
        tensors = tensors | {"threshold": tensors["threshold"] / torch.linalg.vector_norm(W_dec, dim=1, dtype=wide)}
    if scale_out == 1.0:
        return tensors
    return tensors | {"W_dec": (W_dec.to(wide) / scale_out).to(W_dec.dtype), "b_dec": tensors["b_dec"].to(wide) / scale_out}
