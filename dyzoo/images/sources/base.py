"""A source: something with a name that pictures come out of, one after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import ClassVar, TypeAlias

from dyzoo.errors import ImageError
from dyzoo.images.reading import Picture


@dataclass(frozen=True)
class Reading:
    """How pictures are to be read.

    Attributes:
        least_size, max_pixels: as for `dyzoo.images.reading.read_picture`.
        frame_stride: every n-th frame of films and streams, from the first on.
        takes_endless: cameras and streams are read; otherwise each is an `ImageError`, as its pictures would not end.
        stopped: set when nobody wants the pictures any more: what waits for a server gives up.
    """

    least_size: Callable[[tuple[int, int]], tuple[int, int]] = lambda _: (1, 1)
    max_pixels: int | None = None
    frame_stride: int = 1
    takes_endless: bool = True
    stopped: Event = field(default_factory=Event)


class Source(ABC):
    """Something that pictures come out of.

    Attributes:
        source: its name as a user would write it, printable; None for what is in memory.
        is_many: more than one picture may come out of it: a film, a stream, an archive.
        is_film: its pictures can only be made one after the other, so that reading ahead takes a thread of its own.
        is_live: it goes on whether it is read or not: only the newest picture counts.
    """

    source: str | None
    is_many: ClassVar[bool] = False
    is_film: ClassVar[bool] = False
    is_live: ClassVar[bool] = False

    def names(self) -> Sequence[str]:
        """Names of its pictures, which `Picture.source` has: more than its own only for an archive, which is opened."""
        return [str(self.source)]

    @abstractmethod
    def open(self, reading: Reading) -> Iterator[Pending]:
        """The pictures in order, each still to be made.

        A step of the iterator is cheap unless the source `is_film`; it raises nothing, since what fails is `failing`.
        """

    def count(self, frame_stride: int) -> int | None:
        """About how many pictures will come out of it, every n-th frame of a film; None: only the end will tell."""
        return None if self.is_many else 1


Pending: TypeAlias = "Callable[[], Picture | Source]"
"""Makes a picture, in any thread; or gives the source that an address turns out to be. Raises `ImageError`."""


def failing(message: str) -> Pending:
    """A picture that cannot be made, with the reason."""

    def fail() -> Picture:
        raise ImageError(message)

    return fail
