"""Images and films at http and https addresses. The content says which it is, not the name.

Servers are strangers: redirects stay within http and https, an image is bounded in bytes and in time, and a film is
read as it comes.
"""

from __future__ import annotations

import base64
import http.client
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from threading import Event, Thread
from typing import IO, Any, ClassVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from dyzoo._version import __version__
from dyzoo.errors import ImageError, first_line
from dyzoo.images.finding import IMAGE_SUFFIXES
from dyzoo.images.reading import Picture, decode_picture
from dyzoo.images.sources.base import Pending, Reading, Source
from dyzoo.images.sources.frames import PATIENCE_S, network_options, read_frames
from dyzoo.text import printable

WEB_SCHEMES = ("http", "https")

MAX_IMAGE_BYTES = 2**28
"""Bytes of the largest image that is fetched, 268 million."""
MAX_FETCH_S = 120.0
"""Seconds that one image may take."""

_PIECE = 2**16
_GLANCE_S = 0.1  # between looks whether the picture is still wanted
_PROTOCOLS = "http,https,httpproxy,tcp,tls,crypto"
_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
    b"P1", b"P2", b"P3", b"P4", b"P5", b"P6",
)  # fmt: skip
_LIVE = "multipart/x-mixed-replace"  # pictures that follow each other without end: what web cameras send


_HEAD = 64  # bytes that say what a file is
_PAGES = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True)
class Bounds:
    """Bounds of one image that is fetched: in bytes, and in seconds."""

    bytes: int
    seconds: float


@dataclass(frozen=True)
class WebAddress(Source):
    """An image, or a film, at an address."""

    address: str
    source: str

    @property
    def is_many(self) -> bool:  # type: ignore[override]
        """Whether it may be a film: its name is not that of an image."""
        return PurePosixPath(urlsplit(self.address).path).suffix.lower() not in IMAGE_SUFFIXES

    def open(self, reading: Reading) -> Iterator[Pending]:
        """The image, or the film that it turns out to be."""
        yield lambda: _unless_stopped(lambda: self._fetch(reading), self.source, reading)

    def _fetch(self, reading: Reading) -> Picture | Source:
        try:
            with request(self.address, _HANDLERS) as answer:
                head = answer.read(_HEAD)
                kind = answer.headers.get_content_type()
                if not (is_image(head) or kind.startswith("image/")):
                    if kind in _PAGES:
                        raise ImageError(f"{self.source} is a web page, expected an image or a film")
                    return (_LiveAnswer if kind == _LIVE else WebFilm)(self.address, self.source)
                content = _read(answer, head, self.source, Bounds(MAX_IMAGE_BYTES, MAX_FETCH_S), reading.stopped)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise not_fetched(self.source, error) from None
        picture = decode_picture(content, self.source, reading.least_size, reading.max_pixels)
        return replace(picture, source=self.source)


@dataclass(frozen=True)
class WebFilm(Source):
    """A film at an address, read as it comes."""

    address: str
    source: str
    is_many: ClassVar[bool] = True
    is_film: ClassVar[bool] = True

    def open(self, reading: Reading) -> Iterator[Pending]:
        """Its frames."""
        return read_frames(self.address, self.source, reading, network_options(_PROTOCOLS))


class _LiveAnswer(WebFilm):
    """Pictures that a camera's server sends as they are made."""

    is_live: ClassVar[bool] = True


def _unless_stopped(fetch: Callable[[], Picture | Source], name: str, reading: Reading) -> Picture | Source:
    """Fetch in a thread that is left behind when nobody wants the picture any more: nothing else ends a silent read."""
    future: Future[Picture | Source] = Future()

    def work() -> None:
        try:
            future.set_result(fetch())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, name="dyzoo fetching", daemon=True).start()
    while not future.done():
        wait([future], timeout=_GLANCE_S)
        if reading.stopped.is_set() and not future.done():
            raise ImageError(f"{name} is no longer wanted")
    return future.result()


def is_image(head: bytes) -> bool:
    """Whether a file that begins so is an image of a known format."""
    return head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


Handlers = Iterable[type[urllib.request.BaseHandler] | urllib.request.BaseHandler]


def fetch_image(address: str, name: str, handlers: Handlers, bounds: Bounds) -> bytes:
    """The content of an image at an address.

    Args:
        address: of http or https.
        name: what errors call it.
        handlers: of urllib, those that open connections.
        bounds: its size and time.

    Raises:
        ImageError: it cannot be fetched, is out of bounds or no image.
    """
    try:
        with request(address, handlers) as answer:
            head = answer.read(_HEAD)
            if not is_image(head):
                kind = "a web page" if answer.headers.get_content_type() in _PAGES else "something else"
                raise ImageError(f"{name} is {kind}, expected an image")
            return _read(answer, head, name, bounds, Event())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise not_fetched(name, error) from None


class _StayOnTheWeb(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https; urllib's own goes to ftp as well."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme.lower() not in WEB_SCHEMES:
            raise URLError(f"it redirects to {printable(newurl)[:200]}, expected an address of http or https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_HANDLERS = (urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler)


def request(address: str, handlers: Handlers) -> Any:
    """The answer of the server, opened by these. Raises `OSError`, `ValueError`, `http.client.HTTPException`."""
    parts = urlsplit(address)
    user, _, where = parts.netloc.rpartition("@")
    plain = urlunsplit(("", "", *parts[2:4], ""))
    asked = urllib.request.Request(f"{parts.scheme}://{where}{_quoted(plain)}")
    asked.add_header("User-Agent", f"dyzoo/{__version__}")
    if user:  # to this server alone, not where it redirects to
        token = base64.b64encode(unquote(user).encode()).decode()
        asked.add_unredirected_header("Authorization", f"Basic {token}")
    opener = urllib.request.OpenerDirector()  # build_opener's would open files, too
    for handler in (
        *handlers, _StayOnTheWeb, urllib.request.HTTPErrorProcessor, urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(handler() if isinstance(handler, type) else handler)
    return opener.open(asked, timeout=PATIENCE_S)


def _quoted(path: str) -> str:
    """The path with spaces and letters beyond ASCII as servers expect them; what is quoted already stays."""
    return quote(path, safe="%/:=&?~#+!$,;'@()*[]")


def _read(answer: Any, head: bytes, name: str, bounds: Bounds, stopped: Event) -> bytes:
    pieces, size = [head], len(head)
    end = time.monotonic() + bounds.seconds
    while piece := answer.read1(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > bounds.bytes:
            raise ImageError(f"{name} is larger than {bounds.bytes} bytes: fetch it yourself")
        if time.monotonic() > end or stopped.is_set():
            raise ImageError(f"{name} is not there after {bounds.seconds:g} s, {size} bytes of it are")
    if (length := answer.headers.get("Content-Length", "")).isdecimal() and size < int(length[:19]):
        raise ImageError(f"{name} breaks off after {size} of {length[:19]} bytes")
    return b"".join(pieces)


def not_fetched(name: str, error: Exception) -> ImageError:
    """The error of an address, from that of its connection; one that says it already stays."""
    return error if isinstance(error, ImageError) else ImageError(f"{name} cannot be fetched: {_why(error)}")


def _why(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return printable(f"the server answers {error.code} {error.reason}")[:200]
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return f"nothing came for {PATIENCE_S:g} s"
    text = getattr(reason, "strerror", None) or (first_line(reason) if isinstance(reason, Exception) else str(reason))
    return printable(text)[:300]
