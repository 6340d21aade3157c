"""Images and films at addresses, from a server of the test, which also misbehaves."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dyzoo.errors import ImageError
from dyzoo.images.reading import Picture
from dyzoo.images.sources import web
from dyzoo.images.sources.ahead import read_all
from dyzoo.images.sources.base import Reading, Source
from dyzoo.images.sources.naming import list_sources
from tests.images.sources.films import level, write_film


class Handler(BaseHTTPRequestHandler):
    """Answers as `pages` of the server says: path -> (status, headers, body)."""

    server: Any

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        status, headers, body = self.server.pages.get(self.path.partition("?")[0], (404, {}, b"no"))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            if callable(body):
                body(self.wfile)
            else:
                self.wfile.write(body)
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """The server, with what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def jpeg(size: tuple[int, int] = (64, 48)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (100, 100, 100)).save(content, "JPEG")
    return content.getvalue()


def read(address: str, **how: Any) -> list[Picture | str]:
    (source,) = list_sources(address)
    return read_source(source, Reading(**how))


def read_source(source: Source, reading: Reading) -> list[Picture | str]:
    found: list[Picture | str] = []
    for pending in source.open(reading):
        try:
            made = pending()
            found += [made] if isinstance(made, Picture) else read_source(made, reading)
        except ImageError as error:
            found.append(str(error))
    return found


def test_the_content_decides_what_an_address_is(server: Server, tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mkv").read_bytes()
    server.pages = {
        "/a.jpg": (200, {}, jpeg()),
        "/picture": (200, {"Content-Type": "text/plain"}, jpeg()),
        "/film": (200, {"Content-Type": "application/octet-stream"}, film),
        "/film.jpg": (200, {}, film),
    }
    for name in ("/a.jpg", "/picture?n=1", "/a.jpg?x=a b"):
        (picture,) = read(server.url + name)
        assert isinstance(picture, Picture)
        assert (picture.size, picture.source, picture.path) == ((48, 64), server.url + name, None)
    for name in ("/film", "/film.jpg"):
        found = read(server.url + name)
        assert [picture.frame for picture in found if isinstance(picture, Picture)] == list(range(12))
        assert isinstance(found[3], Picture)
        assert abs(np.asarray(found[3].image).mean() - level(3)) < 5


def test_pictures_that_follow_each_other_are_a_live_film(server: Server) -> None:
    part = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg()), jpeg())
    server.pages = {"/live": (200, {"Content-Type": "multipart/x-mixed-replace; boundary=x"}, part * 20)}
    (source,) = list_sources(f"{server.url}/live")
    (pending,) = source.open(Reading())
    made = pending()
    assert isinstance(made, Source)
    assert made.is_live
    assert len([picture for picture in read_source(made, Reading()) if isinstance(picture, Picture)]) >= 15


def test_a_password_goes_to_its_server_alone_and_into_no_name(server: Server) -> None:
    server.pages = {
        "/a.jpg": (302, {"Location": f"http://localhost:{server.server_port}/b.jpg"}, b""),
        "/b.jpg": (200, {}, jpeg()),
    }
    (picture,) = read(server.url.replace("//", "//me:sec%40ret@") + "/a.jpg")
    assert isinstance(picture, Picture)
    assert picture.source == server.url.replace("//", "//me:***@") + "/a.jpg"
    (_, first), (_, second) = server.asked
    assert base64.b64decode(first["Authorization"].removeprefix("Basic ")) == b"me:sec@ret"
    assert "Authorization" not in second


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/a.jpg", "data:,x", "gopher://x/"])
def test_a_redirect_leads_nowhere_but_to_the_web(server: Server, target: str) -> None:
    server.pages = {"/a.jpg": (302, {"Location": target}, b"")}
    (line,) = read(f"{server.url}/a.jpg")
    assert "cannot be fetched" in str(line)


def test_a_film_that_redirects_or_leads_to_a_file_gives_nothing(server: Server, tmp_path: Path) -> None:
    secret = write_film(tmp_path / "secret.mkv")
    server.pages = {
        "/list.m3u8": (200, {}, f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nfile://{secret}\n".encode()),
        "/concat": (200, {}, f"ffconcat version 1.0\nfile {secret}\n".encode()),
    }
    for name in server.pages:
        assert [type(each) for each in read(server.url + name)] == [str]


def test_failures_are_one_line_each(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_IMAGE_BYTES", 10_000)
    server.pages = {
        "/loop": (302, {"Location": "/loop"}, b""),
        "/page": (200, {"Content-Type": "text/html"}, b"<html>"),
        "/large": (200, {}, jpeg() + bytes(20_000)),
        "/short": (200, {"Content-Length": "5000"}, jpeg()),
        "/damaged": (200, {}, jpeg()[:400]),
        "/avif": (200, {"Content-Type": "image/avif"}, b"...."),
    }
    for name, said in (
        ("/absent", "the server answers 404"), ("/loop", "cannot be fetched"), ("/page", "is a web page"),
        ("/large", "larger than 10000 bytes"), ("/short", "breaks off after"), ("/damaged", "damaged"),
        ("/avif", "known format"),
    ):  # fmt: skip
        (line,) = read(server.url + name)
        assert said in str(line), name
        assert str(line).startswith(server.url + name)
        assert "\n" not in str(line)
    (line,) = read("http://127.0.0.1:9/a.jpg")
    assert line == "http://127.0.0.1:9/a.jpg cannot be fetched: Connection refused"


def test_a_picture_of_too_many_pixels_is_not_decoded(server: Server) -> None:
    server.pages = {"/a.jpg": (200, {}, jpeg())}
    (line,) = read(f"{server.url}/a.jpg", max_pixels=1000)
    assert "max_pixels" in str(line)


def test_a_silent_server_keeps_nobody_who_has_gone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, reached = threading.Event(), threading.Event()

    def silent(_: Any) -> None:
        reached.set()
        gone.wait(30)

    server.pages = {"/a.jpg": (200, {}, jpeg()), "/silent.jpg": (200, {}, silent)}
    reading = Reading()
    sources = list_sources([f"{server.url}/a.jpg", f"{server.url}/silent.jpg"])
    results = read_all(sources, reading, lambda picture: picture.source, 2)
    assert next(results) == f"{server.url}/a.jpg"
    assert reached.wait(30)
    results.close()
    assert not gone.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dyzoo reading")]
    left = [thread for thread in threading.enumerate() if thread.name == "dyzoo fetching"]
    assert all(thread.daemon for thread in left)
    gone.set()
    for thread in left:
        thread.join(30)


def test_silence_and_trickles_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_: Any) -> None:
        time.sleep(1.5)

    def trickle(out: Any) -> None:
        out.write(jpeg())
        for _ in range(30):
            out.write(b"x")
            out.flush()
            time.sleep(0.05)

    server.pages = {"/silent": (200, {}, silent), "/trickle": (200, {}, trickle)}
    monkeypatch.setattr(web, "PATIENCE_S", 0.3)
    monkeypatch.setattr(web, "MAX_FETCH_S", 0.5)
    (line,) = read(f"{server.url}/silent")
    assert "nothing came for 0.3 s" in str(line)
    (line,) = read(f"{server.url}/trickle")
    assert "is not there after 0.5 s" in str(line)
