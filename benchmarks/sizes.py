"""What is measured: sizes, kinds of input, and which of them belong to which set. Nothing but data."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["clustered", "normal", "low-contrast", "adverse"]

KINDS: dict[Kind, str] = {
    "clustered": "norms of features over a decade, features in clusters of four that share 70 % of their variance",
    "normal": "independent normal numbers",
    "low-contrast": "as clustered; an eighth of the tokens so small that the bias decides",
    "adverse": "features in equal pairs, so that all values are ties; of each 16 tokens one is zero and one is NaN",
}


@dataclass(frozen=True)
class Size:
    """One size of every operation."""

    name: str
    d_in: int
    d_sae: int
    tokens: int
    k: int
    l0: float
    """Mean number of features that the threshold lets fire."""
    what: str
    kind: Kind = "clustered"

    def __str__(self) -> str:
        return self.name


GPU_SIZES = (
    Size("headline", 2304, 65_536, 16_384, 64, 70, "Gemma Scope 2B, 65k"),
    Size("gpt2", 768, 24_576, 32_768, 32, 70, "GPT-2 small, res-jb"),
    Size("small", 768, 16_384, 512, 32, 70, "launch overhead"),
    Size("gpt2-131k", 768, 131_072, 16_384, 32, 70, "GPT-2 small, widest"),
    Size("gemma-16k", 2304, 16_384, 16_384, 64, 100, "Gemma Scope 2B, 16k"),
    Size("gemma-9b", 3584, 131_072, 8_192, 64, 70, "Gemma Scope 9B, 131k"),
    Size("llama", 4096, 131_072, 16_384, 64, 70, "Llama Scope 8B, 131k"),
    Size("llama-k192", 4096, 131_072, 16_384, 192, 192, "Llama 8B at high L0"),
    Size("headline-k256", 2304, 65_536, 16_384, 256, 256, "k beyond the usual"),
    Size("headline-normal", 2304, 65_536, 16_384, 64, 70, "kinds of input", "normal"),
    Size("headline-low-contrast", 2304, 65_536, 16_384, 64, 70, "kinds of input", "low-contrast"),
    Size("headline-adverse", 2304, 65_536, 16_384, 64, 70, "kinds of input", "adverse"),
    Size("million", 4096, 1_048_576, 4_096, 64, 70, "memory: the dense matrix takes 17 GB"),
)
"""In the order in which they are measured: what matters most comes first, should time run out."""

CPU_SIZES = (
    Size("demo", 256, 4_096, 4_096, 32, 35, "the demo's SAEs"),
    Size("gpt2", 768, 24_576, 1_024, 32, 70, "GPT-2 small, res-jb"),
    Size("gemma-16k", 2304, 16_384, 256, 64, 100, "Gemma Scope 2B, 16k"),
    Size("gpt2-low-contrast", 768, 24_576, 1_024, 32, 70, "kinds of input", "low-contrast"),
    Size("gpt2-adverse", 768, 24_576, 1_024, 32, 70, "kinds of input", "adverse"),
)

GPU_TRAINING = (
    Size("train-65k", 2304, 65_536, 4_096, 64, 64, "Gemma 2B, 65k, a usual batch of training"),
    Size("train-gpt2", 768, 24_576, 4_096, 32, 32, "GPT-2 small, a usual batch of training"),
)
"""Of which steps of training are timed."""

CPU_TRAINING = (Size("train-8k", 256, 8_192, 4_096, 32, 32, "a small LM, a usual batch of training"),)

PEER_SIZE = Size("gpt2", 768, 24_576, 4_096, 32, 70, "GPT-2 small, res-jb")
"""At which encode and decode are compared with installed peers."""

COMPILED = ("headline", "gpt2")
"""Sizes at which contenders also run under torch.compile: each compilation takes seconds."""
