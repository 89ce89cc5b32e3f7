"""What a corpus is and how it becomes contexts of tokens: the `[corpus]` table of every configuration file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sae_fast.tables import at_least

STANDARD_LIBRARY = "standard-library"


@dataclass(frozen=True)
class CorpusOptions:
    """`[corpus]`: the text, and how it becomes contexts of tokens."""

    source: str
    """`standard-library`, a file, a folder, or the name of a dataset on the hub"""
    name: str | None = None
    """configuration of a hub dataset"""
    split: str | None = None
    """split of a dataset (default `train`); of the standard library `all`, `train` or `held_out` (default `all`)"""
    column: str = "text"
    """column of the text, or of the chat messages"""
    kind: Literal["auto", "text", "messages"] = "auto"
    """whether the column holds text or chat messages; `auto` looks, and takes a `messages` column where `column` is missing"""
    streaming: bool = False
    """read a hub dataset as it arrives instead of downloading it whole; give `max_tokens` with it"""
    shuffle: bool = False
    """read the documents in a random order"""
    seed: int = 0
    """of that order"""
    context_length: int = 128
    """tokens of a context, BOS included"""
    max_tokens: int | None = None
    """stop at the end of the context in which this many counted tokens are reached; default: the whole corpus"""
    prepend_bos: bool | Literal["auto"] = "auto"
    """one BOS at the start of each context: as the SAEs' metadata say, else as the tokenizer does"""
    count_special: bool = False
    """count BOS, EOS and template tokens in the facts"""
    roles: tuple[str, ...] = ()
    """roles whose messages are counted, such as `["assistant"]`; default: all. The LM reads every message all the same"""
    on_bad_text: Literal["error", "replace", "skip"] = "error"
    """what to do with text that holds lone surrogates: stop, put U+FFFD in their place, or leave the document out"""

    def __post_init__(self) -> None:
        at_least("[corpus]", "context_length", self.context_length, 2)
        at_least("[corpus]", "max_tokens", self.max_tokens, 1)


def local_path(source: str) -> Path | None:
    """Return `source` as a path where it names something on this disk, else None (a name on the hub)."""
    path = Path(source).expanduser()
    return path if path.exists() else None
