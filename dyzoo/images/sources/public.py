"""Images at addresses that strangers name to a server: it connects to public addresses of the internet alone.

A name is resolved once, each address that it stands for is looked at, and the connection goes to one of these: a name
that means something else a moment later leads nowhere else. Redirects are connections of their own. No proxy is used,
since it would resolve names itself.
"""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import urlsplit

from dyzoo.errors import ImageError
from dyzoo.images.sources.web import WEB_SCHEMES, Bounds, fetch_image
from dyzoo.text import printable

_MOST_LETTERS = 2048
_PROTOCOLS = IPv4Network("192.0.0.0/24")  # some clouds have services there
_TRANSLATED = IPv6Network("64:ff9b::/96")  # IPv4 addresses as a network without IPv4 writes them


def fetch_public_image(address: str, bounds: Bounds) -> bytes:
    """The content of an image at a public address.

    Raises:
        ImageError: the address is none of http or https, leads to a host that is not public, or as `fetch_image`.
    """
    name = printable(address)[:200]
    if len(address) > _MOST_LETTERS:
        raise ImageError(f"{name}... has {len(address)} letters, expected an address of at most {_MOST_LETTERS}")
    try:
        parts = urlsplit(address)
        is_web = parts.scheme.lower() in WEB_SCHEMES and bool(parts.hostname)
        _ = parts.port  # a number that is none raises here
    except ValueError:
        is_web = False
    if not is_web:
        raise ImageError(f"{name!r} is no address of http or https")
    with _closed_after(bounds.seconds) as watch:
        handlers = (_HTTPHandler(watch), _HTTPSHandler(watch))
        return fetch_image(address, name, handlers, bounds)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: not of this machine, its network or its cloud."""
    return all(map(_is_public, _meant(ip_address(address.partition("%")[0]))))


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    is_special = address.is_multicast or address.is_reserved or address in _PROTOCOLS
    is_local = isinstance(address, IPv6Address) and address.is_site_local
    return address.is_global and not is_special and not is_local


def _meant(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """The addresses that have to be public: those of IPv4 that one of IPv6 stands for are looked at as well."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _TRANSLATED:
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    return [address, *([address.sixtofour] if address.sixtofour is not None else []), *(address.teredo or ())]


Watch = Callable[[socket.socket], None]


@contextmanager
def _closed_after(seconds: float) -> Iterator[Watch]:
    """Shut down the connections that are handed in when the time is over: a server that sends a byte now and then would
    keep any read waiting."""
    watched: list[socket.socket] = []
    lock = threading.Lock()
    is_over = False

    def shut() -> None:
        nonlocal is_over
        with lock:
            is_over = True
            for each in watched:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def watch(connection: socket.socket) -> None:
        with lock:
            if is_over:
                connection.close()
                raise TimeoutError
            watched.append(connection.dup())  # TLS takes the connection out of the socket that it is given

    timer = threading.Timer(seconds, shut)
    timer.daemon = True
    timer.start()
    try:
        yield watch
    finally:
        timer.cancel()
        with lock:
            is_over = True
            for each in watched:
                each.close()
            watched.clear()


def _connect(
    watch: Watch, address: tuple[str, int], timeout: float | None = None, source_address: Any = None
) -> socket.socket:
    """`socket.create_connection`, to a public address. Raises `OSError`."""
    host, port = address
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not found or not all(is_public(str(where[0])) for *_, where in found):
        raise OSError(f"{printable(host)[:100]} is not a public address of the internet")
    failure: OSError = OSError("nothing answers")
    for family, kind, protocol, _, where in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout)
            watch(connection)
            connection.connect(where)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure


class _HTTPConnection(http.client.HTTPConnection):
    def __init__(self, watch: Watch, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._create_connection = partial(_connect, watch)


class _HTTPSConnection(http.client.HTTPSConnection):
    def __init__(self, watch: Watch, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._create_connection = partial(_connect, watch)


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._connection = partial(_HTTPConnection, watch)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)  # type: ignore[arg-type]


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._connection = partial(_HTTPSConnection, watch)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)  # type: ignore[arg-type]
