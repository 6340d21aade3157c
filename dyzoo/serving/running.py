"""The application on a socket, until it is asked to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dyzoo.errors import DyzooError

MAX_CONNECTIONS = 1000
HEAD_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 5.0
WRITE_TIMEOUT_S = 30.0
MAX_HEAD_BYTES = 2**14


def bind_socket(host: str, port: int) -> socket.socket:
    """A socket with an address, which does not listen yet. Raises `DyzooError`: the address is taken, or none of this
    machine."""
    bound = None
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
        return bound
    except (OSError, UnicodeError) as error:
        if bound is not None:
            bound.close()
        why = getattr(error, "strerror", None) or str(error)
        raise DyzooError(f"{host}:{port} cannot be listened on: {why}") from None


def serve(app: Any, bound: socket.socket, shutdown_timeout: float, announce: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; then nothing new is taken, and what runs is finished.

    Args:
        app: the application.
        bound: the socket to listen on, which is closed.
        shutdown_timeout: seconds that what runs may take then.
        announce: called when requests are taken.

    Raises:
        DyzooError: the application cannot start.
    """
    settings = uvicorn.Config(
        app, http=_Protocol, ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, backlog=MAX_CONNECTIONS, timeout_keep_alive=int(IDLE_TIMEOUT_S),
        timeout_graceful_shutdown=max(round(shutdown_timeout), 1), h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )  # fmt: skip
    server = _Server(settings)
    server.announce = announce
    try:
        server.run([bound])
    except SystemExit:
        raise DyzooError("the server cannot start, the lines above say why") from None
    finally:
        bound.close()


class _Server(uvicorn.Server):
    """uvicorn's server raises the signal that has stopped it once more at the end: a server that has stopped in good
    order ends well here."""

    announce: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.announce()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        former = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


class _Protocol(H11Protocol):
    """A connection whose client may not be silent for ever: not before a request's head is there, and not where the
    answer is not read. Bodies have the application's time."""

    _patience: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        transport.set_write_buffer_limits(0)  # so that any byte that is not taken counts as unread
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.conn.their_state in (h11.IDLE, h11.SEND_BODY):  # a body whose answer is out already
            self._wait_for_head()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._forget_unread()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._forget_unread()
        super().resume_writing()

    def _wait_for_head(self) -> None:
        self._patience = self._patience or self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
