"""WordPiece as BERT's uncased models read text (Devlin et al., NAACL 2019): lower case, without accents."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from dyzoo.errors import CheckpointError
from dyzoo.files import read_regular

VOCABULARY = Path(__file__).with_name("bert-base-uncased-vocab.txt")
"""The 30,522 pieces of bert-base-uncased; `VOCABULARY_LICENSE.txt` beside it."""
VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"

CLS, SEP, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"
_LONGEST_WORD = 100  # characters; a longer one is unknown
_MAX_VOCABULARY_BYTES = 1 << 20
_IDEOGRAPHS = (  # each is a word
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),  # as in `tokenizers`; the block begins at 0x2B820
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """Text -> indices of a vocabulary.

    The steps are those of the `tokenizers` library's BertNormalizer, BertPreTokenizer and WordPiece; special tokens
    that a text spells out, such as "[SEP]", are read as text.

    Args:
        vocabulary: piece -> index; pieces that go on within a word begin with "##".

    Raises:
        ValueError: one of the special pieces is not in it.
    """

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        if absent := [piece for piece in (CLS, SEP, UNKNOWN) if piece not in vocabulary]:
            raise ValueError(f"the vocabulary has {len(vocabulary)} pieces without {absent[0]}")
        self.vocabulary = vocabulary

    def __call__(self, text: str) -> list[int]:
        """The tokens of a text, without any around it."""
        return [self.vocabulary[piece] for word in words(text) for piece in self._pieces(word)]

    def _pieces(self, word: str) -> list[str]:
        """The longest piece that the word begins with, then the longest that goes on from there."""
        if len(word) > _LONGEST_WORD:
            return [UNKNOWN]
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self.vocabulary), None)
            if end is None:
                return [UNKNOWN]
            pieces.append(prefix + word[start:end])
            start = end
        return pieces


def words(text: str) -> Iterator[str]:
    """Lower-case words without accents; a punctuation mark is a word, and so is an ideograph."""
    spaced = "".join(_spaced(letter) for letter in text if not _is_dropped(letter))
    plain = (letter for letter in unicodedata.normalize("NFD", spaced) if unicodedata.category(letter) != "Mn")
    lower = "".join(letter.lower() for letter in plain)  # letter by letter: a sigma is the same at a word's end
    for run in lower.split():
        word = ""
        for letter in run:
            if not _is_punctuation(letter):
                word += letter
                continue
            if word:
                yield word
            yield letter
            word = ""
        if word:
            yield word


@cache
def bert_tokenizer() -> WordPiece:
    """The tokenizer of bert-base-uncased.

    Raises:
        CheckpointError: the vocabulary that belongs to the package is not there or has been changed.
    """
    try:
        content = read_regular(VOCABULARY, _MAX_VOCABULARY_BYTES)
    except OSError as error:
        raise CheckpointError(f"{VOCABULARY} cannot be read ({error.strerror}): install dyzoo again") from None
    if hashlib.sha256(content).hexdigest() != VOCABULARY_SHA256:
        raise CheckpointError(f"{VOCABULARY} is not the vocabulary of bert-base-uncased: install dyzoo again")
    pieces = content.decode("utf-8").split("\n")[:-1]
    return WordPiece({piece: index for index, piece in enumerate(pieces)})


def _is_dropped(letter: str) -> bool:
    if letter in "\t\n\r":
        return False
    return letter == "\ufffd" or unicodedata.category(letter) in ("Cc", "Cf", "Co", "Cs")


def _spaced(letter: str) -> str:
    if letter.isspace():
        return " "
    return f" {letter} " if any(first <= ord(letter) <= last for first, last in _IDEOGRAPHS) else letter


def _is_punctuation(letter: str) -> bool:
    symbol = letter.isascii() and not letter.isalnum() and letter.isprintable() and not letter.isspace()
    return symbol or unicodedata.category(letter).startswith("P")
