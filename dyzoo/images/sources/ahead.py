"""Pictures read and made ready by threads while the ones before them are used; in order, errors in their places."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from threading import Condition, Thread
from typing import Any, Generic, TypeVar

from dyzoo.environment import processes_of_machine
from dyzoo.errors import ImageError
from dyzoo.images.pixels import silence_pillow
from dyzoo.images.reading import Picture
from dyzoo.images.sources.base import Pending, Reading, Source, failing

ResultT = TypeVar("ResultT")

_MOST_WORKERS = 4  # of the default: a few threads keep most networks busy, and each may hold a picture in full
_PLACES = 2  # results for each worker that may be ready before they are asked for
_FAREWELL_S = 2.0  # a thread that waits for a server that has gone silent ends when its own patience does


def default_workers() -> int:
    """As many threads as there are processors for this process, up to four; several of a launcher share them."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(processors // processes_of_machine(), _MOST_WORKERS))


def read_all(
    sources: Iterable[Source],
    reading: Reading,
    finish: Callable[[Picture], ResultT],
    workers: int,
    ahead: bool = True,
) -> Generator[ResultT | ImageError]:
    """Read the pictures of all sources.

    Threads end with the iterator: when it is exhausted, closed, or left by an exception.

    Args:
        sources: iterated over in the caller's thread.
        reading: how to read them; `stopped` is set at the end.
        finish: makes of a picture what is wanted, in the thread that has read it. May raise `ImageError`.
        workers: threads; 0 reads and finishes in the caller's, when a picture is asked for.
        ahead: ask `sources` for the next ones before they are needed; otherwise only films are read ahead.

    Yields:
        In the order of the pictures what `finish` gives, or the `ImageError` of one that cannot be used. Of a live
        source only the newest picture is kept, unless there are no workers.
    """
    work = _Work(reading, finish)
    if not workers:
        yield from _in_turn(sources, work)
        return
    silence_pillow()
    pool = ThreadPoolExecutor(workers, "dyzoo reading")
    waiting: deque[Future[Any]] = deque()
    places = workers * _PLACES if ahead else 1
    try:
        for source in sources:
            if source.is_film:
                yield from _drain(waiting, work, pool, places)
                yield from _film(source, work, pool, workers * _PLACES)
                continue
            for pending in work.open(source):
                waiting.append(pool.submit(work, pending))
                while len(waiting) >= places:
                    yield from _first(waiting, work, pool, workers * _PLACES)
        yield from _drain(waiting, work, pool, places)
    finally:
        reading.stopped.set()
        working = wait([future for future in waiting if not future.cancel()], _FAREWELL_S).not_done
        pool.shutdown(wait=not working, cancel_futures=True)


class _Work(Generic[ResultT]):
    """Makes a pending picture and finishes it; an address may turn out to be a source, which is given as it is."""

    def __init__(self, reading: Reading, finish: Callable[[Picture], ResultT]) -> None:
        self.reading, self.finish = reading, finish

    def open(self, source: Source) -> Iterator[Pending]:
        """The source's pictures, or why it is not read."""
        if source.is_live and not self.reading.takes_endless:
            return iter(
                [failing(f"{source.source} may never end: predict(..., stream=True) gives one answer at a time")]
            )
        return source.open(self.reading)

    def __call__(self, pending: Pending) -> ResultT | Source | ImageError:
        try:
            made = pending()
            return made if isinstance(made, Source) else self.finish(made)
        except ImageError as error:
            return error.with_traceback(None)  # which would keep all that its frames hold


def _in_turn(sources: Iterable[Source], work: _Work[ResultT]) -> Iterator[ResultT | ImageError]:
    for source in sources:
        for pending in work.open(source):
            made = work(pending)
            if isinstance(made, Source):
                yield from _in_turn([made], work)
            else:
                yield made


def _drain(
    waiting: deque[Future[Any]], work: _Work[ResultT], pool: ThreadPoolExecutor, places: int
) -> Iterator[ResultT | ImageError]:
    while waiting:
        yield from _first(waiting, work, pool, places)


def _first(
    waiting: deque[Future[Any]], work: _Work[ResultT], pool: ThreadPoolExecutor, places: int
) -> Iterator[ResultT | ImageError]:
    made = waiting[0].result()  # still among those that wait, should this be interrupted
    waiting.popleft()
    if isinstance(made, Source):
        yield from _film(made, work, pool, places)
    else:
        yield made


def _film(
    source: Source, work: _Work[ResultT], pool: ThreadPoolExecutor, places: int
) -> Iterator[ResultT | ImageError]:
    with closing(_Feed(source, work, pool, places)) as feed:
        yield from feed


class _Feed(Generic[ResultT]):
    """A film's pictures, decoded by a thread of its own and finished by the pool's.

    Args:
        source: the film; of a live one, the newest picture alone is finished, when it is asked for.
        work: finishes a picture.
        pool: does so in other threads.
        places: pictures that may be on their way.
    """

    def __init__(self, source: Source, work: _Work[ResultT], pool: ThreadPoolExecutor, places: int) -> None:
        self._source, self._work, self._pool, self._places = source, work, pool, places
        self._made: deque[Future[Any]] = deque()
        self._newest: Pending | None = None
        self._is_over = False
        self._failure: BaseException | None = None
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="dyzoo decoding", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[ResultT | ImageError]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._made or self._newest or self._is_over)
                future = self._made.popleft() if self._made else None
                pending, self._newest = self._newest, None
                self._changed.notify_all()
            if future is not None:
                yield future.result()
            elif pending is not None:
                yield self._work(pending)  # type: ignore[misc]
            elif self._failure is not None:
                raise self._failure
            else:
                return

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join(_FAREWELL_S)

    def _run(self) -> None:
        pendings = self._work.open(self._source)
        try:
            for pending in pendings:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._is_over or self._source.is_live or len(self._made) < self._places
                    )
                    if self._is_over:
                        return
                    if self._source.is_live:
                        self._newest = pending
                    else:
                        self._made.append(self._pool.submit(self._work, pending))
                    self._changed.notify_all()
        except BaseException as error:
            self._failure = error
        finally:
            if isinstance(pendings, Generator):
                pendings.close()
            with self._changed:
                self._is_over = True
                self._changed.notify_all()
