"""Language models: activations at hooks, edits at hooks, logits, SAEs in the pass, generation.

    lm = sae_fast.lm.load("folder or hub name", device="cpu", dtype="float32")
    acts = lm.activations(token_ids, ["blocks.8.hook_resid_post"])
    logits = lm.logits(token_ids, edits={"blocks.8.hook_resid_post": lambda x: 0.5 * x})
    run = lm.run_with_saes(token_ids, sae, edits=FeatureEdit(4811, "clamp", 8.0))
    text = lm.generate("The weather", 20, saes=sae, edits=FeatureEdit(4811, "add", 30.0)).texts

A hook is named in TransformerLens style (`sae_fast.lm.families` says what each name means), or is the path of any module with
`.input` or `.output` (`transformer.h.8.mlp.output`). Backends are imported when asked for. Encoders, vision towers and other
PyTorch modules: `load_module` and `wrap`.
"""

import importlib
from pathlib import Path
from typing import Any

import torch

from sae_fast.errors import ArgumentError
from sae_fast.lm.feature_edits import Condition, FeatureEdit
from sae_fast.lm.generation import Generation
from sae_fast.lm.interface import Edit, LanguageModel, SaeRun, Unembed
from sae_fast.lm.module import HookedModule, ModuleRun
from sae_fast.lm.places import sae_input
from sae_fast.lm.sae_cache import SaeCache

__all__ = [
    "BACKENDS",
    "Condition",
    "Edit",
    "FeatureEdit",
    "Generation",
    "HookedModule",
    "LanguageModel",
    "ModuleRun",
    "SaeCache",
    "SaeRun",
    "Unembed",
    "load",
    "load_module",
    "sae_input",
    "wrap",
]

BACKENDS = ("transformers", "transformer_lens", "nnsight")
"""Names that `load` knows."""


def load(
    source: str | Path,
    backend: str = "transformers",
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    **arguments: Any,
) -> LanguageModel:
    """Load a causal LM and its tokenizer; its weights are frozen.

    Args:
        source: a local folder, or a name on the Hugging Face hub.
        backend: who runs it; one of `BACKENDS`.
        device: where it runs. Ignored where `device_map` is given.
        dtype: of weights and activations, as a name (`"bfloat16"`) or a torch dtype; None keeps the checkpoint's.
        **arguments: passed to `from_pretrained` as they are (`device_map`, `revision`, `attn_implementation`,
            `quantization_config`, …). `remote=True` with nnsight: its servers run the model.

    Raises:
        ModelNotFoundError: there is no model at `source`.
        FormatError: there is, and its files do not make a causal LM with a tokenizer that this backend can run.
        NonFiniteError: a weight holds NaN or infinity.
        MissingExtraError: the backend's package is not installed.
        ArgumentError: unknown backend or dtype.
    """
    if backend not in BACKENDS:
        raise ArgumentError("backend", expected=f"one of {', '.join(BACKENDS)}", got=repr(backend))
    return importlib.import_module(f"sae_fast.lm.{backend}").load(source, device, dtype, arguments)


def load_module(
    source: str | Path,
    model_class: Any = "AutoModel",
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    **arguments: Any,
) -> HookedModule:
    """Load an encoder, a vision tower, or another model that is not a causal LM; its weights are frozen.

    Args:
        source: a local folder, or a name on the Hugging Face hub.
        model_class: the name of a class of transformers (`"AutoModel"`, `"CLIPVisionModel"`, …), or a class with
            `from_pretrained`.
        device: as for `load`.
        dtype: as for `load`.
        **arguments: as for `load`.

    Raises the errors of `load`, but asks for no tokenizer.
    """
    from sae_fast.lm import checkpoint

    return HookedModule(checkpoint.load_module(source, model_class, device, dtype, dict(arguments)))


def wrap(model: Any, tokenizer: Any = None) -> LanguageModel | HookedModule:
    """The interface to a model that is there already, as it is (weight processing and requires_grad included).

    A TransformerBridge, a HookedTransformer, an nnsight model and a causal LM of transformers give a
    `LanguageModel`, any other PyTorch module a `HookedModule`. Give the `tokenizer` where the model does not hold one.
    """
    ancestors = {f"{ancestor.__module__.split('.')[0]}.{ancestor.__name__}" for ancestor in type(model).__mro__}
    if "transformer_lens.TransformerBridge" in ancestors:
        from sae_fast.lm.transformer_lens import TransformerBridgeLM

        return TransformerBridgeLM(model, tokenizer)
    if "transformer_lens.HookedTransformer" in ancestors:
        from sae_fast.lm.transformer_lens import HookedTransformerLM

        return HookedTransformerLM(model, tokenizer)
    if ancestors & {"nnsight.TransformersModel", "nnsight.LanguageModel"}:
        from sae_fast.lm.nnsight import NnsightLM

        return NnsightLM(model, tokenizer)
    if not isinstance(model, torch.nn.Module):
        raise ArgumentError("model", expected="a PyTorch module or a model of a backend", got=type(model).__name__)
    if _is_causal_lm(model):
        from sae_fast.lm.transformers import TransformersLM

        return TransformersLM(model, tokenizer)
    return HookedModule(model)


def _is_causal_lm(model: Any) -> bool:
    generates = "transformers.PreTrainedModel" in {
        f"{ancestor.__module__.split('.')[0]}.{ancestor.__name__}" for ancestor in type(model).__mro__
    } and bool(model.can_generate())
    return generates and not model.config.is_encoder_decoder and model.get_output_embeddings() is not None
