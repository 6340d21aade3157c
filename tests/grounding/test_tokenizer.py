"""WordPiece: words, pieces, and the vocabulary that comes with the package."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import pytest

from dyzoo.errors import CheckpointError
from dyzoo.grounding import WordPiece, bert_tokenizer, tokenizer
from dyzoo.grounding.tokenizer import words
from tests.grounding.tiny_language import PIECES, tiny_tokenizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Traffic  Light", ["traffic", "light"]),
        ("CAFÉ İstanbul Ångström", ["cafe", "istanbul", "angstrom"]),
        ("ΟΔΟΣ", ["οδοσ"]),  # letter by letter, not the final sigma of str.lower
        ("t-shirt, (blue)", ["t", "-", "shirt", ",", "(", "blue", ")"]),
        ("a$b^c~d“e”", ["a", "$", "b", "^", "c", "~", "d", "“", "e", "”"]),
        ("红血球cell", ["红", "血", "球", "cell"]),
        ("a\u00a0b\u3000c\td\ne", ["a", "b", "c", "d", "e"]),
        ("a\u200bb\x00c\ufffdd\u00ade", ["abcde"]),
        ("", []),
        (" \u0301 ", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert list(words(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red blood cells", ["red", "blood", "cell", "##s"]),
        ("unaffable café", ["un", "##aff", "##able", "cafe"]),
        ("unred cell", ["[UNK]", "cell"]),  # "##red" is no piece: the whole word is unknown
        ("s", ["[UNK]"]),
        ("cell" + "s" * 96, ["cell", *["##s"] * 96]),
        ("cell" + "s" * 97, ["[UNK]"]),
        ("[SEP] cell", ["[UNK]", "[UNK]", "[UNK]", "cell"]),
    ],
)
def test_pieces(text: str, expected: list[str]) -> None:
    assert [PIECES[token] for token in tiny_tokenizer()(text)] == expected


def test_the_packages_vocabulary() -> None:
    vocabulary = bert_tokenizer().vocabulary
    assert len(vocabulary) == 30522
    assert [vocabulary[piece] for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "##s")] == [0, 100, 101, 102, 2015]
    assert bert_tokenizer()("traffic light") == [4026, 2422]
    assert "Apache License" in tokenizer.VOCABULARY.with_name("VOCABULARY_LICENSE.txt").read_text()


@pytest.mark.parametrize("content", [None, b"", b"[UNK]\n", b"x" * (1 << 21)])
def test_another_vocabulary_is_refused(content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vocabulary.txt"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(tokenizer, "VOCABULARY", path)
    with pytest.raises(CheckpointError, match="install dyzoo again"):
        bert_tokenizer.__wrapped__()


def test_a_vocabulary_without_special_pieces() -> None:
    with pytest.raises(ValueError, match=r"has 1 pieces without \[CLS\]"):
        WordPiece({"[UNK]": 0})


def test_agrees_with_the_tokenizers_library() -> None:
    library = pytest.importorskip("tokenizers")
    ours = bert_tokenizer()
    theirs = library.Tokenizer(
        library.models.WordPiece(vocab=dict(ours.vocabulary), unk_token="[UNK]", max_input_chars_per_word=100)
    )
    theirs.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    theirs.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    # the two know different versions of Unicode: letters that are as old as 3.2, and the same since, are in both
    kinds = {chr(code): unicodedata.ucd_3_2_0.category(chr(code)) for code in range(0x30000)}
    letters = [x for x, kind in kinds.items() if kind not in ("Cn", "Cs") and kind == unicodedata.category(x)]
    texts = [f"a{letter}b" for letter in letters]
    generator = random.Random(0)
    pieces = [piece.removeprefix("##") for piece in ours.vocabulary if not piece.startswith("[")]
    texts += [generator.choice(" -_.").join(generator.choices(pieces, k=6)).title() for _ in range(2000)]
    texts += ["".join(generator.choices(letters, k=20)) for _ in range(2000)]
    different = [text for text in texts if theirs.encode(text).ids != ours(text)]
    assert different == []
