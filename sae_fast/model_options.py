"""Which language model, and how it runs: the `[model]` table of every configuration file."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class ModelOptions:
    """The language model (LM) whose activations SAEs read."""

    source: str
    """folder of a Hugging Face model, or its name on the hub"""
    name: str | None = None
    """what it is called; default: the last part of `source`"""
    backend: str = "transformers"
    """which backend of `sae_fast.lm` runs the LM"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """precision the LM runs in"""
    device: str = "cpu"
    """where the LM and the SAEs run: `cpu`, `cuda`, `cuda:1`, …"""
    arguments: dict[str, Any] = field(default_factory=dict)
    """passed to `from_pretrained` as they are (`revision`, `attn_implementation`, `device_map`, …)"""
