"""One published SAE: what is known of it without fetching anything."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FILES = {
    "connor_rob": ("{path}", "{stem}_cfg.json"),
    "dictionary_learning": ("{path}/config.json", "{path}/ae.pt"),
    "gemma_scope": ("{path}/params.npz",),
    "gemma_scope_2": ("{path}/config.json", "{path}/params.safetensors"),
    "llama_scope": ("{path}/hyperparams.json", "{path}/checkpoints/final.safetensors"),
    "openmoss": ("{path}/config.json", "{path}/sae_weights.safetensors"),
    "circuit_tracer_clt": ("W_enc_{path}.safetensors", "W_dec_{path}.safetensors", "config.yaml"),
    "circuit_tracer_plt": ("{path}", "config.yaml"),
    "saelens": ("{path}/cfg.json", "{path}/sae_weights.safetensors"),
    "temporal": ("{path}/conf.yaml", "{path}/latest_ckpt.safetensors"),
}
"""Files of an SAE by its format; in any other it is one file."""

WITHOUT_HOOK = ("deepseek", "goodfire", "qwen_scope")
"""Formats whose files and paths do not say where the SAE belongs."""


@dataclass(frozen=True)
class Entry:
    """One published SAE."""

    release: str
    """The group it was published in, by SAELens's name: `gpt2-small-res-jb`."""
    sae_id: str
    """Its name in the release: `blocks.8.hook_resid_pre`."""
    repo: str
    """Repository on the hub."""
    path: str
    """Its folder or file there."""
    format: str
    """Which of `sae_fast.formats` reads it."""
    model: str
    """The language model, by SAELens's name."""
    hook_name: str | None = None
    """Where it reads, if that is known without its files."""
    layer: int | None = None
    d_sae: int | None = None
    """Number of features, if that is known without its files."""
    l0: float | None = None
    """Mean number of active features per token, as published."""
    norm_scaling_factor: float | None = None
    """The factor by which training scaled its inputs, where it is not in the files."""
    variance_explained: float | None = None
    """As published."""
    neuronpedia_id: str | None = None
    """Its dashboards on Neuronpedia: `gpt2-small/8-res-jb`."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """What is known better than its files say: model_from_pretrained_kwargs, normalize_activations, …"""

    @property
    def name(self) -> str:
        """What `sae_fast.load` takes: release and name in it."""
        return f"{self.release}/{self.sae_id}"

    @property
    def source(self) -> str:
        """Where it lies: `hf://owner/repo/path`."""
        path = self.files[0] if self.format == "circuit_tracer_clt" else self.path
        return f"hf://{self.repo}/{path}"

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of its files in the repository, as its format has them."""
        stem = self.path.rpartition(".")[0]
        return tuple(name.format(path=self.path, stem=stem) for name in FILES.get(self.format, ("{path}",)))

    @property
    def metadata(self) -> dict[str, object]:
        """What a reader of its files is told: overrides, and what the files do not say."""
        told: dict[str, object] = {"catalogue_name": self.name, "neuronpedia_id": self.neuronpedia_id, "l0": self.l0}
        told["layer"] = self.layer
        if self.format in WITHOUT_HOOK:
            told |= {"hook_name": self.hook_name, "model_name": self.model}
        if found := re.search(r"-L0_(\d+)$", self.repo):
            told["k"] = int(found[1])
        return {key: value for key, value in {**told, **self.overrides}.items() if value is not None}
