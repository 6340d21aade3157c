"""How long the Hub is waited for, in all: an answer that never comes, a trickle, a polite request to come back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

from dyzoo.environment import HUB_PATIENCE, hub_patience
from dyzoo.errors import HubError

DEFAULT_S = 300.0

_SLOWEST = 10_000  # bytes in a second: each of these that arrive buys one more, so that slow lines have their time

ResultT = TypeVar("ResultT")


class OutOfPatienceError(OSError):
    """The Hub has had its time."""


class Patience:
    """Time for one call, running from now on.

    Attributes:
        is_over: the caller has gone; what still runs is to stop.

    Raises:
        HubError: the environment variable is no number of seconds.
    """

    def __init__(self) -> None:
        text = hub_patience()
        try:
            self.seconds = float(text or DEFAULT_S)
        except ValueError:
            self.seconds = math.nan
        if not 0 < self.seconds < math.inf:
            raise HubError(f"{HUB_PATIENCE} is {text!r}, expected a number of seconds such as {DEFAULT_S:g}")
        self.is_over = False
        self._end = time.monotonic() + self.seconds

    def earn(self, num_bytes: int) -> None:
        """Go on for longer, as so many bytes have arrived."""
        self._end += num_bytes / _SLOWEST

    def sleep(self, seconds: float) -> None:
        """Wait before another try.

        Raises:
            OutOfPatienceError: at once, if that is longer than there is time.
        """
        if seconds > self._left():
            raise OutOfPatienceError(f"it asks to wait {seconds:.0f} s, {self._limit()}")
        time.sleep(seconds)

    def run(self, action: Callable[[], ResultT]) -> ResultT:
        """Run an action in a thread and return its result: nothing else ends a read that trickles on.

        Raises:
            OutOfPatienceError: it is not done in time; it is left behind, to stop when it sees `is_over`.
        """
        future: Future[ResultT] = Future()

        def work() -> None:
            try:
                future.set_result(action())
            except BaseException as error:
                future.set_exception(error)

        Thread(target=work, name="dyzoo hub", daemon=True).start()
        try:
            while not future.done():
                if (left := self._left()) <= 0:
                    raise OutOfPatienceError(f"not done in time, {self._limit()}")
                wait([future], timeout=left)
            return future.result()
        finally:
            self.is_over = not future.done()

    def _left(self) -> float:
        return self._end - time.monotonic()

    def _limit(self) -> str:
        return f"the limit is {self.seconds:g} s and one more for each {_SLOWEST // 1000} kB, {HUB_PATIENCE} sets it"
