"""The outermost layer of the application: every request ends in an answer, a line of the log and a count."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from dyzoo.serving.metrics import Metrics
from dyzoo.serving.refusals import ClientGone

log = logging.getLogger("dyzoo.serving")

_GONE = 499  # nothing is sent: the client closed the connection
_METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def error_body(message: str) -> bytes:
    """The body of every answer that is an error."""
    return json.dumps({"error": message}).encode()


class Access:
    """Wraps an application.

    The log has method, route, status and time: no address of a client, no name of a file, no query.

    Args:
        app: the application.
        routes: paths that are named in the log and the counts; others may hold anything, and are `other`.
        metrics: where requests are counted.
    """

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], routes: Collection[str], metrics: Metrics
    ) -> None:
        self.app, self.routes, self.metrics = app, routes, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.perf_counter()
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-content-type-options", b"nosniff")]}
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except ClientGone:
            status = _GONE
        except Exception:
            self.metrics.errors.labels("server").inc()
            log.exception("a request has failed")
            if not status:
                content = error_body("the server has failed, its log says why")
                headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
                await noting({"type": "http.response.start", "status": 500, "headers": headers})
                await noting({"type": "http.response.body", "body": content})
        finally:
            seconds = time.perf_counter() - begin
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            route = path if path in self.routes else "other"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self.metrics.requests.labels(route, str(status or _GONE)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            log.info("%s %s %d %.0f ms", method, route, status or _GONE, seconds * 1000)
