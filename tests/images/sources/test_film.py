"""Films, streams and cameras: order, times, rotation, damage, limits, films that lead elsewhere."""

from __future__ import annotations

import builtins
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dyzoo.errors import ImageError
from dyzoo.images.reading import Picture
from dyzoo.images.sources import frames
from dyzoo.images.sources.base import Reading, Source
from dyzoo.images.sources.film import Camera, Film, Stream
from tests.images.sources.films import SIZE, level, write_film, write_frames


def read(source: Source, **how: Any) -> list[Picture | str]:
    """The pictures, and the lines of the errors in their places."""
    read: list[Picture | str] = []
    for pending in source.open(Reading(**how)):
        try:
            made = pending()
            assert isinstance(made, Picture)
            read.append(made)
        except ImageError as error:
            read.append(str(error))
    return read


def grey(picture: Picture | str) -> int:
    assert isinstance(picture, Picture)
    return round(float(np.asarray(picture.image).mean()))


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "mpeg4"), ("a.mkv", "mpeg4"), ("a.avi", "mpeg4"), ("a.ts", "mpeg4"), ("b.mp4", "libx264"),
     ("a.webm", "libvpx-vp9")],
)  # fmt: skip
def test_a_film_gives_its_frames_in_order_with_number_and_time(tmp_path: Path, name: str, codec: str) -> None:
    path = write_film(tmp_path / name, codec=codec)
    found = read(Film.at(path))
    assert [abs(grey(picture) - level(number)) <= 5 for number, picture in enumerate(found)] == [True] * 12
    for number, picture in enumerate(found):
        assert isinstance(picture, Picture)
        assert (picture.source, picture.frame, picture.path) == (str(path), number, None)
        assert picture.time_s == pytest.approx(number / 10, abs=0.002)
        assert (picture.size, picture.image.mode) == (SIZE, "RGB")


def test_a_stride_takes_every_nth_frame_and_converts_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[int] = []
    convert = frames._picture

    def counting(*arguments: Any) -> Picture:
        converted.append(arguments[3])
        return convert(*arguments)

    monkeypatch.setattr(frames, "_picture", counting)
    found = read(Film.at(write_film(tmp_path / "a.mp4")), frame_stride=5)
    assert [picture.frame for picture in found if isinstance(picture, Picture)] == converted == [0, 5, 10]
    assert [abs(grey(picture) - level(n)) <= 5 for picture, n in zip(found, (0, 5, 10), strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [((0, 1, -1, 0), (0, -1)), ((-1, 0, 0, -1), (-1, -1)), ((0, -1, 1, 0), (-1, 0))],
    ids=["clockwise", "upside down", "counterclockwise"],
)
def test_a_film_is_turned_as_its_metadata_says(
    tmp_path: Path, matrix: tuple[int, int, int, int], corner: tuple[int, int]
) -> None:
    """The bright corner of the stored frames is the upper left one; `matrix` is that of the track's header."""
    frame = np.zeros((*SIZE, 3), np.uint8)
    frame[:16, :16] = 255
    path = write_frames(tmp_path / "a.mp4", [frame] * 3)
    content = path.read_bytes()
    identity = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    place = content.index(identity, content.index(b"tkhd"))
    a, b, c, d = (value * 0x10000 for value in matrix)
    path.write_bytes(content[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000) + content[place + 36 :])
    (first, *_) = read(Film.at(path))
    assert isinstance(first, Picture)
    assert first.size == (SIZE if matrix[0] else SIZE[::-1])
    assert np.asarray(first.image)[corner].mean() > 200
    assert np.asarray(first.image).mean() < 60


def test_damaged_frames_are_counted_in_one_line_and_cost_no_other(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.avi", 30, codec="mjpeg")
    content = bytearray(path.read_bytes())
    start = 0
    for number in range(30):
        start = content.index(b"\xff\xd8\xff", start + 1)
        if number in (4, 5, 28):
            content[start : start + 600] = bytes(600)
    path.write_bytes(content)
    *found, last = read(Film.at(path))
    assert last == f"{path}: 3 of 30 frames cannot be decoded and are left out, the first is 4"
    assert [picture.frame for picture in found if isinstance(picture, Picture)] == [
        number for number in range(30) if number not in (4, 5, 28)
    ]
    assert abs(grey(found[-1]) - level(29)) <= 5


def test_a_film_that_is_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mkv", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = read(Film.at(path))
    pictures = [picture for picture in found if isinstance(picture, Picture)]
    assert 10 < len(pictures) < 60
    assert len(found) - len(pictures) <= 1


def test_a_size_that_changes_midway_is_followed(tmp_path: Path) -> None:
    first = write_film(tmp_path / "1.ts", 5, codec="mpeg2video", rate=25)
    second = write_film(tmp_path / "2.ts", 5, (96, 128), codec="mpeg2video", rate=25)
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
    sizes = [picture.size for picture in read(Film.at(tmp_path / "both.ts")) if isinstance(picture, Picture)]
    assert set(sizes) == {SIZE, (96, 128)}
    assert sizes == sorted(sizes)
    found = read(Film.at(tmp_path / "both.ts"), max_pixels=SIZE[0] * SIZE[1])
    assert {picture.size for picture in found if isinstance(picture, Picture)} == {SIZE}
    assert isinstance(found[-1], str), "the larger ones are refused"


def test_a_film_larger_than_allowed_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    (line,) = read(Film.at(write_film(tmp_path / "a.mp4")), max_pixels=SIZE[0] * SIZE[1] - 1)
    assert str(line).startswith(f"{tmp_path / 'a.mp4'} has 64 x 48 pixels")


HOSTILE = {
    "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nfile://{film}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{film}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 26\n",
    "text": "no film at all",
    "empty": "",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_film_or_leads_to_other_files_is_one_line(tmp_path: Path, kind: str) -> None:
    film = write_film(tmp_path / "secret.mp4")
    path = tmp_path / "a.mp4"
    path.write_text(HOSTILE[kind].format(film=film))
    (line,) = read(Film.at(path))
    assert str(line).startswith(f"{path} cannot be opened as a film: ")
    assert "\n" not in str(line)


def test_what_is_no_file_is_one_line_and_never_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    for name, said in (("fifo.mp4", "no regular file"), ("absent.mp4", "No such file"), ("a\0.mp4", "null")):
        (line,) = read(Film.at(tmp_path / name))
        assert said in str(line)


def test_sound_alone_is_no_film(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    assert read(Film.at(tmp_path / "a.avi")) == [f"{tmp_path / 'a.avi'} holds no film"]


def test_without_pyav_a_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_film(tmp_path / "a.mp4")
    importing = builtins.__import__

    def refuse(name: str, *arguments: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return importing(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert read(Film.at(path)) == [f"{path} is a film or stream, which needs PyAV: pip install 'dyzoo[video]'"]


@pytest.mark.parametrize("index", [-1, 987654])
def test_a_camera_that_is_not_there_is_one_line(index: int) -> None:
    (line,) = read(Camera.number(index))
    assert str(line).startswith(f"camera {index} ")
    assert "is not there" in str(line)


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        yield listening


def serve(listening: socket.socket, content: bytes, stays: threading.Event | None) -> threading.Thread:
    """Send the content to whoever comes; then hang up, or say no more until `stays` is set."""

    def run() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(content)
            if stays is not None:
                stays.wait(30)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("stalls", [False, True], ids=["ends", "stalls"])
def test_a_stream_gives_its_frames_until_it_ends_or_stalls(
    tmp_path: Path, server: socket.socket, stalls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "PATIENCE_S", 1.0)
    content = write_film(tmp_path / "a.ts", 60, codec="mpeg2video", rate=25).read_bytes()
    done = threading.Event()
    thread = serve(server, content, done if stalls else None)
    address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    found = read(Stream(address, "the stream"))
    done.set()
    thread.join(30)
    pictures = [picture for picture in found if isinstance(picture, Picture)]
    assert len(pictures) > 30
    assert {picture.source for picture in pictures} == {"the stream"}
    lines = [line for line in found if isinstance(line, str)]
    assert [("nothing came for 1 s" in line) for line in lines] == [True] * stalls


def test_a_server_that_never_answers_is_one_line(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "PATIENCE_S", 0.5)
    done = threading.Event()
    thread = serve(server, b"", done)
    (line,) = read(Stream(f"rtsp://127.0.0.1:{server.getsockname()[1]}/x", "the stream"))
    done.set()
    thread.join(30)
    assert line == "the stream cannot be opened as a film: nothing came for 0.5 s"


def test_a_playlist_of_a_stream_leads_to_no_file(tmp_path: Path, server: socket.socket) -> None:
    film = write_film(tmp_path / "secret.ts", codec="mpeg2video", rate=25)
    thread = serve(server, HOSTILE["playlist"].format(film=film).encode(), None)
    found = read(Stream(f"tcp://127.0.0.1:{server.getsockname()[1]}", "the stream"))
    thread.join(30)
    assert [isinstance(each, str) for each in found] == [True]
