"""Reading ahead: the same in order, bounded, errors in their places, and no thread is left."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from dyzoo.errors import ImageError
from dyzoo.images.reading import Picture
from dyzoo.images.sources.ahead import read_all
from dyzoo.images.sources.base import Pending, Reading, Source, failing
from dyzoo.images.sources.naming import named_sources

WORKERS = [0, 1, 3]


@dataclass(eq=False)
class Numbers(Source):
    """Pictures with consecutive frame numbers; some fail. Counts what was begun."""

    numbers: range
    bad: tuple[int, ...] = ()
    source: str = "numbers"
    begun: list[int] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    def open(self, reading: Reading) -> Iterator[Pending]:
        try:
            for number in self.numbers:
                self.opened.append(number)
                yield failing(f"number {number}") if number in self.bad else lambda number=number: self.make(number)
        finally:
            self.closed.set()

    def make(self, number: int) -> Picture:
        self.begun.append(number)
        time.sleep(0.002 * (number % 3))  # later ones may be done earlier
        return Picture(Image.new("RGB", (1, 1)), (1, 1), frame=number)


class Frames(Numbers):
    """The same as a film."""

    is_film: ClassVar[bool] = True


class Live(Numbers):
    """The same as a stream."""

    is_film: ClassVar[bool] = True
    is_live: ClassVar[bool] = True


class Address(Source):
    """An address that turns out to be a film."""

    source = "address"

    def __init__(self, film: Source) -> None:
        self.film = film

    def open(self, reading: Reading) -> Iterator[Pending]:
        yield lambda: self.film


def number(picture: Picture) -> int:
    if picture.frame == 13:
        raise ImageError("number 13 cannot be finished")
    assert picture.frame is not None
    return picture.frame


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dyzoo")]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("ahead", [True, False], ids=["ahead", "asked"])
def test_results_are_in_order_with_errors_in_their_places(workers: int, ahead: bool) -> None:
    sources = [
        Numbers(range(15), (3, 4)), Frames(range(15, 30), (17,)), Address(Frames(range(30, 40))),
        Numbers(range(40, 50)), Address(Frames(range(50, 52))), Frames(range(52, 54)),
    ]  # fmt: skip
    made = list(read_all(sources, Reading(), number, workers, ahead))
    assert [str(each).removeprefix("number ").split()[0] for each in made] == [str(n) for n in range(54)]
    assert [n for n, each in enumerate(made) if isinstance(each, ImageError)] == [3, 4, 13, 17]
    assert all(each.__traceback__ is None for each in made if isinstance(each, ImageError))
    assert threads() == []


@pytest.mark.parametrize("kind", [Numbers, Frames])
def test_few_pictures_are_on_their_way_at_a_time(kind: type[Numbers]) -> None:
    source = kind(range(1000))
    results = read_all([source], Reading(), number, 2)
    assert source.opened == []
    for count in range(1, 12):
        next(results)
        time.sleep(0.01)
        assert len(source.opened) <= count + 6
    results.close()
    assert source.closed.is_set()
    assert threads() == []


def test_sources_are_not_asked_ahead_unless_wanted() -> None:
    asked = []

    def sources() -> Iterator[Source]:
        for n in range(10):
            asked.append(n)
            yield Numbers(range(n, n + 1))

    results = read_all(sources(), Reading(), number, 2, ahead=False)
    assert [next(results), next(results)] == [0, 1]
    assert asked == [0, 1]
    results.close()


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("kind", [Numbers, Frames])
def test_an_exception_of_the_user_ends_the_threads(workers: int, kind: type[Numbers]) -> None:
    source = kind(range(1000))
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        for each in read_all([source], Reading(), number, workers):
            if each == 5:
                raise KeyboardInterrupt
    assert threads() == []
    assert len(source.begun) < 30


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("kind", [Numbers, Frames])
def test_an_error_that_is_no_picture_s_comes_through(workers: int, kind: type[Numbers]) -> None:
    class Broken(kind):  # type: ignore[misc, valid-type]
        def make(self, number: int) -> Picture:
            if number == 4:
                raise ZeroDivisionError
            return super().make(number)  # type: ignore[no-any-return]

    results = read_all([Broken(range(10))], Reading(), number, workers)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threads() == []


def test_an_error_while_a_film_is_decoded_comes_through() -> None:
    class Broken(Frames):
        def open(self, reading: Reading) -> Iterator[Pending]:
            yield from super().open(reading)
            raise ZeroDivisionError

    results = read_all([Broken(range(2))], Reading(), number, 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threads() == []


def test_of_a_live_source_the_newest_picture_counts() -> None:
    source = Live(range(500))
    released = threading.Semaphore(0)

    def paced() -> Iterator[int]:
        for n in range(500):
            released.acquire()
            yield n

    source.numbers = paced()  # type: ignore[assignment]
    results = read_all([source], Reading(), number, 1)
    released.release()
    assert next(results) == 0
    for _ in range(100):
        released.release()
    while len(source.opened) < 101:
        time.sleep(0.001)
    time.sleep(0.01)
    assert next(results) == 100
    for _ in range(500):
        released.release()
    assert list(results)[-1] == 499
    assert len(source.begun) < 10, "the others were never made"
    assert threads() == []


def test_what_waits_is_told_to_stop() -> None:
    reading = Reading()
    started = threading.Event()

    class Waiting(Source):
        source = "waiting"

        def open(self, reading: Reading) -> Iterator[Pending]:
            def wait() -> Picture:
                started.set()
                reading.stopped.wait(30)
                raise ImageError("stopped")

            yield lambda: Picture(Image.new("RGB", (1, 1)), (1, 1), frame=0)
            yield wait

    results: Any = read_all([Waiting()], reading, number, 1)
    assert next(results) == 0
    assert started.wait(30)
    results.close()
    assert threads() == []


@pytest.mark.parametrize("workers", WORKERS)
def test_what_may_never_end_is_an_error_where_an_end_is_needed(workers: int) -> None:
    live = Live(range(3))
    sources = [Numbers(range(1)), live, Address(live), Numbers(range(1, 2))]
    first, second, third, last = read_all(sources, Reading(takes_endless=False), number, workers)
    assert (first, last) == (0, 1)
    assert str(second) == str(third)
    assert "stream=True" in str(second)
    assert live.opened == []


def test_reading_threads_leave_other_warnings_alone(tmp_path: Path) -> None:
    for number in range(40):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.jpg")
    with warnings.catch_warnings():
        warnings.resetwarnings()
        assert len(list(read_all(named_sources(tmp_path), Reading(), lambda picture: picture, workers=4))) == 40
        assert [action for action, _, _, module, _ in warnings.filters if module is None] == []
