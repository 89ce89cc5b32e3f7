"""Crosscoders of dictionary_learning as extended by science-of-finetuning: `config.json` and `model.safetensors`, or a `.pt`.

Tensors `encoder.weight [n, d, d_sae]`, `encoder.bias`, `decoder.weight [n, d_sae, d]`, `decoder.bias [n, d]` for n models or
hooks, and `code_normalization_id`; BatchTopKCrossCoder has `k` and one `threshold` besides. An activation is
`f = relu(Σ x W + b)`; BatchTopK keeps it where `f · c > threshold`, with c the sum over n of the norms of the feature's decoder
rows, unless `code_normalization` says otherwise.
"""

import re
from functools import partial

import torch

from sae_fast.errors import FormatError
from sae_fast.formats._crosscoders import flattened, layers_joined, norms_by_part, places, sizes
from sae_fast.formats._description import Description, Given, Stored, Tensors
from sae_fast.formats._settings import Settings, make_config
from sae_fast.sources import Source, TensorFile

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_FILE = re.compile(r"(ae|model)(_\w+)?\.pt")
_COMPILED = "_orig_mod."
"""What torch.compile puts before the keys."""

_NORMALISATIONS = ("CROSSCODER", "SAE", "MIXED", "NONE", "DECOUPLED")
"""In the order of their ids, from 1."""
_LAYER = re.compile(r"-[lL](\d+)(?=-|$)")
_GEMMA = re.compile(r"gemma-2-(2b|9b|27b)-crosscoder")


def describe(source: Source, given: Given) -> Description | None:
    """One of these crosscoders: its folder, its configuration or its weights."""
    name = _file(source)
    if name is None:
        return None
    file = source.folder.tensors(name)
    prefix = _COMPILED if f"{_COMPILED}encoder.weight" in file.shapes else ""
    if len(file.shapes.get(f"{prefix}encoder.weight", ())) != 3:
        return None
    content = source.folder.read_json(CONFIG) if source.folder.has(CONFIG) else {}
    config = Settings(source.folder.place(CONFIG), content)
    return _Reader(name, file, prefix, config.section("trainer") if "trainer" in content else config).description(given)


def _file(source: Source) -> str | None:
    if source.file not in (None, CONFIG):
        return source.file if source.file == WEIGHTS or _FILE.fullmatch(source.file) else None
    if source.folder.has(WEIGHTS):
        return WEIGHTS
    found = [name for name in source.folder.names() if _FILE.fullmatch(name)]
    return found[0] if len(found) == 1 else None


class _Reader:
    """One crosscoder while it is being described."""

    def __init__(self, name: str, file: TensorFile, prefix: str, config: Settings) -> None:
        self.name, self.file, self.prefix, self.config = name, file, prefix, config
        self.n, self.d, self.d_sae = sizes(file, prefix + "encoder.weight")

    def description(self, given: Given) -> Description:
        """Raises `FormatError` for what cannot be evaluated one token at a time, or not as one activation a feature."""
        is_batchtopk = self.prefix + "threshold" in self.file.shapes
        self._check_config()
        normalisation = self._normalisation() if is_batchtopk else "NONE"
        repository = self.file.place
        layer, gemma = _LAYER.search(repository), _GEMMA.search(repository)
        hook = f"blocks.{layer[1]}.hook_resid_post" if layer else None
        models = [f"google/gemma-2-{gemma[1]}", f"google/gemma-2-{gemma[1]}-it"] if gemma else []
        cfg = make_config(
            self.file.place,
            given,
            architecture="batchtopk" if is_batchtopk else "standard",
            d_in=self.n * self.d,
            d_sae=self.d_sae,
            hook_widths=(self.d,) * self.n,
            k=self._k() if is_batchtopk else None,
            metadata={"source_format": "crosscoder_learning", **places(self.n, models, hook)},
        )
        finish = None
        if normalisation != "NONE":
            alphas = [self.config.number(f"code_normalization_alpha_{kind}") for kind in ("sae", "cc")]
            alpha_sae, alpha_cc = (
                default if alpha is None else alpha for alpha, default in zip(alphas, (1.0, 0.1), strict=True)
            )
            finish = partial(_finish, n=self.n, normalisation=normalisation, alpha_sae=alpha_sae, alpha_cc=alpha_cc)
        return Description(
            cfg,
            self._tensors(is_batchtopk),
            ignored=frozenset({self.prefix + "k", self.prefix + "code_normalization_id"}),
            finish=finish,
            encoder_needs_decoder=finish is not None,
        )

    def _tensors(self, is_batchtopk: bool) -> dict[str, Stored]:
        n, d, d_sae, name, prefix = self.n, self.d, self.d_sae, self.name, self.prefix
        stored = {
            "W_enc": Stored(name, prefix + "encoder.weight", shape=(n, d, d_sae), feature_axis=2, then=flattened),
            "b_enc": Stored(name, prefix + "encoder.bias"),
            "W_dec": Stored(name, prefix + "decoder.weight", shape=(n, d_sae, d), feature_axis=1, then=layers_joined),
            "b_dec": Stored(name, prefix + "decoder.bias", shape=(n, d), then=flattened),
        }
        return stored | ({"threshold": Stored(name, prefix + "threshold", broadcast=True)} if is_batchtopk else {})

    def _check_config(self) -> None:
        for name, found in (("activation_dim", self.d), ("dict_size", self.d_sae), ("num_layers", self.n)):
            if (said := self.config.integer(name)) is not None and said != found:
                raise FormatError(f"{self.config.place}: {name}", expected=f"{found}, the size of the tensors", got=said)
        read = self.config.integers("encoder_layers_indices")
        if read is not None and read != tuple(range(self.n)):
            expected = "an encoder of everything that is decoded"
            raise FormatError(f"{self.config.place}: encoder_layers_indices", expected=expected, got=list(read))

    def _normalisation(self) -> str:
        """What the threshold is compared with, and whether it is one."""
        key = self.prefix + "threshold"
        shape = self.file.shapes[key]
        said = self.config.text("code_normalization")
        id_key = self.prefix + "code_normalization_id"
        if said is None and self.file.shapes.get(id_key) == ():
            number = int(self.file.read(id_key))
            said = _NORMALISATIONS[number - 1] if 1 <= number <= len(_NORMALISATIONS) else str(number)
        said = (said or "CROSSCODER").rpartition(".")[2].upper()
        if said not in _NORMALISATIONS[:4] or shape not in ((), (1,)):
            advice = "A decoupled crosscoder's features fire at each hook by themselves, so that they have no one activation"
            expected = f"one of {', '.join(_NORMALISATIONS[:4])}, and one threshold"
            raise FormatError(f"{self.file.place}: code_normalization", expected=expected, got=said, advice=advice)
        if not float(self.file.read(key).reshape(())) >= 0:
            advice = "What is kept without a threshold depends on the batch"
            raise FormatError(f"{self.file.place}: threshold", expected="the one set in training", got="none", advice=advice)
        return said

    def _k(self) -> int | None:
        k = self.config.integer("k")
        key = self.prefix + "k"
        return int(self.file.read(key)) if k is None and self.file.shapes.get(key) == () else k


def _finish(tensors: Tensors, n: int, normalisation: str, alpha_sae: float, alpha_cc: float) -> Tensors:
    """Compare f with threshold / c; a feature that writes nothing never fires."""
    norms = norms_by_part(tensors["W_dec"], n)
    whole, summed = norms.square().sum(1).sqrt(), norms.sum(1)
    c = {"CROSSCODER": summed, "SAE": whole, "MIXED": alpha_sae * whole + alpha_cc * summed}[normalisation]
    threshold = tensors["threshold"].to(c)
    return tensors | {"threshold": torch.where(c > 0, threshold / c, torch.inf)}
