"""Language models: activations at hooks, edits at hooks, logits.

    lm = sae_fast.lm.load("folder or hub name", device="cpu", dtype="float32")
    acts = lm.activations(token_ids, ["blocks.8.hook_resid_post"])
    logits = lm.logits(token_ids, edits={"blocks.8.hook_resid_post": sae})

A hook is named in TransformerLens style (`sae_fast.lm.families` says what each name means), or is the path of any module with
`.input` or `.output` (`transformer.h.8.mlp.output`). Backends are imported when asked for.
"""

from pathlib import Path
from typing import Any

import torch

from sae_fast.errors import ArgumentError
from sae_fast.lm.interface import Edit, LanguageModel, Unembed

__all__ = ["BACKENDS", "Edit", "LanguageModel", "Unembed", "load"]

BACKENDS = ("transformers",)
"""Names that `load` knows."""


def load(
    source: str | Path,
    backend: str = "transformers",
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    **arguments: Any,
) -> LanguageModel:
    """Load a causal LM and its tokenizer.

    Args:
        source: a local folder, or a name on the Hugging Face hub.
        backend: who runs it; one of `BACKENDS`.
        device: where it runs. Ignored where `device_map` is given.
        dtype: of weights and activations, as a name (`"bfloat16"`) or a torch dtype; None keeps the checkpoint's.
        **arguments: passed to `from_pretrained` as they are (`device_map`, `revision`, `attn_implementation`, …).

    Raises:
        ModelNotFoundError: there is no model at `source`.
        FormatError: there is, and its files do not make a causal LM with a tokenizer that this backend can run.
        NonFiniteError: a weight holds NaN or infinity.
        MissingExtraError: the backend's package is not installed.
        ArgumentError: unknown backend or dtype.
    """
    if backend not in BACKENDS:
        raise ArgumentError("backend", expected=f"one of {', '.join(BACKENDS)}", got=repr(backend))
    from sae_fast.lm import checkpoint
    from sae_fast.lm.transformers import TransformersLM

    model, tokenizer = checkpoint.load(source, device, dtype, arguments)
    return TransformersLM(model, tokenizer)
