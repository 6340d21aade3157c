"""Faults of the loopback Hub, on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass
class Drop:
    """Connections to break while a file is sent.

    Attributes:
        after: so many bytes from the file's start.
        times: None: always.
        how: "close" ends the connection, "reset" tears it down, "trickle" lets a byte through now and then.
        step: how much later the next one breaks.
    """

    after: int
    times: int | None = None
    how: str = "close"
    step: int = 0


@dataclass
class Busy:
    """An answer in the place of a file's content, so many times; None: always."""

    status: int
    times: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "busy"


class Faults:
    """Faults of a Hub.

    Attributes:
        spoilt: path -> what becomes of the file's bytes on their way out, sizes and tags being announced unspoilt.
        busy: path -> what is answered in place of its content.
        etags: path -> the ETag that is announced, in place of the right one.
        ranges: whether a part of a file can be asked for; `ranges_asked` are the first bytes of those that were.
        after_sending: path -> what happens as soon as the file has been sent.
        stopped: the server ends.
    """

    def __init__(self) -> None:
        self.spoilt: dict[str, Callable[[bytes], bytes]] = {}
        self.after_sending: dict[str, Callable[[], object]] = {}
        self.dropped: dict[str, Drop] = {}
        self.busy: dict[str, Busy] = {}
        self.etags: dict[str, str] = {}
        self.ranges = True
        self.ranges_asked: list[int] = []
        self.stopped = threading.Event()

    def drop(self, path: str, after: int, times: int | None = None, how: str = "close", step: int = 0) -> None:
        """Break the connection, see `Drop`."""
        self.dropped[path] = Drop(after, times, how, step)

    def mend(self) -> None:
        """End all faults."""
        for faults in (self.spoilt, self.dropped, self.busy, self.etags):
            faults.clear()  # type: ignore[attr-defined]
        self.ranges = True

    def next_drop(self, path: str, start: int) -> tuple[int, str]:
        """How many bytes from `start` to send before the connection breaks, -1: all of them; and how it breaks."""
        drop = self.dropped.get(path)
        if drop is None or drop.times == 0:
            return -1, ""
        if drop.times is not None:
            drop.times -= 1
        after, drop.after = drop.after, drop.after + drop.step
        return max(after - start, 0), drop.how

    def next_busy(self, path: str) -> Busy | None:
        """Answer in place of the file, this time."""
        busy = self.busy.get(path)
        if busy is None or busy.times == 0:
            return None
        if busy.times is not None:
            busy.times -= 1
        return busy
