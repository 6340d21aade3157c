"""Pictures of equal size taken together, while the answers stay in order and only a few pictures wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from dyzoo.errors import ImageError

GivenT = TypeVar("GivenT")
AnswerT = TypeVar("AnswerT")


class _Place(Generic[GivenT, AnswerT]):
    """One picture that waits, with its answer as soon as there is one."""

    def __init__(self, given: GivenT | ImageError, key: object) -> None:
        self.given: GivenT | None = None if isinstance(given, ImageError) else given
        self.key = key
        self.answer: AnswerT | ImageError | None = given if isinstance(given, ImageError) else None


def in_batches(
    inputs: Iterator[GivenT | ImageError],
    key: Callable[[GivenT], object],
    answer: Callable[[Sequence[GivenT]], Sequence[AnswerT]],
    batch_size: int,
    within: int,
) -> Iterator[AnswerT | ImageError]:
    """Answer the inputs in batches.

    Args:
        inputs: asked for as many as the next batch takes.
        key: inputs with equal ones may be in one batch.
        answer: gives for a batch one answer each.
        batch_size: inputs of a batch at most.
        within: a batch is made of the first input that waits and of those among so many from it on that are like it.

    Yields:
        An answer for each input, in order, errors in their places.
    """
    waiting: deque[_Place[GivenT, AnswerT]] = deque()
    is_over = False
    while True:
        while waiting and waiting[0].answer is not None:
            yield waiting.popleft().answer  # type: ignore[misc]
        alike = [place for place in waiting if place.answer is None and place.key == waiting[0].key]
        while not is_over and len(alike) < batch_size and len(waiting) < within:
            given = next(inputs, None)
            if given is None:
                is_over = True
                break
            place: _Place[GivenT, AnswerT] = _Place(given, None if isinstance(given, ImageError) else key(given))
            waiting.append(place)
            if waiting[0].answer is not None:
                break
            if place.answer is None and place.key == waiting[0].key:
                alike.append(place)
        if alike:
            batch = alike[:batch_size]
            for place, made in zip(
                batch, answer([place.given for place in batch if place.given is not None]), strict=True
            ):
                place.answer, place.given = made, None
        elif is_over and not waiting:
            return
