"""Class names as captions, the way that mmdetection's GLIP writes them."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Sequence
from typing import NamedTuple

from dyzoo.config.detector import MAX_LABEL_LENGTH, MAX_LABELS
from dyzoo.errors import DyzooWarning, LabelError
from dyzoo.grounding.tokenizer import CLS, SEP, UNKNOWN, WordPiece
from dyzoo.text import printable

MAX_TOKENS = 256  # of a caption, the two around it among them: GLIP was trained with no more
_SHOWN = 60  # characters of a name in an error


class Caption(NamedTuple):
    """The tokens of "[CLS] first name. second name. last name [SEP]"."""

    tokens: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]  # of each name: its first token, and the one after its last


def write_captions(names: Sequence[str], tokenizer: WordPiece) -> list[Caption]:
    """Captions that hold all names, in order: one, or as many as `MAX_TOKENS` asks for.

    What is in parentheses is left out of a name, and an underscore is a space. A token's meaning depends on its whole
    caption, and so do a detector's answers: on the other names, and on their order.

    Args:
        names: class names; the same name twice has tokens of its own each time.
        tokenizer: that of the language model.

    Warns:
        DyzooWarning: the vocabulary has no pieces for a word.

    Raises:
        LabelError: there are no names, or more than `MAX_LABELS`; one is no text, too long, has control characters, has
            nothing in it once it is cleaned, or has more tokens than a caption.
    """
    if isinstance(names, str) or not 1 <= len(names) <= MAX_LABELS:
        given = _shown(names) if isinstance(names, str) else f"{len(names)} names"
        raise LabelError(f"class names are {given}, expected a list of 1 to {MAX_LABELS} names")
    start, end, unknown = (tokenizer.vocabulary[piece] for piece in (CLS, SEP, UNKNOWN))
    stop = tokenizer(".")
    captions: list[Caption] = []
    tokens: list[int] = [start]
    spans: list[tuple[int, int]] = []
    not_known: list[str] = []
    for number, name in enumerate(names, 1):
        of_name = tokenizer(clean_name(name, number))
        if not of_name:
            raise LabelError(f"class name {number}, {_shown(name)}, has no word outside of parentheses: give it one")
        if len(of_name) + 2 > MAX_TOKENS:
            raise LabelError(
                f"class name {number}, {_shown(name)}, has {len(of_name)} tokens, expected at most {MAX_TOKENS - 2}: "
                "shorten it"
            )
        if unknown in of_name:
            not_known.append(_shown(name))
        if spans and len(tokens) + len(stop) + len(of_name) + 1 > MAX_TOKENS:
            captions.append(Caption((*tokens, end), tuple(spans)))
            tokens, spans = [start], []
        if spans:
            tokens += stop
        spans.append((len(tokens), len(tokens) + len(of_name)))
        tokens += of_name
    captions.append(Caption((*tokens, end), tuple(spans)))
    if not_known:
        more = f" and of {len(not_known) - 1} more class names" if len(not_known) > 1 else ""
        warnings.warn(
            f"the language model knows no pieces for a word of {not_known[0]}{more}: all such words are the same to it",
            DyzooWarning,
            stacklevel=2,
        )
    return captions


def clean_name(name: str, number: int = 1) -> str:
    """Words of a caption for a class name; `number` is for errors.

    Raises:
        LabelError: it is no text, too long or has control characters.
    """
    if not isinstance(name, str):
        raise LabelError(f"class name {number} is {type(name).__name__}, expected text")
    if len(name) > MAX_LABEL_LENGTH:
        raise LabelError(
            f"class name {number}, {_shown(name)}, has {len(name)} characters, expected at most {MAX_LABEL_LENGTH}"
        )
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co") for letter in name):
        raise LabelError(f"class name {number}, {_shown(name)}, has characters that cannot be seen: take them out")
    return re.sub(r"\(.*\)", "", name).replace("_", " ")


def _shown(name: str) -> str:
    text = printable(name[:_SHOWN])
    return f"'{text}{'...' if len(name) > _SHOWN else ''}'"
