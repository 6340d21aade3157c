"""Pictures of many requests through one network: threads decode, one thread detects, in batches of equal sizes.

A picture's padding would change with larger neighbours, and its numbers with it, so a batch is made of pictures that
are equally large for the network, as `predict` makes it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from dyzoo.config.serving import ServeConfig
from dyzoo.errors import ImageError
from dyzoo.images.detections import Detections
from dyzoo.images.pixels import silence_pillow
from dyzoo.images.reading import Picture
from dyzoo.images.sources.ahead import default_workers
from dyzoo.model.pipeline import Input, Pipeline
from dyzoo.serving.metrics import Metrics
from dyzoo.serving.refusals import busy

log = logging.getLogger("dyzoo.serving")

Make = Callable[[Pipeline], Picture]


@dataclass(eq=False)
class _Job:
    """A picture on its way. What it holds goes as soon as it is not needed, since a job that nobody waits for any more
    stays in the pool's queue for a while."""

    pipeline: Pipeline
    make: Make | None
    input: Input | None = None
    key: object = None
    ready_at: float = 0.0
    future: Future[Detections] = field(default_factory=Future)

    def forget(self) -> None:
        self.make = self.input = None


class Engine:
    """The threads of one server, which begin with the first picture.

    Args:
        pipeline: the way through the network, for its settings; those of a picture may differ in size and threshold.
        config: bounds and number of threads.
        metrics: where everything is counted.
    """

    def __init__(self, pipeline: Pipeline, config: ServeConfig, metrics: Metrics) -> None:
        self.pipeline, self.config, self.metrics = pipeline, config, metrics
        self._changed = threading.Condition()
        self._ready: deque[_Job] = deque()
        self._taken = 0
        self._is_closed = False
        self._pool: ThreadPoolExecutor | None = None
        self._thread: threading.Thread | None = None

    @property
    def taken(self) -> int:
        """Number of pictures on their way."""
        return self._taken

    @property
    def is_ready(self) -> bool:
        """Whether pictures are taken, and the thread of the network, if it has begun, is alive."""
        return not self._is_closed and (self._thread is None or self._thread.is_alive())

    @property
    def is_full(self) -> bool:
        """Whether not one more picture is taken."""
        return self._is_closed or self._taken >= self.config.max_queue

    def open(self) -> None:
        """Take pictures, also after `close`."""
        self._is_closed = False

    def warm_up(self) -> None:
        """Detect in an empty picture: what fails, fails now, and what is slow the first time is over."""
        blank = Image.new("RGB", (64, 64))
        self.pipeline.detect([self.pipeline.prepare(Picture(blank, (64, 64)))], [self.pipeline])

    def submit(self, makes: Sequence[Make], pipeline: Pipeline) -> list[Future[Detections]]:
        """Take the pictures of a request; a future that is cancelled drops its picture.

        Args:
            makes: give a picture each, in another thread, and may raise `ImageError`.
            pipeline: of the request.

        Raises:
            Refusal: they are more than there is room for.
        """
        with self._changed:
            if self._is_closed:
                raise busy("the server is stopping")
            if self._taken + len(makes) > self.config.max_queue:
                raise busy(f"{self._taken} pictures are waiting already")
            self._start()
            self._taken += len(makes)
        jobs = [_Job(pipeline, make) for make in makes]
        for job in jobs:
            job.future.add_done_callback(partial(self._release, job))
            assert self._pool is not None
            self._pool.submit(self._prepare, job)
        return [job.future for job in jobs]

    def close(self) -> None:
        """Take no more pictures, finish those that are ready and end the threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            pool, thread = self._pool, self._thread
            self._pool = self._thread = None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        if thread is not None:
            thread.join(self.config.shutdown_timeout)

    def _start(self) -> None:
        if self._pool is None:
            silence_pillow()
            self._pool = ThreadPoolExecutor(self.config.decode_threads or default_workers(), "serving: decoding")
            self._thread = threading.Thread(target=self._run, name="serving: network", daemon=True)
            self._thread.start()

    def _release(self, job: _Job, future: Future[Detections]) -> None:
        job.forget()
        with self._changed:
            self._taken -= 1
        if future.cancelled():
            outcome = "dropped"
        elif future.exception() is None:
            outcome = "detected"
        else:
            outcome = "refused" if isinstance(future.exception(), ImageError) else "failed"
        self.metrics.pictures.labels(outcome).inc()

    def _prepare(self, job: _Job) -> None:
        make = job.make
        if make is None or job.future.cancelled():
            return
        try:
            prepared = job.pipeline.prepare(make(job.pipeline))
        except Exception as error:
            if not isinstance(error, ImageError):
                self.metrics.errors.labels("decoding").inc()
                log.exception("a picture cannot be prepared")
            _finish(job, error.with_traceback(None))  # which would keep the picture
            return
        job.make = None
        with self._changed:
            job.input, job.key, job.ready_at = prepared, self.pipeline.alike(prepared), time.monotonic()
            self._ready.append(job)
            self._changed.notify_all()

    def _run(self) -> None:
        while batch := self._next():
            self._detect([job for job in batch if job.future.set_running_or_notify_cancel()])

    def _next(self) -> list[_Job]:
        """The next batch: that of the picture which waits longest. None when the engine is closed and nothing waits."""
        with self._changed:
            while True:
                self._ready = deque(job for job in self._ready if not job.future.cancelled())
                if not self._ready and self._is_closed:
                    return []
                if not self._ready:
                    self._changed.wait()
                    continue
                first = self._ready[0]
                batch = [job for job in self._ready if job.key == first.key][: self.config.max_batch]
                left = first.ready_at + self.config.max_delay_ms / 1000 - time.monotonic()
                if len(batch) < self.config.max_batch and left > 0 and not self._is_closed:
                    self._changed.wait(left)
                    continue
                chosen = set(map(id, batch))
                self._ready = deque(job for job in self._ready if id(job) not in chosen)
                return batch

    def _detect(self, jobs: Sequence[_Job]) -> None:
        pairs = [(job, job.input) for job in jobs if job.input is not None]
        if not pairs:
            return
        self.metrics.batch.observe(len(pairs))
        try:
            with self.metrics.network.time():
                found = self.pipeline.detect([given for _, given in pairs], [job.pipeline for job, _ in pairs])
        except Exception as error:
            if len(pairs) > 1:  # one of them may be to blame, and the memory does for each alone
                log.warning("a batch of %d pictures has failed, each goes alone: %s", len(pairs), type(error).__name__)
                for job, _ in pairs:
                    self._detect([job])
                return
            self.metrics.errors.labels("network").inc()
            log.exception("the network has failed")
            _finish(pairs[0][0], error.with_traceback(None))
            return
        for (job, _), answer in zip(pairs, found, strict=True):
            _finish(job, answer)


def _finish(job: _Job, answer: Detections | Exception) -> None:
    """Give the answer, unless nobody waits for it any more."""
    if not job.future.running() and not job.future.set_running_or_notify_cancel():
        return
    if isinstance(answer, Exception):
        job.future.set_exception(answer)
    else:
        job.future.set_result(answer)
