"""Sources of frames: a film file, a stream of the network, a camera."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dyzoo.errors import ImageError, first_line
from dyzoo.files import open_regular
from dyzoo.images.finding import at_home
from dyzoo.images.sources.base import Pending, Reading, Source, failing
from dyzoo.images.sources.frames import count_frames, film_options, load_av, network_options, read_frames
from dyzoo.text import printable

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "tcp", "udp")
_PROTOCOLS = "rtsp,rtsps,rtp,srtp,rtmp,rtmps,tcp,udp,tls,crypto"


@dataclass(frozen=True)
class Film(Source):
    """A film file."""

    path: Path
    source: str
    is_many: ClassVar[bool] = True
    is_film: ClassVar[bool] = True

    @classmethod
    def at(cls, path: Path) -> Film:
        """The file under its own name."""
        return cls(path, printable(str(path)))

    def expected(self) -> int:
        """As many frames as its container says."""
        try:
            with open_regular(at_home(self.path)) as file:
                return max(1, count_frames(file, self.source, film_options()))
        except (ImageError, OSError, ValueError):
            return 1

    def open(self, reading: Reading) -> Iterator[Pending]:
        """Its frames."""
        try:
            file = open_regular(at_home(self.path))
        except (OSError, ValueError) as error:
            yield failing(f"{self.source} cannot be opened: {getattr(error, 'strerror', None) or first_line(error)}")
            return
        with file, closing(read_frames(file, self.source, reading, film_options())) as frames:  # type: ignore[type-var]
            yield from frames


@dataclass(frozen=True)
class Stream(Source):
    """A stream of the network, such as a camera's at `rtsp://`."""

    address: str
    source: str
    is_many: ClassVar[bool] = True
    is_film: ClassVar[bool] = True
    is_live: ClassVar[bool] = True

    def open(self, reading: Reading) -> Iterator[Pending]:
        """Its frames, from now on, until it ends or says nothing for a while."""
        options = network_options(_PROTOCOLS)
        if self.address.lower().startswith("rtsp"):
            options["rtsp_transport"] = "tcp"  # over UDP, which is the default, frames arrive in part
        return read_frames(self.address, self.source, reading, options)


@dataclass(frozen=True)
class Camera(Source):
    """A camera of this machine, by its index.

    PyAV opens it, as films: one library for all. OpenCV would count the cameras of Windows and macOS in the same way,
    but is a second decoder of many megabytes.
    """

    index: int
    source: str
    is_many: ClassVar[bool] = True
    is_film: ClassVar[bool] = True
    is_live: ClassVar[bool] = True

    @classmethod
    def number(cls, index: int) -> Camera:
        """The camera called `camera INDEX`."""
        return cls(index, f"camera {index}")

    def open(self, reading: Reading) -> Iterator[Pending]:
        """Its frames, from now on."""
        try:
            device, format = self._device()
        except ImageError as error:
            yield failing(str(error))
            return
        yield from read_frames(device, self.source, reading, {}, format)

    def _device(self) -> tuple[str, str]:
        """The names that FFmpeg has for the camera and for its system. Raises `ImageError`: it is not there."""
        absent = ImageError(f"{self.source} is not there")
        if self.index < 0:
            raise absent
        if sys.platform == "darwin":
            return str(self.index), "avfoundation"
        if sys.platform == "win32":
            names = _windows_cameras(self.source)
            if self.index >= len(names):
                raise absent
            return f"video={names[self.index]}", "dshow"
        path = Path(f"/dev/video{self.index}")
        if not path.is_char_device():
            raise ImageError(f"{absent} (no {path})")
        return str(path), "v4l2"


def _windows_cameras(name: str) -> list[str]:
    """Their names, in the order in which Windows counts them."""
    av = load_av(name)
    if not hasattr(av, "device"):
        raise ImageError(f"{name} needs a newer PyAV: pip install --upgrade av")
    return [device.name for device in av.device.enumerate_input_devices("dshow") if "video" in device.media_types]
