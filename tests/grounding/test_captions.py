"""Captions of class names, and names that cannot be in one."""

from __future__ import annotations

import warnings

import pytest

from dyzoo.errors import DyzooWarning, LabelError
from dyzoo.grounding import bert_tokenizer, write_captions
from dyzoo.grounding.captions import MAX_TOKENS, clean_name
from tests.grounding.tiny_language import PIECES, tiny_tokenizer


def spelt(tokens: tuple[int, ...]) -> str:
    return " ".join(PIECES[token] for token in tokens)


def test_names_are_joined_and_their_tokens_known() -> None:
    (caption,) = write_captions(["red_blood cells", "cell (of any kind)", "red"], tiny_tokenizer())
    assert spelt(caption.tokens) == "[CLS] red blood cell ##s . cell . red [SEP]"
    assert [spelt(caption.tokens[start:end]) for start, end in caption.spans] == ["red blood cell ##s", "cell", "red"]


def test_the_same_name_twice_has_tokens_of_its_own() -> None:
    (caption,) = write_captions(["cell", "cell"], tiny_tokenizer())
    assert caption.spans == ((1, 2), (3, 4))


@pytest.mark.parametrize("words", [1, 3, 30])
def test_a_full_caption_is_followed_by_another(words: int) -> None:
    """Each is as long as it may be, and begins and ends as any; no name is cut or lost."""
    name = " ".join(["cell"] * words)
    captions = write_captions([name] * 300, tiny_tokenizer())
    assert sum(len(caption.spans) for caption in captions) == 300
    for caption in captions:
        assert len(caption.tokens) <= MAX_TOKENS
        assert (PIECES[caption.tokens[0]], PIECES[caption.tokens[-1]]) == ("[CLS]", "[SEP]")
        assert all(spelt(caption.tokens[start:end]) == name for start, end in caption.spans)
    for caption in captions[:-1]:
        assert len(caption.tokens) + words + 1 > MAX_TOKENS


def test_a_thousand_names() -> None:
    names = [f"{color} {thing} {number}" for color in ("red", "blue") for thing in "abcde" for number in range(100)]
    captions = write_captions(names, bert_tokenizer())
    assert sum(len(caption.spans) for caption in captions) == 1000


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "class names are 0 names, expected a list of 1 to 30000"),
        ("person", "class names are 'person', expected a list"),
        (["a"] * 30_001, "class names are 30001 names"),
        (["cell", ""], "class name 2, '', has no word outside of parentheses"),
        (["(cell)"], "class name 1, '.cell.', has no word"),
        ([" _ "], "has no word"),
        (["\u0301"], "has no word"),
        (["ce\x1bll"], r"'ce\\x1bll', has characters that cannot be seen"),
        (["ce\nll"], "cannot be seen"),
        (["\u202ecell"], r"'\\u202ecell', has characters that cannot be seen"),
        (["cell\ud800"], r"'cell\\ud800', has characters that cannot be seen"),
        (["c" * 10_000], r"'c{60}\.\.\.', has 10000 characters, expected at most 200"),
        (["cell", 3], "class name 2 is int, expected text"),
    ],
)
def test_names_that_cannot_be_used(names: list[str], message: str) -> None:
    with pytest.raises(LabelError, match=message) as caught:
        write_captions(names, tiny_tokenizer())
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 250


def test_a_name_longer_than_a_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyzoo.grounding.captions.MAX_TOKENS", 12)
    assert len(write_captions(["cell " * 10], tiny_tokenizer())[0].tokens) == 12
    with pytest.raises(LabelError, match="has 11 tokens, expected at most 10: shorten it"):
        write_captions(["red", "cell " * 11], tiny_tokenizer())


def test_words_that_nobody_knows_are_said() -> None:
    with pytest.warns(DyzooWarning, match="no pieces for a word of 'platelet' and of 1 more class names"):
        write_captions(["cell", "platelet", "white cell"], tiny_tokenizer())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_captions(["cell"], tiny_tokenizer())


def test_what_is_left_of_a_name() -> None:
    assert clean_name("car_(automobile)").split() == ["car"]
    assert clean_name("a (b) c (d) e").split() == ["a", "e"]  # from the first parenthesis to the last, as mmdetection
    assert clean_name("a ( b").split() == ["a", "(", "b"]
