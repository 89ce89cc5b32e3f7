"""Text from anywhere: the standard library, files, folders, datasets of a hub; plain or as chat messages."""

from sae_fast.corpus.corpus import Corpus, Document, Message, corpus_fingerprint, open_corpus

__all__ = ["Corpus", "Document", "Message", "corpus_fingerprint", "open_corpus"]
