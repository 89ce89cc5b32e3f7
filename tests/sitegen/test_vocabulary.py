"""Token ids to text and bytes, for every kind of tokenizer."""

import time
from pathlib import Path
from typing import Any

import pytest
import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sitegen.errors import CacheError
from sitegen.vocabulary import Vocabulary, byte_alphabet

TEXTS = tiny.texts()


def test_byte_level_tokens_join_to_the_text() -> None:
    """The bytes of a byte-level tokenizer's ids give the text, with characters split over tokens."""
    tokenizer = tiny.byte_level_tokenizer()
    vocabulary = Vocabulary.from_tokenizer(tokenizer, len(tokenizer))

    for text in TEXTS:
        assert vocabulary.text(tokenizer.encode(text, add_special_tokens=False)) == text


def test_metaspace_tokens_join_to_the_text_behind_one_space() -> None:
    """`▁` is a space and `<0x0A>` a byte; the space that the tokenizer puts before a text stays visible."""
    tokenizer = tiny.metaspace_tokenizer()
    vocabulary = Vocabulary.from_tokenizer(tokenizer, len(tokenizer))

    for text in TEXTS:
        joined = vocabulary.text(tokenizer.encode(text, add_special_tokens=False))
        assert joined.removeprefix(" ") == text.removeprefix(" ")
    assert vocabulary.bytes_of(tokenizer.convert_tokens_to_ids("<0x0A>")) == b"\n"
    assert vocabulary.entries[tokenizer.convert_tokens_to_ids("<0xE2>")] == {"b": "e2"}


def test_bytes_that_are_no_text_alone_are_entries_in_hex() -> None:
    """An entry is text, or hex where the bytes are part of a character; both give the piece back."""
    tokenizer = tiny.byte_level_tokenizer()
    vocabulary = Vocabulary.from_tokenizer(tokenizer, len(tokenizer))

    for token_id, entry in enumerate(vocabulary.entries):
        piece = entry.encode() if isinstance(entry, str) else bytes.fromhex(entry["b"])
        assert piece == vocabulary.bytes_of(token_id)
    assert {"b": "ff"} in vocabulary.entries


def test_special_and_padded_ids_have_a_name() -> None:
    """Special tokens are literal, ids that the tokenizer lacks are unused."""
    tokenizer = tiny.byte_level_tokenizer()
    vocabulary = Vocabulary.from_tokenizer(tokenizer, len(tokenizer) + 5)

    assert len(vocabulary) == len(tokenizer) + 5
    assert vocabulary.entries[tokenizer.bos_token_id] == tiny.GPT2_BOS
    assert vocabulary.entries[-1] == f"<unused {len(tokenizer) + 4}>"
    assert tiny.metaspace_tokenizer().bos_token == Vocabulary.from_tokenizer(tiny.metaspace_tokenizer(), 1).entries[2]


def test_the_tokenizer_may_be_larger_than_the_model() -> None:
    """Ids at and behind d_vocab that the tokenizer has are kept: the corpus may hold them."""
    tokenizer = tiny.byte_level_tokenizer()

    assert len(Vocabulary.from_tokenizer(tokenizer, 10)) == len(tokenizer)


def test_word_piece_tokens_carry_their_space() -> None:
    """A WordPiece token begins with a space unless `##` joins it to the one before."""
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2, "now": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(prefix="##")
    vocabulary = Vocabulary.from_tokenizer(_fast(backend), 4)

    assert vocabulary.text(backend.encode("playing now").ids) == " playing now"


def test_a_word_end_suffix_is_a_space() -> None:
    """`</w>` ends a word."""
    backend = Tokenizer(models.BPE({"a": 0, "b</w>": 1, "ab</w>": 2}, [("a", "b</w>")], end_of_word_suffix="</w>"))
    backend.decoder = decoders.BPEDecoder(suffix="</w>")

    assert Vocabulary.from_tokenizer(_fast(backend), 3).entries == ["a", "b ", "ab "]


def test_words_without_a_decoder_are_joined_with_spaces() -> None:
    """A word-level tokenizer without a decoder joins with spaces, as its own decode does."""
    backend = Tokenizer(models.WordLevel({"a": 0, "bee": 1}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()

    assert Vocabulary.from_tokenizer(_fast(backend), 2).text([0, 1, 1]) == " a bee bee"


def test_added_tokens_that_hold_spaces_are_plain_text() -> None:
    """A byte-level tokenizer's added token of spaces is those spaces."""
    tokenizer = tiny.byte_level_tokenizer()
    tokenizer.add_tokens(["     "])

    assert Vocabulary.from_tokenizer(tokenizer, 1).entries[-1] == "     "


def test_the_byte_alphabet_is_that_of_the_tokenizers_library() -> None:
    """All 256 bytes have a character, and the library's alphabet holds the same."""
    alphabet = byte_alphabet()

    assert sorted(alphabet.values()) == list(range(256))
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())


def test_a_vocabulary_of_256_000_is_read_in_seconds(tmp_path: Path) -> None:
    """Large vocabularies are read, written and read again quickly, the last id included."""
    tokens = {f"▁w{token_id}": token_id for token_id in range(256_000)}
    backend = Tokenizer(models.WordLevel(tokens, unk_token="▁w0"))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = _fast(backend)
    began = time.process_time()

    vocabulary = Vocabulary.from_tokenizer(tokenizer, 256_000)
    vocabulary.to_file(tmp_path / "vocabulary.json")

    assert Vocabulary.from_file(tmp_path / "vocabulary.json") == vocabulary
    assert vocabulary.text([255_999]) == " w255999"
    assert time.process_time() - began < 20


def test_a_file_gives_the_vocabulary_back(tmp_path: Path) -> None:
    """What is written is read back, bytes in hex included; lone surrogates become bytes."""
    vocabulary = Vocabulary(("é".encode(), b"\xe2\x94", "\ud800".encode(errors="surrogatepass"), b""))
    vocabulary.to_file(tmp_path / "vocabulary.json")

    assert Vocabulary.from_file(tmp_path / "vocabulary.json") == vocabulary
    assert vocabulary.entries == ["é", {"b": "e294"}, {"b": "eda080"}, ""]


@pytest.mark.parametrize("content", ["", "{", "[1]", '[{"c": "00"}]', '[{"b": "zz"}]', "{}x", "3"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, content: str) -> None:
    """Anything but a list of texts and hex is a CacheError that names the file."""
    (tmp_path / "vocabulary.json").write_text(content)

    with pytest.raises(CacheError, match=r"vocabulary\.json"):
        Vocabulary.from_file(tmp_path / "vocabulary.json")


def test_incomplete_characters_become_the_replacement_character() -> None:
    """A text cut inside a character shows U+FFFD there, and the character where it is whole."""
    vocabulary = Vocabulary((b"\xe2", b"\x94\x80"))

    assert vocabulary.text([0]) == "�"
    assert vocabulary.text([0, 1]) == "─"


def _fast(backend: Tokenizer) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=backend)
