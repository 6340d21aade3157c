"""Being asked to stop: Ctrl-C, and SIGTERM as schedulers and container hosts send it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ASKED_BY = (signal.SIGINT, signal.SIGTERM)


def departure(number: int) -> BaseException:
    """The exception that ends the run: `KeyboardInterrupt` for Ctrl-C (exit code 130), else `SystemExit` (143 for
    SIGTERM)."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


class StopRequest:
    """While it is open, a signal is remembered instead of acted on, so that a step can be finished and saved.

    Outside the main thread, where Python takes no signals, nothing is changed.

    Args:
        insist: a second signal leaves at once. Not where a launcher passes on what the terminal has sent already.

    Attributes:
        received: the signal's number, 0 for none.
    """

    def __init__(self, insist: bool = True) -> None:
        self.insist = insist
        self.received = 0
        self._at_once = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._receive) for number in ASKED_BY}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises its `departure` where it finds the program."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        repeated, self.received = bool(self.received), number
        if self._at_once or (repeated and self.insist):
            raise departure(number)
