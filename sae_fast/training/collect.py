"""Tokens and activations of a run, made or taken up again."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sae_fast.activations import write_store
from sae_fast.activations.store import split_documents
from sae_fast.corpus import corpus_fingerprint, open_corpus
from sae_fast.corpus.tokenise import Tokeniser, choose_prefix, write_tokens
from sae_fast.corpus.tokens import TokenDataset
from sae_fast.errors import MismatchError
from sae_fast.files import fingerprint, source_fingerprint
from sae_fast.lm.interface import LanguageModel
from sae_fast.progress import step as progress_step
from sae_fast.training.config import RunConfig
from sae_fast.training.data import Activations, StoredActivations, StreamedActivations


def load_tokens(config: RunConfig, lm: LanguageModel, show_progress: bool = True) -> tuple[TokenDataset, int | None]:
    """(the dataset, id of the BOS that begins its contexts).

    Raises `MismatchError` where the folder holds the tokens of another corpus.
    """
    folder, options = Path(config.output.folder) / "tokens", config.corpus
    corpus = open_corpus(options)
    # A context's first token is an attention sink, with activations unlike all others: where there is a BOS, let that be it.
    unless_said = () if lm.tokenizer.bos_token_id is None else (True,)
    prefix = choose_prefix(lm.tokenizer, options.prepend_bos, unless_said, corpus.is_chat)
    made_from = fingerprint(
        {"corpus": corpus_fingerprint(options), "options": vars(options) | {"source": None}, "prefix": prefix}
    )
    if (folder / "dataset.json").exists():
        dataset = TokenDataset.open(folder)
        if (dataset.info or {}).get("made_from", {}).get("fingerprint") != made_from:
            raise MismatchError(
                f"{folder}: holds the tokens of another corpus, or of other options",
                advice="Name another [output] folder, or remove this one",
            )
        return dataset, prefix
    tokeniser = Tokeniser(lm.tokenizer, options.context_length, prefix, options.count_special, options.roles)
    with progress_step("tokens", corpus.n_documents or 0, "documents", enabled=show_progress) as advance:
        return write_tokens(folder, corpus, tokeniser, options.max_tokens, advance, fingerprint=made_from), prefix


def collect(
    config: RunConfig, lm: LanguageModel, dataset: TokenDataset, hooks: list[str], show_progress: bool = True
) -> tuple[Activations, NDArray[np.int64]]:
    """(activations at these hooks, contexts of the documents that are not held out)."""
    options = config.activations
    is_held = split_documents(dataset, options.held_out)[np.asarray(dataset.document)]
    contexts = np.flatnonzero(~is_held)
    if not options.on_disk:
        streamed = StreamedActivations(lm, dataset, hooks, options.held_out, options.batch_size, options.buffer_tokens)
        return streamed, contexts
    store = write_store(
        options.folder or Path(config.output.folder) / "activations",
        lm,
        dataset,
        hooks,
        options.dtype,
        options.batch_size,
        options.shard_tokens,
        model_fingerprint=source_fingerprint(config.model.source),
        show_progress=show_progress,
    )
    return StoredActivations(store, *store.split_by_document(dataset, options.held_out)), contexts
