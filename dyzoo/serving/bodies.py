"""Bodies of requests: pictures and parameters in them, never more bytes than are allowed, whatever the head says."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

import anyio
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from dyzoo.config.serving import ServeConfig
from dyzoo.serving.refusals import LONGEST, ClientGone, Refusal, busy
from dyzoo.text import printable

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

FORM = "multipart/form-data"
ADDRESSES = "application/json"
BINARY = "application/octet-stream"

_MOST_FIELDS, _MOST_FIELD_BYTES = 64, 4096
_MOST_JSON_BYTES = 2**20
_DISCARDED_BYTES, _DISCARDED_S = 2**23, 1.0


@dataclass(frozen=True)
class Upload:
    """A picture of a request: its name, printable, and the content of its file."""

    name: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Given:
    """All that a body holds.

    Attributes:
        uploads: pictures, in their order.
        addresses: those of pictures that are still to be fetched.
        fields: names and values of parameters.
    """

    uploads: list[Upload] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    fields: list[tuple[str, str]] = field(default_factory=list)


class Held:
    """Bytes that all running requests hold, of which there are at most so many."""

    def __init__(self, most: int) -> None:
        self.most, self.bytes = most, 0

    def take(self, count: int) -> None:
        """Raises `Refusal`: there would be too many."""
        if self.bytes + count > self.most:
            raise busy("the server holds as many bytes of other requests as it may")
        self.bytes += count

    def give_back(self, count: int) -> None:
        """These are not held any more."""
        self.bytes -= count


class Body:
    """The body of a request as it comes, counted.

    Args:
        request: whose body is still to come.
        most: bytes that it may have.
        held: those of all requests; `close` gives back what this one took.
    """

    def __init__(self, request: Request, most: int, held: Held) -> None:
        self._receive: Receive = request.receive
        self.most, self.held = most, held
        self.size = self._taken = 0
        self._is_over = False
        self._announced = request.headers.get("content-length", "")
        self._waits = "expect" in request.headers

    def check_announced(self) -> None:
        """Raises `Refusal`: the head says already that the body is too large."""
        if self._announced.isdecimal() and int(self._announced[:19]) > self.most:
            raise self._too_large()

    async def receive(self) -> MutableMapping[str, Any]:
        """The next message of the server. Raises `Refusal`: there are too many bytes; `ClientGone`."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._is_over = True
            raise ClientGone
        self._is_over = not message.get("more_body", False)
        count = len(message.get("body", b""))
        self.size += count
        if self.size > self.most:
            raise self._too_large()
        self.take(count)
        return message

    def take(self, count: int) -> None:
        """Hold so many bytes. Raises `Refusal`: all requests would hold too many."""
        self.held.take(count)
        self._taken += count

    async def discard(self) -> bool:
        """Receive a rest of moderate size and forget it: a connection that is closed before its client has sent all
        looks like a failure to many clients, which do not read the answer.

        Returns:
            Whether all of the body has come.
        """
        end, left = time.monotonic() + _DISCARDED_S, _DISCARDED_BYTES
        if self._waits:  # for a word to begin
            return self._is_over
        while not self._is_over and left > 0:
            with anyio.move_on_after(end - time.monotonic()) as scope:
                message = await self._receive()
            if scope.cancelled_caught:
                break
            self._is_over = not message.get("more_body", False)
            left -= len(message.get("body", b""))
        return self._is_over

    async def gone(self) -> None:
        """Returns when the client has gone; for after the body is there."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def close(self) -> None:
        """Hold nothing any more."""
        self.held.give_back(self._taken)
        self._taken = 0

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than {self.most} bytes")


async def read_body(request: Request, body: Body, config: ServeConfig) -> Given:
    """All that a body holds.

    Raises:
        Refusal: it is too large, of another type than is taken, holds no picture, or too many.
        ClientGone: before all of it came.
    """
    kind = _content_type(request)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Refusal(415, f"the body is encoded as {printable(encoding)[:40]!r}, expected it as it is")
    body.check_announced()
    if kind == FORM:
        given = await _read_form(request, body, config)
    elif kind.startswith("image/") or kind == BINARY:
        given = Given([Upload("image", await _read_all(body))])
    elif kind == ADDRESSES and config.allow_urls:
        given = _read_addresses(await _read_all(body, _MOST_JSON_BYTES))
    else:
        came = f"is {printable(kind)[:80]!r}" if kind else "has no type"
        urls = ", application/json" if config.allow_urls else ""
        raise Refusal(415, f"the body {came}, expected {FORM}, image/... or {BINARY}{urls}")
    count = len(given.uploads) + len(given.addresses)
    if not count:
        raise Refusal(422, "there is no picture, expected files as parts of the form, such as images=@a.jpg")
    if count > config.max_pictures:
        raise Refusal(413, f"there are {count} pictures, expected at most {config.max_pictures}")
    return given


async def _read_form(request: Request, body: Body, config: ServeConfig) -> Given:
    counted = Request(request.scope, body.receive)
    uploads: list[Upload] = []
    fields: list[tuple[str, str]] = []
    try:
        async with counted.form(
            max_files=config.max_pictures, max_fields=_MOST_FIELDS, max_part_size=_MOST_FIELD_BYTES
        ) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    shown = printable(value.filename or "")[:LONGEST] or f"image {len(uploads) + 1}"
                    uploads.append(Upload(shown, await value.read()))
                else:
                    fields.append((name, value))
    except HTTPException as error:
        raise Refusal(400, f"the form cannot be read: {printable(str(error.detail))[:LONGEST]}") from None
    return Given(uploads, [], fields)


async def _read_all(body: Body, most: int | None = None) -> bytes:
    pieces: list[bytes] = []
    is_over = False
    while not is_over:
        message = await body.receive()
        if most is not None and body.size > most:
            raise Refusal(413, f"the list of addresses is larger than {most} bytes")
        pieces.append(message.get("body", b""))
        is_over = not message.get("more_body", False)
    return b"".join(pieces)


def _read_addresses(content: bytes) -> Given:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    urls = value.get("urls") if isinstance(value, dict) and set(value) == {"urls"} else None
    if not isinstance(urls, list) or not all(isinstance(each, str) for each in urls):
        raise Refusal(422, 'the body is something else than {"urls": ["https://...", ...]}')
    return Given(addresses=urls)


def _content_type(request: Request) -> str:
    message = Message()
    message["content-type"] = request.headers.get("content-type", "")
    return message.get_content_type().lower() if message["content-type"] else ""
