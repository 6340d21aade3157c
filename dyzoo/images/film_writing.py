"""A film written of pictures, by PyAV (FFmpeg)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from dyzoo.errors import first_line
from dyzoo.files import replacing
from dyzoo.images.sources.frames import load_av

if TYPE_CHECKING:
    from av.video.stream import VideoStream

FILM_SUFFIX = ".mp4"

# H.264 is what browsers and players show; MPEG-4 part 2 is in every build of FFmpeg.
_CODECS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "20"},
    "libopenh264": {"b": "8M"},
    "mpeg4": {"flags": "+qscale", "global_quality": str(3 * 118)},  # a quantiser of 3, in FFmpeg's lambda units
}
_TICKS = 60_000  # a second; MPEG-4 has room for no more than 65,535, and the usual frame rates divide it
_USUAL_STEP_S = 1 / 25
_SHORTEST_STEP_S, _LONGEST_STEP_S = 2 / _TICKS, 3600.0
_MPEG, _BT709 = 1, 1  # FFmpeg's numbers of the colours of most films


class FilmWriter:
    """An MP4 of H.264 (MPEG-4 part 2 where FFmpeg has no encoder), YUV 4:2:0, written aside until it is finished.

    A picture is shown when it was in the film it comes from, so that its frame rate stays, divided by the stride.

    Args:
        path: the file.

    Attributes:
        count: number of pictures in it; one of none is no film, and to be discarded.

    Raises:
        ImageError: PyAV is not installed.
        OSError: `path` cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self._av = load_av(str(path))
        self._stream: VideoStream | None = None
        self._shown_s: float | None = None  # on the film's own clock
        self._time_s: float | None = None
        self._step_s = _USUAL_STEP_S
        with ExitStack() as opening:
            aside = opening.enter_context(replacing(path))
            # FFmpeg would take a name with a colon for an address.
            file = opening.enter_context(aside.open("wb"))
            self._container = self._av.open(file, "w", format="mp4")
            self._aside = opening.pop_all()

    def add(self, picture: Image.Image, time_s: float | None) -> None:
        """Write a picture, RGB; the first one decides on the size, others are scaled and padded to it.

        Args:
            picture: of any size; one more row or column of pixels makes both sides even.
            time_s: when it is to be seen, counted from anywhere. Where that is unknown, or earlier than the picture
                before, the last distance in time is taken once more.

        Raises:
            OSError: it cannot be written.
        """
        with self._naming():
            if self._stream is None:
                self._stream = self._opened(picture)
            size = self._stream.width, self._stream.height
            frame = self._av.VideoFrame.from_image(_fitted(picture, size)).reformat(
                format="yuv420p", dst_colorspace=_BT709, dst_color_range=_MPEG
            )
            frame.pts, frame.time_base = self._next_ticks(time_s), Fraction(1, _TICKS)
            self._write(frame)
        self.count += 1

    def finish(self) -> None:
        """Write what is left, and give the file its name. Raises `OSError`: it cannot be written."""
        try:
            with self._naming():
                if self._stream is not None:
                    self._write(None)
                self._container.close()
        except BaseException:
            self.discard()
            raise
        self._aside.close()

    def discard(self) -> None:
        """Leave nothing."""
        with suppress(Exception):
            self._container.close()
        with suppress(_Discarded, OSError), self._aside:  # what a full disk has not taken is still in the buffer
            raise _Discarded

    def _opened(self, picture: Image.Image) -> VideoStream:
        codec = _codec(self._av)
        stream: VideoStream = self._container.add_stream(codec, rate=25, options=_CODECS[codec])
        stream.width, stream.height = (side + side % 2 for side in picture.size)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, _TICKS)
        context.color_range, context.colorspace = _MPEG, _BT709
        context.color_primaries = context.color_trc = _BT709
        return stream

    def _write(self, frame: Any) -> None:
        """Encode a frame; None: those that the encoder has kept."""
        assert self._stream is not None
        for packet in self._stream.encode(frame):
            packet.duration = round(self._step_s / packet.time_base)  # counts for the last one
            self._container.mux(packet)

    def _next_ticks(self, time_s: float | None) -> int:
        """The picture's place on the film's clock, later than that of the one before."""
        if self._shown_s is None:
            self._shown_s = 0.0
        else:
            if time_s is not None and self._time_s is not None:
                step_s = time_s - self._time_s
                if _SHORTEST_STEP_S <= step_s <= _LONGEST_STEP_S:
                    self._step_s = step_s
            self._shown_s += self._step_s
        self._time_s = time_s
        return round(self._shown_s * _TICKS)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Let what FFmpeg says be an `OSError` of the file."""
        try:
            yield
        except self._av.error.FFmpegError as error:
            why = getattr(error, "strerror", None) or first_line(error)
            raise OSError(getattr(error, "errno", None), why, str(self.path)) from None
        except OSError as error:
            error.filename = str(self.path)
            raise


class _Discarded(Exception):
    """Lets what is written aside go."""


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture of that (width, height): as it is but for an odd row or column, or else scaled to fit and padded."""
    if picture.size == size:
        return picture
    if all(0 <= whole - side <= 1 for whole, side in zip(size, picture.size, strict=True)):
        padded = Image.new("RGB", size)
        padded.paste(picture)
        return padded
    return ImageOps.pad(picture, size)


def _codec(av: Any) -> str:
    """The first of the encoders that this build of FFmpeg has."""
    for name in _CODECS:
        with suppress(ValueError):
            return str(av.Codec(name, "w").name)
    raise OSError(errno.ENOSYS, "this build of FFmpeg has no encoder for films")
