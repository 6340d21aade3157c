"""Images at addresses that strangers name: nothing but the public internet is connected to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from dyzoo.errors import ImageError
from dyzoo.images.sources import public
from dyzoo.images.sources.public import fetch_public_image, is_public
from dyzoo.images.sources.web import Bounds

BOUNDS = Bounds(10_000, 5.0)
PNG = b"\x89PNG" + b"." * 100


class Handler(BaseHTTPRequestHandler):
    """`/png`: an image; `/to?ADDRESS`: a redirect; `/slow`: a byte now and then; `/large`; anything else: text."""

    server: Any

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path, _, where = self.path.partition("?")
        self.send_response(302 if path == "/to" else 200)
        if path == "/to":
            self.send_header("Location", where)
        self.end_headers()
        try:
            if path == "/slow":
                while not self.server.over.wait(0.05):
                    self.wfile.write(b".")
            else:
                self.wfile.write({"/png": PNG, "/large": PNG * 1000}.get(path, b"text"))
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """The server, with the paths that it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.over = threading.Event()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield serving
        serving.over.set()
        serving.shutdown()
        thread.join()


@pytest.fixture
def as_public(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address of the server under a name whose address is taken for a public one; its own stays a private one."""
    real = socket.getaddrinfo

    def resolve(host: str, *arguments: Any, **options: Any) -> Any:
        if host == "inside.example":
            host = "127.0.0.1"
        if host == "public.example":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.server_port))]
        if host == "both.example":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in ("8.8.8.8", "127.0.0.1")]
        return real(host, *arguments, **options)

    looked = public.is_public
    allowed = iter([True])  # the first connection alone: a redirect is judged anew
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(public, "is_public", lambda address: next(allowed, False) or looked(address))
    return f"http://public.example:{server.server_port}"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "2002:7f00:1::", "64:ff9b::10.0.0.1",
        "64:ff9b:1::8.8.8.8", "2001:0:808:808::80ff:fffe",
    ],
)  # fmt: skip
def test_private_addresses_are_told_from_public_ones(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:7f00:1]"])
def test_this_machine_is_not_connected_to_however_it_is_written(server: Server, host: str) -> None:
    with pytest.raises(ImageError, match="is not a public address"):
        fetch_public_image(f"http://{host}:{server.server_port}/png", BOUNDS)
    assert server.asked == []


@pytest.mark.parametrize("host", ["inside.example", "both.example"])
def test_a_name_that_means_this_machine_is_not_connected_to(
    server: Server, host: str, monkeypatch: pytest.MonkeyPatch, as_public: str
) -> None:
    monkeypatch.setattr(public, "is_public", is_public)
    with pytest.raises(ImageError, match=r"example is not a public address"):
        fetch_public_image(f"http://{host}:{server.server_port}/png", BOUNDS)
    assert server.asked == []


def test_an_image_of_a_public_address_is_fetched(as_public: str) -> None:
    assert fetch_public_image(f"{as_public}/png", BOUNDS) == PNG


def test_no_proxy_is_asked(as_public: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert fetch_public_image(f"{as_public}/png", BOUNDS) == PNG


@pytest.mark.parametrize("host", ["127.0.0.1", "inside.example", "[::1]"])
def test_a_redirect_to_this_machine_is_not_followed(server: Server, as_public: str, host: str) -> None:
    inside = f"http://{host}:{server.server_port}/png"
    with pytest.raises(ImageError, match="is not a public address"):
        fetch_public_image(f"{as_public}/to?{inside}", BOUNDS)
    assert server.asked == [f"/to?{inside}"]


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://public.example/a.png"])
def test_a_redirect_out_of_the_web_is_not_followed(as_public: str, where: str) -> None:
    with pytest.raises(ImageError, match=r"expected an address of http or https|is not allowed"):
        fetch_public_image(f"{as_public}/to?{where}", BOUNDS)


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "/etc/passwd", "ftp://8.8.8.8/a.png", "rtsp://8.8.8.8/", "http://", "http://[", "", "a\nb",
     "http://8.8.8.8:99999/"],
)  # fmt: skip
def test_other_schemes_are_refused(address: str) -> None:
    with pytest.raises(ImageError, match="is no address of http or https") as caught:
        fetch_public_image(address, BOUNDS)
    assert "\n" not in str(caught.value)


def test_addresses_are_bounded_in_length() -> None:
    with pytest.raises(ImageError, match="expected an address of at most"):
        fetch_public_image("http://8.8.8.8/" + "a" * 10_000, BOUNDS)


@pytest.mark.parametrize(("path", "why"), [("/large", "is larger than 10000 bytes"), ("/", "expected an image")])
def test_what_is_too_large_or_no_image_is_refused(as_public: str, path: str, why: str) -> None:
    with pytest.raises(ImageError, match=why):
        fetch_public_image(as_public + path, BOUNDS)


def test_a_server_that_sends_a_byte_now_and_then_is_left(as_public: str) -> None:
    with pytest.raises(ImageError):
        fetch_public_image(f"{as_public}/slow", Bounds(10_000, 0.3))
