"""Batches of what is alike, answers in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from dyzoo.errors import ImageError
from dyzoo.model.batches import in_batches


def run(words: Sequence[str | ImageError], batch_size: int, within: int) -> tuple[list[str], list[list[str]]]:
    """Answers, and the batches they were made in; words of equal length are alike."""
    batches = []

    def answer(batch: Sequence[str]) -> list[str]:
        batches.append(list(batch))
        return [word.upper() for word in batch]

    answers = [str(each) for each in in_batches(iter(words), len, answer, batch_size, within)]
    return answers, batches


def test_what_is_alike_goes_together_and_comes_in_order() -> None:
    words = ["a", "bb", "c", "dd", "e", "ff", "g"]
    answers, batches = run(words, 2, 8)
    assert answers == [word.upper() for word in words]
    assert batches == [["a", "c"], ["bb", "dd"], ["e", "g"], ["ff"]]


def test_no_more_wait_than_may() -> None:
    words = ["a", "bb", "bb", "bb", "a", "bb"]
    assert run(words, 2, 3)[1] == [["a"], ["bb", "bb"], ["bb", "bb"], ["a"]]
    assert run(words, 2, 2)[1][0] == ["a"]


def test_errors_are_answers_at_once() -> None:
    words = [ImageError("X"), "a", ImageError("Y"), "b", ImageError("Z")]
    answers, batches = run(words, 2, 8)
    assert answers == ["X", "A", "Y", "B", "Z"]
    assert batches == [["a", "b"]]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_no_more_is_asked_for_than_a_batch_takes(batch_size: int) -> None:
    asked = []

    def words() -> Iterator[str]:
        for number in range(20):
            asked.append(number)
            yield "w"

    answers = in_batches(words(), len, lambda batch: batch, batch_size, 12)
    next(answers)
    assert len(asked) == batch_size
    assert run([], batch_size, 4) == ([], [])
