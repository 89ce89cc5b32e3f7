"""A corpus to a TokenDataset: documents tokenised in batches, one BOS for each context, special tokens told apart."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_fast.corpus.chat import encode_chat
from sae_fast.corpus.corpus import Corpus, Document
from sae_fast.corpus.tokens import COUNTED, UNCOUNTED, TokenDataset, TokenDatasetWriter
from sae_fast.errors import CorpusError, MismatchError
from sae_fast.progress import Advance

BATCH_DOCUMENTS = 64


@dataclass(frozen=True)
class Tokeniser:
    """How documents become ids: one tokenizer, with what is counted."""

    tokenizer: Any
    """a Hugging Face tokenizer"""
    context_length: int = 128
    prefix: int | None = None
    """id of the BOS that begins every context; None for none"""
    count_special: bool = False
    """count BOS, EOS, PAD and template tokens"""
    roles: tuple[str, ...] = ()
    """roles whose chat messages are counted; none given: all"""

    def encode(self, documents: Sequence[Document]) -> Iterator[tuple[NDArray[np.int32], NDArray[np.uint8]]]:
        """Yield `(ids [n], kind [n])` of each document, without the BOS that begins contexts."""
        texts = [document.content for document in documents if isinstance(document.content, str)]
        # Padding, truncation and BOS are ours: the ids of a text must not depend on how the tokenizer was saved.
        encoded = (
            self.tokenizer(texts, add_special_tokens=False, padding=False, truncation=False, verbose=False) if texts else {}
        )
        text_ids = iter(encoded["input_ids"] if texts else ())
        for document in documents:
            if isinstance(document.content, str):
                ids = np.array(next(text_ids), dtype=np.int32)
                is_content = np.ones(len(ids), dtype=bool)
            else:
                ids, is_content = encode_chat(self.tokenizer, document.content, self.roles, document.name)
            if self.prefix is not None and len(ids) and ids[0] == self.prefix:
                ids, is_content = ids[1:], is_content[1:]
            is_counted = is_content & ~np.isin(ids, self._special) | self.count_special
            yield ids, np.where(is_counted, COUNTED, UNCOUNTED).astype(np.uint8)

    @property
    def _special(self) -> list[int]:
        names = ("bos", "eos", "pad", "cls", "sep")
        ids = (getattr(self.tokenizer, f"{name}_token_id", None) for name in names)
        return [token for token in ids if token is not None]

    @property
    def pad(self) -> int:
        """An id to fill contexts up with; the LM's attention mask hides it."""
        return next(iter(self._special), 0) if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id


def choose_prefix(
    tokenizer: Any, prepend_bos: bool | str, trained_with: Iterable[bool | None] = (), is_chat: bool = False
) -> int | None:
    """Return the id of the BOS that begins every context, or None for none.

    `"auto"`: as the chat template does, where the corpus is chats and the template writes a BOS; else as the SAEs were trained
    (`trained_with`: `prepend_bos` of each SAE's metadata, None where unknown); else as the tokenizer does. A tokenizer without
    BOS uses its EOS in its place, as TransformerLens does. MismatchError where the SAEs disagree or there is neither.
    """
    if prepend_bos == "auto":
        known = {value for value in trained_with if value is not None}
        if is_chat and _template_writes_bos(tokenizer):
            wanted = True
        elif len(known) > 1:
            raise MismatchError(
                "Some of the SAEs were trained with a BOS at the start of each context and some without, and all of them read "
                "the same contexts here. Say which with [corpus] prepend_bos = true or false, or build two sites."
            )
        else:
            wanted = known.pop() if known else _tokenizer_adds_bos(tokenizer)
    else:
        wanted = bool(prepend_bos)
    if not wanted:
        return None
    token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if token is None:
        raise MismatchError(
            "A BOS is wanted at the start of each context, and the tokenizer has neither a BOS nor an EOS token. "
            "Set [corpus] prepend_bos = false."
        )
    return int(token)


def write_tokens(
    folder: Path,
    corpus: Corpus,
    tokeniser: Tokeniser,
    max_tokens: int | None = None,
    advance: Advance | None = None,
    **made_from: Any,
) -> TokenDataset:
    """Tokenise the corpus into a TokenDataset at `folder`; `advance` is called with the number of documents read.

    Raises CorpusError where not one counted token comes out.
    """
    prefix_kind = COUNTED if tokeniser.count_special else UNCOUNTED
    with TokenDatasetWriter(folder, tokeniser.context_length, tokeniser.prefix, tokeniser.pad) as writer:
        for documents in _batches(corpus, BATCH_DOCUMENTS):
            for document, (ids, kind) in zip(documents, tokeniser.encode(documents), strict=True):
                room = None if max_tokens is None else max_tokens - writer.n_counted
                writer.add(document.name, ids, kind, prefix_kind, room)
                if max_tokens is not None and writer.n_counted >= max_tokens:
                    break
            if advance is not None:
                advance(len(documents))
            if max_tokens is not None and writer.n_counted >= max_tokens:
                break
        if writer.n_counted == 0:
            raise CorpusError(_nothing_left(corpus, writer))
        return writer.finish(
            **made_from, corpus=corpus.name, documents_skipped=corpus.n_skipped, documents_replaced=corpus.n_replaced
        )


def _nothing_left(corpus: Corpus, writer: TokenDatasetWriter) -> str:
    source = corpus.options.source
    if writer.n_contexts:
        roles = f" (roles: {', '.join(corpus.options.roles)})" if corpus.options.roles else ""
        return (
            f"The corpus {source} holds tokens, but none that is counted{roles}: choose other [corpus] roles or count_special."
        )
    skipped = f", and {corpus.n_skipped} left out for text that cannot be encoded" if corpus.n_skipped else ""
    return f"The corpus {source} is empty: no document with text in it{skipped}."


def _batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, size)):
        yield batch


def _tokenizer_adds_bos(tokenizer: Any) -> bool:
    ids = tokenizer("a", verbose=False)["input_ids"]
    return tokenizer.bos_token_id is not None and bool(ids) and ids[0] == tokenizer.bos_token_id


def _template_writes_bos(tokenizer: Any) -> bool:
    if not getattr(tokenizer, "chat_template", None) or tokenizer.bos_token is None:
        return False
    try:
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    except Exception:
        # The first chat of the corpus will say what the template objects to.
        return False
    return rendered.startswith(tokenizer.bos_token)
