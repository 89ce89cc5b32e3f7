"""From a corpus to a TokenDataset: contexts, BOS, kinds, offsets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sae_fast.corpus import Corpus
from sae_fast.corpus.options import CorpusOptions
from sae_fast.corpus.rows import ListRows
from sae_fast.corpus.tokenise import Tokeniser, choose_prefix, write_tokens
from sae_fast.corpus.tokens import COUNTED, PADDING, UNCOUNTED, TokenDataset, TokenDatasetWriter
from sae_fast.errors import CorpusError, MismatchError, StoreError

BYTE_LEVEL = tiny.byte_level_tokenizer()
METASPACE = tiny.metaspace_tokenizer(chat_template=tiny.CHAT_TEMPLATE)
METASPACE_BOS = METASPACE.bos_token_id


def corpus_of(documents: list[Any], column: str = "text", **options: Any) -> Corpus:
    """A corpus of documents in memory."""
    return Corpus(
        ListRows("memory", [{column: document} for document in documents]), CorpusOptions("memory", column=column, **options)
    )


def tokenise(folder: Path, documents: list[Any], tokenizer: Any, max_tokens: int | None = None, **options: Any) -> TokenDataset:
    """Tokenise documents with a context length of 16 unless told otherwise."""
    column = "text" if isinstance(documents[0], str) else "messages"
    return write_tokens(
        folder, corpus_of(documents, column), Tokeniser(tokenizer, **{"context_length": 16} | options), max_tokens
    )


@pytest.mark.parametrize("prefix", [None, METASPACE_BOS], ids=["no BOS", "BOS"])
def test_contexts_hold_the_documents_ids_in_order(tmp_path: Path, prefix: int | None) -> None:
    """Own tokens of a document's contexts, one behind the other, are its ids; each context begins with the prefix."""
    documents = tiny.texts(12)
    dataset = tokenise(tmp_path, documents, METASPACE, prefix=prefix)

    assert dataset.n_prefix == (0 if prefix is None else 1)
    for number, document in enumerate(documents):
        rows = dataset.document == number
        own = np.asarray(dataset.kind)[rows][:, dataset.n_prefix :] != PADDING
        assert (
            METASPACE(document, add_special_tokens=False)["input_ids"]
            == dataset.tokens[rows][:, dataset.n_prefix :][own].tolist()
        )
        assert (np.arange(rows.sum()) * (16 - dataset.n_prefix)).tolist() == dataset.start[rows].tolist()
    if prefix is not None:
        assert (dataset.tokens == prefix).sum(axis=1).tolist() == [1] * dataset.n_contexts
        assert set(dataset.kind[:, 0].tolist()) == {UNCOUNTED}


def test_padding_is_on_the_right_and_numbers_are_those_of_the_arrays(tmp_path: Path) -> None:
    """No token follows padding; counts in dataset.json are those of the kinds."""
    dataset = tokenise(tmp_path, tiny.texts(12), METASPACE, prefix=METASPACE_BOS)
    is_padding = np.asarray(dataset.kind) == PADDING

    assert (np.diff(is_padding.astype(int), axis=1) >= 0).all()
    assert is_padding.any()
    assert dataset.info is not None
    assert dataset.info["n_counted"] == dataset.n_counted == (np.asarray(dataset.kind) == COUNTED).sum()
    assert dataset.info["n_tokens"] == (~is_padding).sum()
    assert (dataset.tokens.dtype, dataset.kind.dtype, dataset.document.dtype, dataset.start.dtype) == (
        np.int32,
        np.uint8,
        np.int32,
        np.int32,
    )


def test_the_offset_of_a_position_is_that_in_the_document(tmp_path: Path) -> None:
    """`document_offset` counts the document's own tokens; a leading BOS has -1."""
    documents = tiny.texts(8)
    dataset = tokenise(tmp_path, documents, METASPACE, prefix=METASPACE_BOS)
    positions = np.flatnonzero(np.asarray(dataset.kind) == COUNTED)
    offsets = dataset.document_offset(positions)
    ids = [METASPACE(document, add_special_tokens=False)["input_ids"] for document in documents]

    for position, offset in zip(positions, offsets, strict=True):
        assert ids[dataset.document[position // 16]][offset] == dataset.tokens.reshape(-1)[position]
    assert dataset.document_offset(np.array([0]))[0] == -1


def test_saved_padding_and_truncation_do_not_matter(tmp_path: Path) -> None:
    """A tokenizer that pads left and truncates gives the dataset of one that does neither."""
    plain = tokenise(tmp_path / "plain", tiny.texts(6), tiny.metaspace_tokenizer(), prefix=2)
    other = tiny.metaspace_tokenizer()
    other.padding_side, other.truncation_side, other.model_max_length = "left", "left", 8
    left = tokenise(tmp_path / "left", tiny.texts(6), other, prefix=2)

    np.testing.assert_array_equal(plain.tokens, left.tokens)
    np.testing.assert_array_equal(plain.kind, left.kind)


def test_special_tokens_in_the_text_are_not_counted(tmp_path: Path) -> None:
    """BOS and EOS written in a document are read by the LM and not counted, unless asked for."""
    text = f"one {tiny.GPT2_BOS} two"
    dataset = tokenise(tmp_path / "a", [text], BYTE_LEVEL)
    counted = tokenise(tmp_path / "b", [text], BYTE_LEVEL, prefix=BYTE_LEVEL.bos_token_id, count_special=True)

    special = np.asarray(dataset.tokens) == BYTE_LEVEL.bos_token_id
    assert (np.asarray(dataset.kind)[special & (np.asarray(dataset.kind) != PADDING)] == UNCOUNTED).all()
    assert COUNTED in dataset.kind
    assert set(np.unique(counted.kind)) <= {PADDING, COUNTED}


def test_a_document_that_begins_with_bos_gets_no_second_one(tmp_path: Path) -> None:
    """Exactly one BOS begins each context."""
    dataset = tokenise(tmp_path, [tiny.GPT2_BOS + "one two"], BYTE_LEVEL, prefix=BYTE_LEVEL.bos_token_id)

    assert (dataset.tokens[0] == BYTE_LEVEL.bos_token_id).tolist()[:2] == [True, False]


def test_max_tokens_stops_at_the_end_of_a_context(tmp_path: Path) -> None:
    """The dataset is the beginning of the whole one and reaches the limit in its last context."""
    whole = tokenise(tmp_path / "whole", tiny.texts(20), METASPACE, prefix=METASPACE_BOS)
    part = tokenise(tmp_path / "part", tiny.texts(20), METASPACE, max_tokens=100, prefix=METASPACE_BOS)

    np.testing.assert_array_equal(whole.tokens[: part.n_contexts], part.tokens)
    assert 100 <= part.n_counted < 100 + 16
    assert (np.asarray(part.kind[:-1]) == COUNTED).sum() < 100
    assert len(part.documents) == part.document[-1] + 1


def test_nul_and_emoji_are_text(tmp_path: Path) -> None:
    """NUL and emoji come through tokenisation as they are."""
    text = "a\0b 👩‍👩‍👧 🇫🇷"
    dataset = tokenise(tmp_path, [text], BYTE_LEVEL, context_length=64)

    assert BYTE_LEVEL.decode(dataset.tokens[0][dataset.kind[0] == COUNTED]) == text


def test_a_chat_has_the_ids_of_its_template_and_one_bos(tmp_path: Path) -> None:
    """Ids are those of apply_chat_template; only what people wrote is counted."""
    dataset = tokenise(tmp_path, tiny.conversations(), METASPACE, prefix=METASPACE_BOS, context_length=128)

    for row, messages in enumerate(tiny.conversations()):
        ids = dataset.tokens[row][dataset.kind[row] != PADDING].tolist()
        assert METASPACE.apply_chat_template(messages)["input_ids"] == ids
        assert ids.count(METASPACE_BOS) == 1
        counted = METASPACE.decode(dataset.tokens[row][dataset.kind[row] == COUNTED])
        assert "".join(message["content"] for message in messages) == counted


def test_chat_contexts_are_cut_with_one_bos_each(tmp_path: Path) -> None:
    """The second context of a chat begins with a BOS as well, and own tokens are still the template's."""
    messages = tiny.conversations()[3]
    dataset = tokenise(tmp_path, [messages], METASPACE, prefix=METASPACE_BOS, context_length=16)

    own = np.asarray(dataset.tokens)[:, 1:][np.asarray(dataset.kind)[:, 1:] != PADDING]
    assert METASPACE.apply_chat_template(messages)["input_ids"] == [METASPACE_BOS, *own.tolist()]
    assert dataset.n_contexts > 1
    assert (dataset.tokens[:, 0] == METASPACE_BOS).all()


def test_roles_choose_what_is_counted_not_what_is_read(tmp_path: Path) -> None:
    """With roles, the ids stay and only the messages of these roles are counted."""
    messages = tiny.conversations()[3]
    everything = tokenise(tmp_path / "all", [messages], METASPACE, context_length=128)
    assistant = tokenise(tmp_path / "assistant", [messages], METASPACE, context_length=128, roles=("assistant",))

    np.testing.assert_array_equal(everything.tokens, assistant.tokens)
    assert METASPACE.decode(assistant.tokens[0][assistant.kind[0] == COUNTED]) == "1, 2, 31, 2, 3"


def test_content_that_equals_its_role_or_repeats_is_found(tmp_path: Path) -> None:
    """A message that says "user", an empty one and a repeated one do not mislead the search for content."""
    messages = [
        {"role": "user", "content": "user"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": " padded "},
        {"role": "assistant", "content": "user"},
    ]
    dataset = tokenise(tmp_path, [messages], METASPACE, context_length=128)

    assert METASPACE.decode(dataset.tokens[0][dataset.kind[0] == COUNTED]).replace(" ", "") == "userpaddeduser"


def test_the_last_of_256_000_ids_survives(tmp_path: Path) -> None:
    """Ids are kept in 32 bits: the last of a vocabulary of 256,000 is what it was."""
    vocabulary = {f"w{index}": index for index in range(256_000)}
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, unk_token="w0")
    dataset = tokenise(tmp_path, ["w255999 w65536 w32768 w1"], tokenizer)

    assert dataset.tokens[0, :4].tolist() == [255_999, 65_536, 32_768, 1]


@pytest.mark.parametrize(
    ("tokenizer", "option", "trained_with", "is_chat", "expected"),
    [
        (METASPACE, "auto", [True, None], False, METASPACE_BOS),
        (METASPACE, "auto", [False], False, None),
        (METASPACE, "auto", [], False, METASPACE_BOS),
        (BYTE_LEVEL, "auto", [None], False, None),
        (METASPACE, "auto", [False], True, METASPACE_BOS),
        (METASPACE, False, [True], False, None),
        (BYTE_LEVEL, True, [False], False, BYTE_LEVEL.bos_token_id),
    ],
)
def test_bos_follows_release_then_metadata_then_tokenizer(
    tokenizer: Any, option: bool | str, trained_with: list[bool | None], is_chat: bool, expected: int | None
) -> None:
    """The release decides; else the chat template, the SAEs, the tokenizer, in this order."""
    assert expected == choose_prefix(tokenizer, option, trained_with, is_chat)


def test_saes_that_disagree_about_bos_need_a_choice() -> None:
    """One SAE with and one without BOS is an error that names the key to set."""
    with pytest.raises(MismatchError, match="prepend_bos"):
        choose_prefix(METASPACE, "auto", [True, False])


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: tokenise(folder, ["", tiny.GPT2_BOS], BYTE_LEVEL),
        lambda folder: tokenise(folder, ["", ""], BYTE_LEVEL),
        lambda folder: tokenise(folder, tiny.conversations(), METASPACE, roles=("nobody",)),
    ],
    ids=["only special tokens", "only empty documents", "no message of the roles"],
)
def test_a_corpus_without_counted_tokens_is_refused(tmp_path: Path, make: Callable[[Path], TokenDataset]) -> None:
    """Where nothing is left to count there is an error, and no dataset that looks finished."""
    with pytest.raises(CorpusError):
        make(tmp_path / "tokens")
    with pytest.raises(StoreError):
        TokenDataset.open(tmp_path / "tokens")


def test_a_chat_without_template_is_refused(tmp_path: Path) -> None:
    """Messages need a tokenizer with a chat template."""
    with pytest.raises(CorpusError, match="chat template"):
        tokenise(tmp_path, tiny.conversations(), tiny.metaspace_tokenizer())


def test_an_unfinished_dataset_is_not_opened(tmp_path: Path) -> None:
    """Arrays without dataset.json are no dataset."""
    with TokenDatasetWriter(tmp_path, 8) as writer:
        writer.add("a", np.arange(20, dtype=np.int32), np.full(20, COUNTED, dtype=np.uint8))
    with pytest.raises(StoreError, match=r"dataset\.json"):
        TokenDataset.open(tmp_path)
